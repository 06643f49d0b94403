#include "template/builtins.h"

#include <algorithm>

#include "base/check.h"
#include "formats/quote.h"
#include "template/writing.h"

namespace shadowkv::jinja {
namespace {

size_t parameter_of(const Builtin& builtin, std::string_view name) {
  const auto found = std::find(builtin.parameters.begin(), builtin.parameters.end(), name);
  require(found != builtin.parameters.end() && !name.empty(), "\"{}\" has no parameter {}", builtin.name,
          in_quotes(name));
  return static_cast<size_t>(found - builtin.parameters.begin());
}

void bind(const Builtin& builtin, const Arguments& given, Input& input) {
  const auto end = std::find(builtin.parameters.begin(), builtin.parameters.end(), std::string_view());
  const auto most = static_cast<size_t>(end - builtin.parameters.begin());
  require(given.positional.size() <= most, "\"{}\" takes {} arguments at most and is given {}", builtin.name,
          most, given.positional.size());
  for (size_t i = 0; i < given.positional.size(); ++i) input.bound[i] = &given.positional[i];
  for (const auto& [name, value] : given.named) {
    const size_t i = parameter_of(builtin, name);
    require(!input.has(i), "\"{}\" is given its parameter {} twice", builtin.name, in_quotes(name));
    input.bound[i] = &value;
  }
  for (size_t i = 0; i < builtin.required; ++i) {
    require(input.has(i), "\"{}\" is not given its parameter \"{}\"", builtin.name, builtin.parameters[i]);
  }
}

const Builtin* find_in(std::span<const Builtin> table, std::string_view name) {
  const auto found =
      std::find_if(table.begin(), table.end(), [&](const Builtin& builtin) { return builtin.name == name; });
  return found == table.end() ? nullptr : &*found;
}

}  // namespace

Text Input::text_at(size_t i, std::string_view fallback) const {
  return has(i) ? to_text(at(i), budget) : Text{std::string(fallback), {}};
}

const Text& Input::exact_text_at(size_t i) const {
  require(at(i).is_text(), "{} is given where a text should be", kind_of(at(i)));
  return at(i).text();
}

int64_t Input::integer_at(size_t i, int64_t fallback) const {
  if (!has(i)) return fallback;
  require(at(i).is_whole(), "{} is given where a whole number should be", kind_of(at(i)));
  return at(i).integer();
}

bool Input::truth_at(size_t i, bool fallback) const {
  return has(i) ? truth(at(i)) : fallback;
}

Value run_builtin(const Builtin& builtin, const Value& self, const Arguments& given, Budget& budget) {
  budget.step();
  Input input{budget, self, given};
  if (builtin.parameters[0] != "*") bind(builtin, given, input);
  return builtin.run(input);
}

const Builtin* find_filter(std::string_view name) {
  for (const auto table : {text_filters(), sequence_filters(), choosing_filters(), number_filters()}) {
    if (const Builtin* found = find_in(table, name)) return found;
  }
  return nullptr;
}

const Builtin* find_text_method(std::string_view name) {
  const Builtin* found = find_in(text_methods(), name);
  return found != nullptr ? found : find_in(text_questions(), name);
}

Value apply_filter(std::string_view name, const Value& self, const Arguments& given, Budget& budget) {
  const Builtin* filter = find_filter(name);
  require(filter != nullptr, "the filter {} is not supported", in_quotes(name));
  return run_builtin(*filter, self, given, budget);
}

bool apply_test(std::string_view name, const Value& self, const Arguments& given, Budget& budget) {
  const Builtin* test = find_test(name);
  require(test != nullptr, "the test {} is not supported", in_quotes(name));
  return truth(run_builtin(*test, self, given, budget));
}

}  // namespace shadowkv::jinja
