#include "formats/json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "formats/mapped_file.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

using Json = nlohmann::json;

// "line 3, column 7" of the byte at `offset`, both from 1.
std::string place_of(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const std::size_t newline = before.rfind('\n');
  const std::size_t column = newline == std::string_view::npos ? before.size() + 1 : before.size() - newline;
  return fmt::format("line {}, column {}", line, column);
}

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
          fmt::format("{}: {}: values are nested more than {} deep", name, place_of(text, i), most));
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

// Follows the parser through an object and refuses a key that was there before.
class UniqueKeys {
 public:
  explicit UniqueKeys(std::string_view name) : name_(name) {}

  bool operator()(int /*depth*/, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) open_.emplace_back();
    if (event == Json::parse_event_t::object_end) open_.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      require(open_.back().insert(key).second, "{}: the key {} appears twice", name_, in_quotes(key));
    }
    return true;
  }

 private:
  std::string_view name_;
  std::vector<std::set<std::string>> open_;  // keys of the objects that are open, outermost first
};

Json parse(std::string_view text, std::string_view name, const JsonLimits& limits) {
  if (!limits.unique_keys) return Json::parse(text);
  return Json::parse(text, UniqueKeys(name));
}

}  // namespace

nlohmann::json parse_json(std::string_view text, std::string_view name, const JsonLimits& limits) {
  require(static_cast<int64_t>(text.size()) <= limits.bytes, "{} holds {} of JSON, at most {} are supported",
          name, format_bytes(static_cast<int64_t>(text.size())), format_bytes(limits.bytes));
  check_depth(text, name, limits.depth);
  try {
    return parse(text, name, limits);
  } catch (const Json::parse_error& error) {
    const std::size_t offset = error.byte > 0 ? error.byte - 1 : 0;
    throw InvalidInput(
        fmt::format("{}: {}: this is not JSON ({})", name, place_of(text, offset), error.what()));
  } catch (const Json::exception& error) {
    throw InvalidInput(fmt::format("{}: this JSON cannot be used ({})", name, error.what()));
  }
}

nlohmann::json read_json_file(const std::filesystem::path& path, const JsonLimits& limits) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string(), limits);
}

}  // namespace shadowkv
