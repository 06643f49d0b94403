// Runs a template's tree.
#pragma once

#include "template/builtins.h"
#include "template/scope.h"
#include "template/syntax.h"

namespace shadowkv::jinja {

// A running loop, as its body sees it by the name "loop".
struct Loop {
  const std::vector<Value>* items;
  int64_t index = 0;             // of the item now in the body
  std::vector<Value> seen = {};  // what loop.changed() was last asked about
};

class Interpreter {
 public:
  // All outlive the interpreter.
  Interpreter(const Scope& globals, Budget& budget) : globals_(globals), budget_(budget), out_(budget) {}

  // Throws InvalidInput "line 3: ...".
  [[nodiscard]] Text run(const Syntax& syntax);

 private:
  enum class Flow : uint8_t { next, leave, again };  // on, out of the loop, to its next item

  // Statements (interpreter.cc).
  Flow run(const Block& block, Scope& scope);
  Flow run(const Node& node, Scope& scope);
  Flow branch(const Node& node, Scope& scope);
  Flow loop(const Node& node, Scope& scope);
  Flow with(const Node& node, Scope& scope);
  void output(const Node& node, Scope& scope);
  void assign_block(const Node& node, Scope& scope);
  void filter_block(const Node& node, Scope& scope);
  void call_block(const Node& node, Scope& scope);
  void define_macro(const Node& node, Scope& scope);
  std::vector<Value> chosen_items(const Node& node, Scope& scope);
  void assign(const Node& target, const Value& value, Scope& scope);
  void assign_space(const Node& target, const Value& value, Scope& scope);
  // What a block writes.
  Text capture(const Block& block, Scope& scope);

  // Expressions (evaluate.cc).
  Value evaluate(const Node& node, Scope& scope);
  Value name(const Node& node, Scope& scope);
  Value sequence(const Node& node, Scope& scope);
  Value dict(const Node& node, Scope& scope);
  Value item(const Node& node, Scope& scope);
  Value unary(const Node& node, Scope& scope);
  Value binary(const Node& node, Scope& scope);
  Value concat(const Node& node, Scope& scope);
  Value compare(const Node& node, Scope& scope);
  Value conditional(const Node& node, Scope& scope);
  Value block_filter(const Node& node, const Value& value, Scope& scope);
  Arguments arguments(const Node& node, Scope& scope);
  void spread(const Argument& argument, Arguments& found, Scope& scope);

  // Calls (calls.cc).
  Value call(const Node& node, Scope& scope);
  Value call(const Value& callee, Arguments given);
  Value call_loop(Loop& loop, std::string_view method, Arguments given);
  Value call_macro(const Function& function, Arguments given);
  void bind(const Node& definition, Arguments& given, Scope& scope);
  void bind_rest(const Node& definition, Arguments& given, size_t used, Scope& scope);

  const Scope& globals_;
  Budget& budget_;
  TextBuilder out_;
  int line_ = 1;  // of what runs, for messages
};

}  // namespace shadowkv::jinja
