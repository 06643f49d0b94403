// What the program reports, as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "divergence.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

using Json = nlohmann::ordered_json;

[[nodiscard]] Json to_json(const AttentionConfig& config);  // every option by name
[[nodiscard]] Json to_json(const ModelInfo& model);
[[nodiscard]] Json to_json(const LinkBytes& link);
[[nodiscard]] Json to_json(const SessionStatistics& statistics);
[[nodiscard]] Json to_json(const EngineMemory& memory);
[[nodiscard]] Json to_json(const DivergenceSummary& summary);
[[nodiscard]] Json footprint_json(const SequenceFootprint& footprint);  // bytes by tier

// One line; bytes that are not UTF-8 become U+FFFD.
[[nodiscard]] std::string dump(const Json& json);
void print_json(const Json& json);

// a / b, or null where b is 0.
[[nodiscard]] Json ratio_json(double a, double b);

}  // namespace shadowkv::apps
