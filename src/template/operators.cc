#include "template/operators.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace shadowkv::jinja {
namespace {

[[noreturn]] void fail_operands(std::string_view symbol, const Value& a, const Value& b) {
  require_defined(a);
  require_defined(b);
  throw InvalidInput(fmt::format("\"{}\" is not defined for {} and {}", symbol, kind_of(a), kind_of(b)));
}

void check_range(bool overflows) {
  require(!overflows, "a whole number leaves 64 bits");
}

int64_t floor_divide(int64_t a, int64_t b) {
  check_range(a == INT64_MIN && b == -1);
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

int64_t modulo(int64_t a, int64_t b) {
  if (b == -1) return 0;
  const int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

double modulo(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  return (rest < 0) != (b < 0) ? rest + b : rest;
}

double floor_divide(double a, double b) {
  const double quotient = (a - modulo(a, b)) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

Value power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    require(base != 0, "zero is raised to a negative power");
    return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  }
  int64_t result = 1;
  if (base == 1 || base == 0) exponent = std::min<int64_t>(exponent, 1);
  if (base == -1) exponent = exponent % 2;
  for (; exponent > 0; --exponent) {
    check_range(__builtin_mul_overflow(result, base, &result));
  }
  return result;
}

Value power(double base, double exponent) {
  require(base >= 0 || exponent == std::floor(exponent), "a negative number is raised to a fraction");
  require(base != 0 || exponent >= 0, "zero is raised to a negative power");
  return std::pow(base, exponent);
}

Value of_integers(std::string_view symbol, int64_t a, int64_t b) {
  if (symbol == "+" || symbol == "-" || symbol == "*") {
    int64_t result = 0;
    check_range(symbol == "+"   ? __builtin_add_overflow(a, b, &result)
                : symbol == "-" ? __builtin_sub_overflow(a, b, &result)
                                : __builtin_mul_overflow(a, b, &result));
    return result;
  }
  if (symbol == "**") return power(a, b);
  require(b != 0, "something is divided by zero");
  if (symbol == "/") return static_cast<double>(a) / static_cast<double>(b);
  return symbol == "//" ? floor_divide(a, b) : modulo(a, b);
}

Value of_reals(std::string_view symbol, double a, double b) {
  if (symbol == "+") return a + b;
  if (symbol == "-") return a - b;
  if (symbol == "*") return a * b;
  if (symbol == "**") return power(a, b);
  require(b != 0, "something is divided by zero");
  if (symbol == "/") return a / b;
  return symbol == "//" ? floor_divide(a, b) : modulo(a, b);
}

bool is_plain(const Value& value) {
  return value.is_sequence() && value.sequence().kind <= SequenceKind::tuple;
}

Value add_sequences(const Sequence& a, const Sequence& b, Budget& budget) {
  budget.take(static_cast<int64_t>((a.items.size() + b.items.size()) * sizeof(Value)));
  std::vector<Value> items = a.items;
  items.insert(items.end(), b.items.begin(), b.items.end());
  return make_sequence(a.kind, std::move(items), budget);
}

Value repeat(const Value& value, int64_t count, Budget& budget) {
  if (value.is_text()) return TextBuilder(budget).repeat(value.text(), count).finish();
  const Sequence& sequence = value.sequence();
  std::vector<Value> items;
  for (int64_t i = 0; i < count && !sequence.items.empty(); ++i) {
    budget.take(static_cast<int64_t>(sequence.items.size() * sizeof(Value)));
    items.insert(items.end(), sequence.items.begin(), sequence.items.end());
  }
  return make_sequence(sequence.kind, std::move(items), budget);
}

}  // namespace

Value binary(std::string_view symbol, const Value& a, const Value& b, Budget& budget) {
  if (a.is_whole() && b.is_whole()) return of_integers(symbol, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return of_reals(symbol, a.real(), b.real());
  if (symbol == "+" && a.is_text() && b.is_text()) {
    return TextBuilder(budget).add(a.text()).add(b.text()).finish();
  }
  if (symbol == "+" && is_plain(a) && is_plain(b) && a.sequence().kind == b.sequence().kind) {
    return add_sequences(a.sequence(), b.sequence(), budget);
  }
  if (symbol == "*" && (a.is_text() || is_plain(a)) && b.is_whole()) return repeat(a, b.integer(), budget);
  if (symbol == "*" && (b.is_text() || is_plain(b)) && a.is_whole()) return repeat(b, a.integer(), budget);
  if (symbol == "%" && a.is_text()) return percent_format(a.text(), b, budget);
  fail_operands(symbol, a, b);
}

Value negative(const Value& value) {
  require_defined(value);
  require(value.is_number(), "{} has no negative", kind_of(value));
  if (value.is_real()) return -value.real();
  check_range(value.integer() == INT64_MIN);
  return -value.integer();
}

bool compare(std::string_view symbol, const Value& a, const Value& b, Budget& budget) {
  if (symbol == "==") return equal(a, b, budget);
  if (symbol == "!=") return !equal(a, b, budget);
  if (symbol == "in") return contains(b, a, budget);
  if (symbol == "not in") return !contains(b, a, budget);
  if (symbol == "<") return less(a, b, budget);
  if (symbol == ">") return less(b, a, budget);
  if (symbol == "<=") return less(a, b, budget) || equal(a, b, budget);
  return less(b, a, budget) || equal(a, b, budget);
}

}  // namespace shadowkv::jinja
