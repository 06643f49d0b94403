// Expressions.
#include "base/check.h"
#include "template/interpreter.h"
#include "template/operators.h"
#include "template/writing.h"

namespace shadowkv::jinja {

Value Interpreter::evaluate(const Node& node, Scope& scope) {
  const Budget::Level level(budget_);
  line_ = node.line;
  switch (node.kind) {
    case NodeKind::literal:
      return node.value;
    case NodeKind::name:
      return name(node, scope);
    case NodeKind::list:
    case NodeKind::tuple:
      return sequence(node, scope);
    case NodeKind::dict:
      return dict(node, scope);
    case NodeKind::attribute:
      return attribute(evaluate(*node.parts[0], scope), node.text, budget_);
    case NodeKind::item:
      return item(node, scope);
    case NodeKind::call:
      return call(node, scope);
    case NodeKind::filter: {
      const Value value = evaluate(*node.parts[0], scope);
      return apply_filter(node.text, value, arguments(node, scope), budget_);
    }
    case NodeKind::test: {
      const Value value = evaluate(*node.parts[0], scope);
      return apply_test(node.text, value, arguments(node, scope), budget_);
    }
    case NodeKind::unary:
      return unary(node, scope);
    case NodeKind::binary:
      return binary(node, scope);
    case NodeKind::concat:
      return concat(node, scope);
    case NodeKind::compare:
      return compare(node, scope);
    case NodeKind::conditional:
      return conditional(node, scope);
    default:
      throw InvalidInput("a slice stands where an expression should");
  }
}

Value Interpreter::name(const Node& node, Scope& scope) {
  if (const Value* found = scope.find(node.text, budget_)) return *found;
  if (find_function(node.text) == nullptr) return Value::undefined(node.text);
  return Value(Function{.kind = FunctionKind::builtin, .name = node.text});
}

Value Interpreter::sequence(const Node& node, Scope& scope) {
  std::vector<Value> items;
  items.reserve(node.parts.size());
  for (const Node* part : node.parts) items.push_back(evaluate(*part, scope));
  return make_sequence(node.kind == NodeKind::list ? SequenceKind::list : SequenceKind::tuple,
                       std::move(items), budget_);
}

Value Interpreter::dict(const Node& node, Scope& scope) {
  auto made = std::make_shared<Dict>();
  for (size_t i = 0; i < node.parts.size(); i += 2) {
    Value key = evaluate(*node.parts[i], scope);
    put(*made, std::move(key), evaluate(*node.parts[i + 1], scope), budget_);
  }
  return Value::DictPointer(made);
}

Value Interpreter::item(const Node& node, Scope& scope) {
  const Value value = evaluate(*node.parts[0], scope);
  const Node& key = *node.parts[1];
  if (key.kind != NodeKind::slice) return jinja::item(value, evaluate(key, scope), budget_);
  Slice bounds;
  if (key.parts[0] != nullptr) bounds.begin = evaluate(*key.parts[0], scope);
  if (key.parts[1] != nullptr) bounds.end = evaluate(*key.parts[1], scope);
  if (key.parts[2] != nullptr) bounds.step = evaluate(*key.parts[2], scope);
  return slice(value, bounds, budget_);
}

Value Interpreter::unary(const Node& node, Scope& scope) {
  const Value value = evaluate(*node.parts[0], scope);
  if (node.text == "not") return !truth(value);
  const Value opposite = negative(value);
  return node.text == "-" ? opposite : negative(opposite);
}

Value Interpreter::binary(const Node& node, Scope& scope) {
  const Value left = evaluate(*node.parts[0], scope);
  if (node.text == "and") return truth(left) ? evaluate(*node.parts[1], scope) : left;
  if (node.text == "or") return truth(left) ? left : evaluate(*node.parts[1], scope);
  const Value right = evaluate(*node.parts[1], scope);
  line_ = node.line;
  return jinja::binary(node.text, left, right, budget_);
}

Value Interpreter::concat(const Node& node, Scope& scope) {
  TextBuilder out(budget_);
  for (const Node* part : node.parts) {
    const Value value = evaluate(*part, scope);
    out.add(value.is_text() ? value.text() : to_text(value, budget_));
  }
  return out.finish();
}

// "a < b < c" holds where each pair does; what follows one that does not is left unread.
Value Interpreter::compare(const Node& node, Scope& scope) {
  Value left = evaluate(*node.parts[0], scope);
  for (size_t i = 0; i < node.names.size(); ++i) {
    Value right = evaluate(*node.parts[i + 1], scope);
    if (!jinja::compare(node.names[i], left, right, budget_)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::conditional(const Node& node, Scope& scope) {
  if (truth(evaluate(*node.parts[1], scope))) return evaluate(*node.parts[0], scope);
  return node.parts[2] == nullptr ? Value::undefined("the value of an \"if\" without \"else\"")
                                  : evaluate(*node.parts[2], scope);
}

// The filters that stand behind a block's tag, the first of which is applied to `value`.
Value Interpreter::block_filter(const Node& node, const Value& value, Scope& scope) {
  const Budget::Level level(budget_);
  const Value input = node.parts.empty() ? value : block_filter(*node.parts[0], value, scope);
  return apply_filter(node.text, input, arguments(node, scope), budget_);
}

Arguments Interpreter::arguments(const Node& node, Scope& scope) {
  Arguments found;
  for (const Argument& argument : node.arguments) {
    if (argument.name.empty()) {
      found.positional.push_back(evaluate(*argument.value, scope));
    } else if (argument.name[0] == '*') {
      spread(argument, found, scope);
    } else {
      found.named.emplace_back(argument.name, evaluate(*argument.value, scope));
    }
  }
  return found;
}

void Interpreter::spread(const Argument& argument, Arguments& found, Scope& scope) {
  const Value value = evaluate(*argument.value, scope);
  if (argument.name == "*") {
    for (Value& item : items_of(value, budget_)) found.positional.push_back(std::move(item));
    return;
  }
  require(value.is_dict(), "{} is spread as named arguments", kind_of(value));
  for (const auto& [key, held] : value.dict().entries) {
    require(key.is_text(), "the name of an argument is {}", kind_of(key));
    found.named.emplace_back(key.text().bytes, held);
  }
}

}  // namespace shadowkv::jinja
