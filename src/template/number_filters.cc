// Filters that give numbers, and those that give their value or another.
#include <cmath>

#include "base/check.h"
#include "template/builtins.h"
#include "template/literal.h"
#include "template/operators.h"

namespace shadowkv::jinja {
namespace {

// A number's text without the white space and sign around it.
struct Signed {
  std::string_view digits;
  bool negative;
};

Signed unsigned_part(const Text& text) {
  const TextPart stripped = strip(whole(text), Ends::both, std::nullopt);
  std::string_view digits = stripped.bytes();
  const bool has_sign = !digits.empty() && (digits[0] == '-' || digits[0] == '+');
  const bool negative = has_sign && digits[0] == '-';
  if (has_sign) digits.remove_prefix(1);
  return {digits, negative};
}

std::optional<int64_t> parse_integer(const Text& text) {
  const auto [digits, negative] = unsigned_part(text);
  const bool decimal = !digits.empty() && digits.find_first_not_of("0123456789_") == std::string_view::npos &&
                       digits.front() != '_' && digits.back() != '_' &&
                       digits.find("__") == std::string_view::npos;
  if (!decimal) return std::nullopt;
  const std::optional<int64_t> value = integer_value(digits);
  require(value.has_value(), "a whole number leaves 64 bits");
  return negative ? -*value : *value;
}

// What float() reads of a text; its names for what is no finite number are left out.
std::optional<double> parse_real(const Text& text) {
  const auto [digits, negative] = unsigned_part(text);
  const bool starts = !digits.empty() && (digits[0] == '.' || (digits[0] >= '0' && digits[0] <= '9'));
  const std::optional<double> value = starts ? real_value(digits) : std::nullopt;
  if (!value) return std::nullopt;
  return negative ? -*value : *value;
}

std::optional<double> number_of(const Value& value) {
  if (value.is_number()) return value.real();
  return value.is_text() ? parse_real(value.text()) : std::nullopt;
}

Value to_integer(const Input& in) {
  require_defined(in.self);
  require(in.integer_at(1, 10) == 10, "\"int\" by another base than ten is not supported");
  if (in.self.is_whole()) return in.self.integer();
  if (in.self.is_text()) {
    if (const auto value = parse_integer(in.self.text())) return *value;
  }
  const std::optional<double> real = number_of(in.self);
  if (!real || !std::isfinite(*real)) return in.has(0) ? in.at(0) : Value(int64_t{0});
  require(std::fabs(*real) < 9e18, "a whole number leaves 64 bits");
  return static_cast<int64_t>(*real);
}

Value to_real(const Input& in) {
  require_defined(in.self);
  if (const std::optional<double> real = number_of(in.self)) return *real;
  return in.has(0) ? in.at(0) : Value(0.0);
}

Value absolute(const Input& in) {
  require(in.self.is_number(), "{} has no absolute value", kind_of(in.self));
  if (in.self.is_whole()) return in.self.integer() < 0 ? negative(in.self) : Value(in.self.integer());
  return std::fabs(in.self.real());
}

// To the nearest, halves to even, as the number's exact decimal value says.
double round_to(double value, int64_t digits) {
  const std::string text = fmt::format("{:.{}f}", value, digits);
  return real_value(text[0] == '-' ? std::string_view(text).substr(1) : text).value_or(0) *
         (value < 0 ? -1 : 1);
}

Value round(const Input& in) {
  require(in.self.is_number(), "{} is rounded", kind_of(in.self));
  const int64_t digits = in.integer_at(0, 0);
  require(digits >= 0 && digits <= 100, "a number is rounded to {} digits; 0 to 100 are supported", digits);
  const std::string method = in.has(1) ? in.exact_text_at(1).bytes : "common";
  require(method == "common" || method == "ceil" || method == "floor",
          "a number is rounded by an unknown method");
  if (method == "common") {
    if (in.self.is_whole()) return in.self.integer();
    return std::isfinite(in.self.real()) ? round_to(in.self.real(), digits) : in.self.real();
  }
  const double scale = std::pow(10.0, static_cast<double>(digits));
  const double scaled = in.self.real() * scale;
  return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale;
}

Value fall_back(const Input& in) {
  const bool replaced = in.self.is_undefined() || (in.truth_at(1, false) && !truth(in.self));
  if (!replaced) return in.self;
  return in.has(0) ? in.at(0) : Value::text("");
}

Value attribute_filter(const Input& in) {
  const Text& name = in.exact_text_at(0);
  if (in.self.is_dict() && find_method(in.self, name.bytes) == nullptr) return Value::undefined(name.bytes);
  return attribute(in.self, name.bytes, in.budget);
}

constexpr Builtin kFilters[] = {
    {"int", {"default", "base"}, 0, to_integer},
    {"float", {"default"}, 0, to_real},
    {"abs", {}, 0, absolute},
    {"round", {"precision", "method"}, 0, round},
    {"default", {"default_value", "boolean"}, 0, fall_back},
    {"d", {"default_value", "boolean"}, 0, fall_back},
    {"attr", {"name"}, 1, attribute_filter},
};

}  // namespace

std::span<const Builtin> number_filters() {
  return kFilters;
}

}  // namespace shadowkv::jinja
