// Calls of functions, methods and macros.
#include <algorithm>

#include "base/check.h"
#include "formats/quote.h"
#include "template/interpreter.h"
#include "template/operators.h"

namespace shadowkv::jinja {

Value loop_attribute(const Loop& loop, std::string_view name) {
  const auto size = static_cast<int64_t>(loop.items->size());
  const int64_t i = loop.index;
  if (name == "index") return i + 1;
  if (name == "index0") return i;
  if (name == "revindex") return size - i;
  if (name == "revindex0") return size - i - 1;
  if (name == "first") return i == 0;
  if (name == "last") return i == size - 1;
  if (name == "length") return size;
  if (name == "depth") return int64_t{1};  // of recursive loops, which there are none of
  if (name == "depth0") return int64_t{0};
  const int64_t other = name == "previtem" ? i - 1 : name == "nextitem" ? i + 1 : -1;
  if (other < 0 || other >= size) return Value::undefined("an item beside that of a loop");
  return (*loop.items)[static_cast<size_t>(other)];
}

Value Interpreter::call(const Node& node, Scope& scope) {
  const Node& callee = *node.parts[0];
  if (callee.kind == NodeKind::attribute) {
    const Value value = evaluate(*callee.parts[0], scope);
    if (value.is_loop()) return call_loop(value.loop(), callee.text, arguments(node, scope));
    const Value method = attribute(value, callee.text, budget_);
    require(!method.is_undefined(), "{} has no method {}", kind_of(value), in_quotes(callee.text));
    return call(method, arguments(node, scope));
  }
  const Value function = evaluate(callee, scope);
  Arguments given = arguments(node, scope);
  line_ = node.line;
  return call(function, std::move(given));
}

Value Interpreter::call(const Value& callee, Arguments given) {
  require_defined(callee);
  require(callee.is_function(), "{} is called as a function", kind_of(callee));
  const Function& function = callee.function();
  switch (function.kind) {
    case FunctionKind::builtin:
      return run_builtin(*find_function(function.name), callee, given, budget_);
    case FunctionKind::method:
      return run_builtin(*find_method(*function.self, function.name), *function.self, given, budget_);
    case FunctionKind::macro:
    case FunctionKind::caller:
      return call_macro(function, std::move(given));
  }
  return {};
}

Value Interpreter::call_loop(Loop& loop, std::string_view method, Arguments given) {
  require(given.named.empty(), "a method of a loop takes no named arguments");
  if (method == "cycle") {
    require(!given.positional.empty(), "\"cycle\" has nothing to choose from");
    return given.positional[static_cast<size_t>(loop.index) % given.positional.size()];
  }
  require(method == "changed", "a loop has no method {}", in_quotes(method));
  for (const Value& value : given.positional) check_storable(value);
  const auto same = [&](const Value& a, const Value& b) { return equal(a, b, budget_); };
  const bool changed =
      loop.seen.empty() ||
      !std::equal(loop.seen.begin(), loop.seen.end(), given.positional.begin(), given.positional.end(), same);
  loop.seen = std::move(given.positional);
  return changed;
}

Value Interpreter::call_macro(const Function& function, Arguments given) {
  const Node& definition = *function.definition;
  Scope scope(function.scope);
  bind(definition, given, scope);
  return capture(definition.bodies[0], scope);
}

void Interpreter::bind(const Node& definition, Arguments& given, Scope& scope) {
  const size_t count = definition.names.size();
  for (size_t i = 0; i < count; ++i) {
    const std::string& name = definition.names[i];
    const auto named = std::find_if(given.named.begin(), given.named.end(),
                                    [&](const auto& argument) { return argument.first == name; });
    if (i < given.positional.size()) {
      require(named == given.named.end(), "a macro is given its parameter {} twice", in_quotes(name));
      scope.set(name, given.positional[i], budget_);
    } else if (named != given.named.end()) {
      scope.set(name, named->second, budget_);
      given.named.erase(named);
    } else if (definition.parts[i] != nullptr) {
      scope.set(name, evaluate(*definition.parts[i], scope), budget_);
    } else {
      scope.set(name, Value::undefined(name), budget_);
    }
  }
  bind_rest(definition, given, std::min(count, given.positional.size()), scope);
}

// What no parameter took, by the names that Jinja gives it; a macro that does not name them takes no more.
void Interpreter::bind_rest(const Node& definition, Arguments& given, size_t used, Scope& scope) {
  const auto takes = [&](std::string_view name) {
    return std::find(definition.rest.begin(), definition.rest.end(), name) != definition.rest.end();
  };
  const auto caller = std::find_if(given.named.begin(), given.named.end(),
                                   [](const auto& argument) { return argument.first == "caller"; });
  if (takes("caller")) {
    scope.set("caller", caller == given.named.end() ? Value::undefined("caller") : caller->second, budget_);
    if (caller != given.named.end()) given.named.erase(caller);
  }
  std::vector<Value> values(given.positional.begin() + static_cast<std::ptrdiff_t>(used),
                            given.positional.end());
  require(values.empty() || takes("varargs"), "a macro takes {} arguments and is given {}", used,
          given.positional.size());
  require(given.named.empty() || takes("kwargs"), "a macro has no parameter {}",
          in_quotes(given.named.empty() ? "" : given.named[0].first));
  if (takes("varargs"))
    scope.set("varargs", make_sequence(SequenceKind::tuple, std::move(values), budget_), budget_);
  if (!takes("kwargs")) return;
  auto named = std::make_shared<Dict>();
  for (auto& [name, value] : given.named) put(*named, Value::text(name), value, budget_);
  scope.set("kwargs", Value::DictPointer(named), budget_);
}

}  // namespace shadowkv::jinja
