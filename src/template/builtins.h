// Filters, tests, methods and functions: tables of what templates can name.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "template/value.h"

namespace shadowkv::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

inline constexpr size_t kMaxParameters = 5;

// What a builtin is called with.
struct Input {
  Budget& budget;
  const Value& self;  // what a filter, test or method is applied to
  const Arguments& given;
  std::array<const Value*, kMaxParameters> bound = {};  // by parameter; nullptr: not given

  [[nodiscard]] bool has(size_t i) const { return bound[i] != nullptr; }
  [[nodiscard]] const Value& at(size_t i) const {
    return *bound[i];
  }  // only of one that is required or given
  // Python's view of an argument; throw InvalidInput for one of another kind.
  [[nodiscard]] Text text_at(size_t i, std::string_view fallback) const;  // as str() gives it
  [[nodiscard]] const Text& exact_text_at(size_t i) const;
  [[nodiscard]] int64_t integer_at(size_t i, int64_t fallback) const;
  [[nodiscard]] bool truth_at(size_t i, bool fallback) const;
  [[nodiscard]] bool is_absent(size_t i) const { return !has(i) || at(i).is_none(); }
};

struct Builtin {
  std::string_view name;
  std::array<std::string_view, kMaxParameters> parameters;  // empty names end them
  size_t required;                                          // of the first ones
  Value (*run)(const Input& input);
};
// Of a builtin that reads Input::given itself.
inline constexpr std::array<std::string_view, kMaxParameters> kAnyArguments = {"*"};

// Binds the arguments and runs; throws InvalidInput for arguments that fit no parameter.
[[nodiscard]] Value run_builtin(const Builtin& builtin, const Value& self, const Arguments& given,
                                Budget& budget);

// nullptr where there is none of that name.
[[nodiscard]] const Builtin* find_filter(std::string_view name);
[[nodiscard]] const Builtin* find_test(std::string_view name);
[[nodiscard]] const Builtin* find_function(std::string_view name);
[[nodiscard]] const Builtin* find_method(const Value& self, std::string_view name);
[[nodiscard]] const Builtin* find_text_method(std::string_view name);

// Throw InvalidInput for names that are not known.
[[nodiscard]] Value apply_filter(std::string_view name, const Value& self, const Arguments& given,
                                 Budget& budget);
[[nodiscard]] bool apply_test(std::string_view name, const Value& self, const Arguments& given,
                              Budget& budget);

[[nodiscard]] std::span<const Builtin> text_filters();
[[nodiscard]] std::span<const Builtin> sequence_filters();
[[nodiscard]] std::span<const Builtin> choosing_filters();
[[nodiscard]] std::span<const Builtin> number_filters();
[[nodiscard]] std::span<const Builtin> text_methods();
[[nodiscard]] std::span<const Builtin> text_questions();

}  // namespace shadowkv::jinja
