#include "template/interpreter.h"

#include "base/check.h"
#include "formats/quote.h"
#include "template/lexer.h"
#include "template/operators.h"
#include "template/writing.h"

namespace shadowkv::jinja {

Text Interpreter::run(const Syntax& syntax) {
  try {
    Scope scope(&globals_);
    (void)run(syntax.body, scope);
    return out_.finish();
  } catch (const InvalidInput& error) {
    fail_at(line_, error.what());
  }
}

Interpreter::Flow Interpreter::run(const Block& block, Scope& scope) {
  for (const Node* node : block) {
    const Flow flow = run(*node, scope);
    if (flow != Flow::next) return flow;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::run(const Node& node, Scope& scope) {
  const Budget::Level level(budget_);
  line_ = node.line;
  switch (node.kind) {
    case NodeKind::data:
      return out_.add(node.text), Flow::next;
    case NodeKind::output:
      return output(node, scope), Flow::next;
    case NodeKind::branch:
      return branch(node, scope);
    case NodeKind::loop:
      return loop(node, scope);
    case NodeKind::assign:
      return assign(*node.target, evaluate(*node.parts[0], scope), scope), Flow::next;
    case NodeKind::assign_block:
      return assign_block(node, scope), Flow::next;
    case NodeKind::macro:
      return define_macro(node, scope), Flow::next;
    case NodeKind::call_block:
      return call_block(node, scope), Flow::next;
    case NodeKind::filter_block:
      return filter_block(node, scope), Flow::next;
    case NodeKind::with:
      return with(node, scope);
    case NodeKind::generation: {
      Scope inner(&scope);
      return run(node.bodies[0], inner);
    }
    case NodeKind::leave_loop:
      return node.text == "break" ? Flow::leave : Flow::again;
    default:
      throw InvalidInput("an expression stands where a statement should");
  }
}

void Interpreter::output(const Node& node, Scope& scope) {
  for (const Node* part : node.parts) {
    const Value value = evaluate(*part, scope);
    if (value.is_text()) {
      out_.add(value.text());
    } else {
      out_.add(to_text(value, budget_));
    }
  }
}

Interpreter::Flow Interpreter::branch(const Node& node, Scope& scope) {
  size_t taken = 0;
  while (taken < node.parts.size() && !truth(evaluate(*node.parts[taken], scope))) ++taken;
  return run(node.bodies[taken], scope);
}

// The items to go through, those aside of which the loop's condition does not hold.
std::vector<Value> Interpreter::chosen_items(const Node& node, Scope& scope) {
  const Value value = evaluate(*node.parts[0], scope);
  std::vector<Value> items = items_of(value, budget_);
  if (node.parts[1] == nullptr) return items;
  std::vector<Value> chosen;
  for (Value& item : items) {
    Scope inner(&scope);
    assign(*node.target, item, inner);
    if (truth(evaluate(*node.parts[1], inner))) chosen.push_back(std::move(item));
  }
  return chosen;
}

Interpreter::Flow Interpreter::loop(const Node& node, Scope& scope) {
  const std::vector<Value> items = chosen_items(node, scope);
  if (items.empty()) {
    Scope inner(&scope);
    return run(node.bodies[1], inner);
  }
  Loop state{.items = &items};
  for (const Value& item : items) {
    budget_.step();
    Scope inner(&scope);
    inner.set("loop", &state, budget_);
    assign(*node.target, item, inner);
    if (run(node.bodies[0], inner) == Flow::leave) break;
    ++state.index;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::with(const Node& node, Scope& scope) {
  Scope inner(&scope);
  for (size_t i = 0; i < node.parts.size(); ++i)
    inner.set(node.names[i], evaluate(*node.parts[i], scope), budget_);
  return run(node.bodies[0], inner);
}

void Interpreter::assign(const Node& target, const Value& value, Scope& scope) {
  if (target.kind == NodeKind::name) return scope.set(target.text, value, budget_);
  if (target.kind == NodeKind::space_attribute) return assign_space(target, value, scope);
  const std::vector<Value> items = items_of(value, budget_);
  require(items.size() == target.parts.size() && !value.is_undefined(), "{} values are assigned to {} names",
          items.size(), target.parts.size());
  for (size_t i = 0; i < items.size(); ++i) assign(*target.parts[i], items[i], scope);
}

void Interpreter::assign_space(const Node& target, const Value& value, Scope& scope) {
  const Value* found = scope.find(target.text, budget_);
  require(found != nullptr && found->is_space(), "an attribute of {} is assigned to, which is no namespace",
          in_quotes(target.text));
  require(!target.names[0].starts_with('_'), "the attribute {} is not open to templates",
          in_quotes(target.names[0]));
  check_storable(value);
  auto& entries = found->space().entries;
  budget_.step(static_cast<int64_t>(entries.size()) / 16);
  for (auto& [name, held] : entries) {
    if (name == target.names[0]) return held = value, void();
  }
  budget_.take(static_cast<int64_t>(sizeof(entries[0])));
  entries.emplace_back(target.names[0], value);
}

Text Interpreter::capture(const Block& block, Scope& scope) {
  TextBuilder outside = std::exchange(out_, TextBuilder(budget_));
  (void)run(block, scope);
  return std::exchange(out_, std::move(outside)).finish();
}

void Interpreter::assign_block(const Node& node, Scope& scope) {
  Scope inner(&scope);
  Value value = capture(node.bodies[0], inner);
  if (!node.parts.empty()) value = block_filter(*node.parts[0], value, scope);
  assign(*node.target, value, scope);
}

void Interpreter::filter_block(const Node& node, Scope& scope) {
  Scope inner(&scope);
  const Value value = capture(node.bodies[0], inner);
  out_.add(to_text(block_filter(*node.parts[0], value, scope), budget_));
}

void Interpreter::define_macro(const Node& node, Scope& scope) {
  budget_.take(static_cast<int64_t>(sizeof(Function)));
  scope.set(
      node.text,
      Value(Function{.kind = FunctionKind::macro, .name = node.text, .definition = &node, .scope = &scope}),
      budget_);
}

void Interpreter::call_block(const Node& node, Scope& scope) {
  const Value callee = evaluate(*node.call->parts[0], scope);
  Arguments given = arguments(*node.call, scope);
  given.named.emplace_back(
      "caller",
      Value(Function{.kind = FunctionKind::caller, .name = "caller", .definition = &node, .scope = &scope}));
  out_.add(to_text(call(callee, std::move(given)), budget_));
}

}  // namespace shadowkv::jinja
