// map, select and reject, which apply other filters and tests.
#include "base/check.h"
#include "template/builtins.h"
#include "template/operators.h"
#include "template/writing.h"

namespace shadowkv::jinja {
namespace {

Arguments without_first(const Arguments& given, size_t count) {
  Arguments rest = given;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<std::ptrdiff_t>(count));
  return rest;
}

std::string name_at(const Input& in, size_t i, std::string_view what) {
  require(i < in.given.positional.size(), "{} is missing", what);
  const Value& name = in.given.positional[i];
  require(name.is_text(), "{} is {}", what, kind_of(name));
  return name.text().bytes;
}

Value map_attribute(const Input& in) {
  const Value *attribute = nullptr, *fallback = nullptr;
  for (const auto& [name, value] : in.given.named) {
    require(name == "attribute" || name == "default", "\"map\" has no such parameter");
    (name == "attribute" ? attribute : fallback) = &value;
  }
  std::vector<Value> found;
  for (const Value& value : items_of(in.self, in.budget)) {
    found.push_back(path(value, *attribute, in.budget, fallback));
  }
  return make_sequence(SequenceKind::iterator, std::move(found), in.budget);
}

bool names_attribute(const Arguments& given) {
  for (const auto& argument : given.named) {
    if (argument.first == "attribute") return given.positional.empty();
  }
  return false;
}

Value nothing(const Input& in) {
  return make_sequence(SequenceKind::iterator, {}, in.budget);
}

Value map(const Input& in) {
  if (!truth(in.self)) return nothing(in);
  if (names_attribute(in.given)) return map_attribute(in);
  const std::string filter = name_at(in, 0, "the filter that \"map\" applies");
  require(filter != "map", "\"map\" within \"map\" is not supported");
  const Arguments rest = without_first(in.given, 1);
  std::vector<Value> found;
  for (const Value& value : items_of(in.self, in.budget))
    found.push_back(apply_filter(filter, value, rest, in.budget));
  return make_sequence(SequenceKind::iterator, std::move(found), in.budget);
}

// Keeps the items of which the test says `wanted`; without a test, their own truth.
Value choose(const Input& in, bool by_attribute, bool wanted) {
  if (!truth(in.self)) return nothing(in);
  const size_t first = by_attribute ? 1 : 0;
  require(!by_attribute || !in.given.positional.empty(), "the attribute to choose by is missing");
  const bool has_test = in.given.positional.size() > first;
  const std::string test = has_test ? name_at(in, first, "the test to choose by") : "";
  const Arguments rest = has_test ? without_first(in.given, first + 1) : Arguments{};
  std::vector<Value> found;
  for (const Value& value : items_of(in.self, in.budget)) {
    const Value part = by_attribute ? path(value, in.given.positional[0], in.budget) : value;
    const bool holds = has_test ? apply_test(test, part, rest, in.budget) : truth(part);
    if (holds == wanted) found.push_back(value);
  }
  return make_sequence(SequenceKind::iterator, std::move(found), in.budget);
}

constexpr Builtin kFilters[] = {
    {"map", kAnyArguments, 0, map},
    {"select", kAnyArguments, 0, [](const Input& in) { return choose(in, false, true); }},
    {"reject", kAnyArguments, 0, [](const Input& in) { return choose(in, false, false); }},
    {"selectattr", kAnyArguments, 0, [](const Input& in) { return choose(in, true, true); }},
    {"rejectattr", kAnyArguments, 0, [](const Input& in) { return choose(in, true, false); }},
};

}  // namespace

std::span<const Builtin> choosing_filters() {
  return kFilters;
}

}  // namespace shadowkv::jinja
