// Fields of a tokenizer.json, checked for their type.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/check.h"
#include "formats/quote.h"

namespace shadowkv {

using Json = nlohmann::json;

// A value and the words that name it in messages: "tokenizer.json: the pre_tokenizer".
struct JsonPart {
  const Json& value;
  std::string name;
};

// nullptr where the key is absent or null.
inline const Json* find_field(const JsonPart& part, std::string_view key) {
  require(part.value.is_object(), "{} is not an object", part.name);
  const auto found = part.value.find(key);
  return found == part.value.end() || found->is_null() ? nullptr : &*found;
}

inline JsonPart get_field(const JsonPart& part, std::string_view key) {
  const Json* value = find_field(part, key);
  require(value != nullptr, "{} has no '{}'", part.name, printable(key));
  return {*value, fmt::format("'{}' of {}", printable(key), part.name)};
}

inline const Json& get_array(const JsonPart& part) {
  require(part.value.is_array(), "{} is not an array", part.name);
  return part.value;
}

inline const std::string& get_string(const JsonPart& part) {
  require(part.value.is_string(), "{} is not a string", part.name);
  return part.value.get_ref<const std::string&>();
}

inline int64_t get_integer(const JsonPart& part) {
  const bool fits = part.value.is_number_integer() &&
                    (!part.value.is_number_unsigned() || part.value.get<uint64_t>() <= uint64_t{INT64_MAX});
  require(fits, "{} is not an integer below 2^63", part.name);
  return part.value.get<int64_t>();
}

inline bool get_bool(const JsonPart& part) {
  require(part.value.is_boolean(), "{} is neither true nor false", part.name);
  return part.value.get<bool>();
}

inline bool get_bool_or(const JsonPart& part, const char* key, bool fallback) {
  return find_field(part, key) ? get_bool(get_field(part, key)) : fallback;
}

}  // namespace shadowkv
