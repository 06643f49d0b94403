// Fields of a request's JSON object, each with its type and range. What is null counts as absent.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace shadowkv {

struct WholeRange {
  int64_t low = INT64_MIN;
  int64_t high = INT64_MAX;
};
struct NumberRange {
  double low = 0;
  double high = 0;
};

// Throws ApiError (400, naming the field) for another type or what is out of range. `prefix` stands before
// the names in messages.
class JsonFields {
 public:
  // object must outlive this; throws ApiError where it is none.
  explicit JsonFields(const nlohmann::ordered_json& object, std::string prefix = {});

  [[nodiscard]] const nlohmann::ordered_json* find(const char* name) const;  // null where absent
  [[nodiscard]] std::optional<int64_t> whole(const char* name, const WholeRange& range) const;
  [[nodiscard]] std::optional<double> number(const char* name, const NumberRange& range) const;
  [[nodiscard]] std::optional<bool> boolean(const char* name) const;
  [[nodiscard]] std::optional<std::string> text(const char* name) const;
  // The field's name as a client knows it.
  [[nodiscard]] std::string name_of(const char* name) const { return prefix_ + name; }

 private:
  const nlohmann::ordered_json& object_;
  std::string prefix_;
};

}  // namespace shadowkv
