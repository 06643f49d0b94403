#include "server/json_fields.h"

#include <fmt/format.h>

#include "formats/json.h"
#include "server/api_error.h"

namespace shadowkv {
namespace {

constexpr std::size_t kMostShown = 60;  // bytes of a value in a message

std::string shown(const nlohmann::ordered_json& value) {
  std::string text = json_text(value);
  if (text.size() > kMostShown) text = text.substr(0, kMostShown) + "...";
  return text;
}

[[noreturn]] void wrong_type(const std::string& name, const nlohmann::ordered_json& value,
                             const char* wanted) {
  throw bad_request(fmt::format("{} = {} must be {}", name, shown(value), wanted), name, "invalid_type");
}

template <typename T>
[[noreturn]] void out_of_range(const std::string& name, T value, T low, T high) {
  throw bad_request(fmt::format("{} = {} is out of range; it must be from {} to {}", name, value, low, high),
                    name, "invalid_value");
}

}  // namespace

JsonFields::JsonFields(const nlohmann::ordered_json& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)) {
  if (object.is_object()) return;
  const std::string name = prefix_.empty() ? "the request" : prefix_.substr(0, prefix_.size() - 1);
  throw bad_request(fmt::format("{} = {} must be an object", name, shown(object)), name, "invalid_type");
}

const nlohmann::ordered_json* JsonFields::find(const char* name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<int64_t> JsonFields::whole(const char* name, const WholeRange& range) const {
  const nlohmann::ordered_json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const bool is_huge = value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX;
  if (!value->is_number_integer() || is_huge) wrong_type(name_of(name), *value, "a whole number");
  const auto number = value->get<int64_t>();
  if (number < range.low || number > range.high) out_of_range(name_of(name), number, range.low, range.high);
  return number;
}

std::optional<double> JsonFields::number(const char* name, const NumberRange& range) const {
  const nlohmann::ordered_json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) wrong_type(name_of(name), *value, "a number");
  const auto number = value->get<double>();
  if (!(number >= range.low && number <= range.high)) {
    out_of_range(name_of(name), number, range.low, range.high);
  }
  return number;
}

std::optional<bool> JsonFields::boolean(const char* name) const {
  const nlohmann::ordered_json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) wrong_type(name_of(name), *value, "true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonFields::text(const char* name) const {
  const nlohmann::ordered_json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) wrong_type(name_of(name), *value, "a string");
  return value->get<std::string>();
}

}  // namespace shadowkv
