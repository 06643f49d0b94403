// JSON from files that nobody vouches for: bounded in size and depth, refused with the place of the mistake.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace shadowkv {

struct JsonLimits {
  int64_t bytes = int64_t{64} << 20;
  int64_t depth = 64;              // objects and arrays within each other
  int64_t values = INT64_MAX;      // of all kinds, containers among them
  int64_t text_bytes = INT64_MAX;  // of one text, as it is spelled
  bool unique_keys = false;        // refuse an object that names a key twice; else the last one counts
};

// Empties a value from its leaves upwards. The library's own destructor first makes a list of all there is
// below a value: where memory has ended it cannot, and ends the program.
struct JsonRelease {
  void operator()(nlohmann::json* root) const noexcept;
  void operator()(nlohmann::ordered_json* root) const noexcept;
};
using JsonDocument = std::unique_ptr<nlohmann::json, JsonRelease>;  // never null
// Members of objects in the order of the text. Looking one up takes as long as there are members.
using OrderedJsonDocument = std::unique_ptr<nlohmann::ordered_json, JsonRelease>;  // never null

// `name` stands for the text in messages. Throws InvalidInput "name: line 3, column 7: ..." for what is not
// one JSON value within the limits.
[[nodiscard]] JsonDocument parse_json(std::string_view text, std::string_view name,
                                      const JsonLimits& limits = {});
[[nodiscard]] OrderedJsonDocument parse_ordered_json(std::string_view text, std::string_view name,
                                                     const JsonLimits& limits = {});
// Files may hold no more values, and no longer texts, than any file of models does by far.
[[nodiscard]] JsonDocument read_json_file(const std::filesystem::path& path, const JsonLimits& limits = {});

// The value as ASCII text on one line, for messages.
[[nodiscard]] std::string json_text(const nlohmann::json& value);
[[nodiscard]] std::string json_text(const nlohmann::ordered_json& value);

}  // namespace shadowkv
