// What stands after "is".
#include <algorithm>

#include "base/check.h"
#include "template/builtins.h"
#include "template/operators.h"
#include "template/writing.h"

namespace shadowkv::jinja {
namespace {

bool has_rest(const Input& in, const Value& divisor, int64_t rest) {
  return equal(binary("%", in.self, divisor, in.budget), rest, in.budget);
}

template <bool wanted>
Value is_odd(const Input& in) {
  return has_rest(in, int64_t{2}, wanted ? 1 : 0);
}

// Whether a table has what a text names.
template <const Builtin* (*find)(std::string_view)>
Value is_name(const Input& in) {
  const bool is_list = in.self.is_sequence() && in.self.sequence().kind != SequenceKind::tuple;
  require(!in.self.is_dict() && !is_list, "{} is asked for as a name", kind_of(in.self));
  return in.self.is_text() && find(in.self.text().bytes) != nullptr;
}

// Python's str.islower and isupper: no letter of the other case, one of this at least.
bool is_in_case(const Value& value, Case wanted, Budget& budget) {
  const Case other = wanted == Case::lower ? Case::upper : Case::lower;
  const Text text = to_text(value, budget);
  const Text same = change_case(text, wanted, budget), opposite = change_case(text, other, budget);
  return same.bytes == text.bytes && opposite.bytes != text.bytes;
}

bool is_iterable(const Value& value) {
  return value.is_undefined() || value.is_text() || value.is_sequence() || value.is_dict() || value.is_loop();
}

bool has_items_by_place(const Value& value) {
  if (value.is_sequence()) return value.sequence().kind <= SequenceKind::range;
  return value.is_text() || value.is_dict();
}

template <bool (Value::*question)() const>
Value ask(const Input& in) {
  return (in.self.*question)();
}

template <char first, char second>
Value ordered(const Input& in) {
  constexpr char kSymbol[] = {first, second, '\0'};
  return compare(kSymbol, in.self, in.at(0), in.budget);
}

Value is_true(const Input& in) {
  return in.self.is_bool() && in.self.boolean();
}
Value is_false(const Input& in) {
  return in.self.is_bool() && !in.self.boolean();
}

Value divisible(const Input& in) {
  return has_rest(in, in.at(0), 0);
}

constexpr Builtin kTests[] = {
    {"defined", {}, 0, [](const Input& in) { return Value(!in.self.is_undefined()); }},
    {"undefined", {}, 0, ask<&Value::is_undefined>},
    {"none", {}, 0, ask<&Value::is_none>},
    {"boolean", {}, 0, ask<&Value::is_bool>},
    {"true", {}, 0, is_true},
    {"false", {}, 0, is_false},
    {"integer", {}, 0, ask<&Value::is_integer>},
    {"float", {}, 0, ask<&Value::is_real>},
    {"number", {}, 0, ask<&Value::is_number>},
    {"string", {}, 0, ask<&Value::is_text>},
    {"mapping", {}, 0, ask<&Value::is_dict>},
    {"iterable", {}, 0, [](const Input& in) { return Value(is_iterable(in.self)); }},
    {"sequence",
     {},
     0,
     [](const Input& in) { return Value(in.self.is_undefined() || has_items_by_place(in.self)); }},
    {"callable",
     {},
     0,
     [](const Input& in) { return Value(in.self.is_function() || in.self.is_undefined()); }},
    {"lower", {}, 0, [](const Input& in) { return Value(is_in_case(in.self, Case::lower, in.budget)); }},
    {"upper", {}, 0, [](const Input& in) { return Value(is_in_case(in.self, Case::upper, in.budget)); }},
    {"odd", {}, 0, is_odd<true>},
    {"even", {}, 0, is_odd<false>},
    {"divisibleby", {"num"}, 1, divisible},
    {"sameas", {"other"}, 1, [](const Input& in) { return Value(in.self.same_as(in.at(0))); }},
    {"in", {"seq"}, 1, [](const Input& in) { return Value(contains(in.at(0), in.self, in.budget)); }},
    {"eq", {"b"}, 1, ordered<'=', '='>},
    {"equalto", {"b"}, 1, ordered<'=', '='>},
    {"==", {"b"}, 1, ordered<'=', '='>},
    {"ne", {"b"}, 1, ordered<'!', '='>},
    {"!=", {"b"}, 1, ordered<'!', '='>},
    {"lt", {"b"}, 1, ordered<'<', '\0'>},
    {"lessthan", {"b"}, 1, ordered<'<', '\0'>},
    {"<", {"b"}, 1, ordered<'<', '\0'>},
    {"le", {"b"}, 1, ordered<'<', '='>},
    {"<=", {"b"}, 1, ordered<'<', '='>},
    {"gt", {"b"}, 1, ordered<'>', '\0'>},
    {"greaterthan", {"b"}, 1, ordered<'>', '\0'>},
    {">", {"b"}, 1, ordered<'>', '\0'>},
    {"ge", {"b"}, 1, ordered<'>', '='>},
    {">=", {"b"}, 1, ordered<'>', '='>},
    {"filter", {}, 0, is_name<find_filter>},
    {"test", {}, 0, is_name<find_test>},
};

}  // namespace

const Builtin* find_test(std::string_view name) {
  const auto* found = std::ranges::find_if(kTests, [&](const Builtin& test) { return test.name == name; });
  return found == std::end(kTests) ? nullptr : found;
}

}  // namespace shadowkv::jinja
