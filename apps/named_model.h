// --model as users give it: a path, or a model's name on a hub.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "shadowkv/hub.h"

namespace shadowkv::apps {

// Fetches what the cache lacks, with progress on stderr; Ctrl-C stops it. `given` stands for it in messages.
[[nodiscard]] HubFiles fetch_named(const HubModel& model, const std::string& given);

// The name that `given` is; nothing for a path that exists, and for what has not the form of one.
[[nodiscard]] std::optional<HubModel> name_in(const std::filesystem::path& given);

// A path that exists is taken as it is. What does not exist and has the form of a name is fetched. Throws
// InvalidInput for all else, and as fetch_model() does.
[[nodiscard]] std::filesystem::path local_model(const std::filesystem::path& given);

// What the environment says about names, for --help.
extern const char* const kHubVariables;

}  // namespace shadowkv::apps
