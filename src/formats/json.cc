#include "formats/json.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/check.h"
#include "formats/json_builder.h"
#include "formats/mapped_file.h"

namespace shadowkv {
namespace {

// Large vocabularies have 2 million values, in memory some 50 bytes each.
constexpr int64_t kMostFileValues = int64_t{3} << 20;
constexpr int64_t kMostFileTextBytes = int64_t{16} << 20;

// What a text would become is counted on it, before the parser builds anything.
class Counts {
 public:
  Counts(std::string_view text, std::string_view name, const JsonLimits& limits)
      : text_(text), name_(name), limits_(limits) {}

  void check() {
    for (std::size_t i = 0; i < text_.size(); ++i) {
      const char c = text_[i];
      if (c == '"') i = end_of_text(i);
      if (c == '[' || c == '{') ++depth_;
      if (c == ']' || c == '}') --depth_;
      // Every value but the first of its container follows a comma.
      if (c == '[' || c == '{' || c == ',') ++values_;
      if (depth_ > limits_.depth) refuse(i, "values are nested more than {} deep", limits_.depth);
      if (values_ > limits_.values) refuse(i, "more than {} values are not supported", limits_.values);
    }
  }

 private:
  [[nodiscard]] std::size_t end_of_text(std::size_t begin) const {
    const std::size_t most = static_cast<std::size_t>(limits_.text_bytes);
    for (std::size_t i = begin + 1; i < text_.size(); ++i) {
      if (text_[i] == '"') return i;
      if (text_[i] == '\\') ++i;
      if (i - begin > most)
        refuse(begin, "texts of more than {} bytes are not supported", limits_.text_bytes);
    }
    return text_.size();
  }
  // Saying where costs a walk over the text.
  [[noreturn]] void refuse(std::size_t at, std::string_view what, int64_t most) const {
    throw InvalidInput(
        fmt::format("{}: {}: {}", name_, place_in(text_, at), fmt::format(fmt::runtime(what), most)));
  }

  std::string_view text_, name_;
  const JsonLimits& limits_;
  int64_t depth_ = 0, values_ = 0;
};

template <typename Json>
std::unique_ptr<Json, JsonRelease> parse(std::string_view text, std::string_view name,
                                         const JsonLimits& limits) {
  require(static_cast<int64_t>(text.size()) <= limits.bytes, "{} holds {} of JSON, at most {} are supported",
          name, format_bytes(static_cast<int64_t>(text.size())), format_bytes(limits.bytes));
  Counts(text, name, limits).check();
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
  JsonLimits of_files = limits;
  of_files.values = std::min(limits.values, kMostFileValues);
  of_files.text_bytes = std::min(limits.text_bytes, kMostFileTextBytes);
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string(), of_files);
}

std::string json_text(const nlohmann::json& value) {
  return value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

std::string json_text(const nlohmann::ordered_json& value) {
  return value.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace shadowkv
