#include "formats/json.h"

#include "base/bytes.h"
#include "base/check.h"
#include "formats/json_builder.h"
#include "formats/mapped_file.h"

namespace shadowkv {
namespace {

// Depth is counted on the text, before the parser builds anything.
void check_depth(std::string_view text, std::string_view name, int64_t most) {
  int64_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth <= most) continue;  // saying where costs a walk over the text
      throw InvalidInput(
          fmt::format("{}: {}: values are nested more than {} deep", name, place_in(text, i), most));
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

template <typename Json>
std::unique_ptr<Json, JsonRelease> parse(std::string_view text, std::string_view name,
                                         const JsonLimits& limits) {
  require(static_cast<int64_t>(text.size()) <= limits.bytes, "{} holds {} of JSON, at most {} are supported",
          name, format_bytes(static_cast<int64_t>(text.size())), format_bytes(limits.bytes));
  check_depth(text, name, limits.depth);
  std::unique_ptr<Json, JsonRelease> document(new Json());
  JsonBuilder<Json> builder(*document, text, name, limits.unique_keys);
  Json::sax_parse(text, &builder);
  return document;
}

}  // namespace

void JsonRelease::operator()(nlohmann::json* root) const noexcept {
  empty_json(*root);
  delete root;
}

void JsonRelease::operator()(nlohmann::ordered_json* root) const noexcept {
  empty_json(*root);
  delete root;
}

JsonDocument parse_json(std::string_view text, std::string_view name, const JsonLimits& limits) {
  return parse<nlohmann::json>(text, name, limits);
}

OrderedJsonDocument parse_ordered_json(std::string_view text, std::string_view name,
                                       const JsonLimits& limits) {
  return parse<nlohmann::ordered_json>(text, name, limits);
}

JsonDocument read_json_file(const std::filesystem::path& path, const JsonLimits& limits) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string(), limits);
}

std::string json_text(const nlohmann::json& value) {
  return value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

std::string json_text(const nlohmann::ordered_json& value) {
  return value.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace shadowkv
