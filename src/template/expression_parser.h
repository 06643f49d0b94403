// Expressions, by Jinja's order of precedence.
#pragma once

#include <array>
#include <initializer_list>

#include "template/token_stream.h"

namespace shadowkv::jinja {

class ExpressionParser {
 public:
  ExpressionParser(TokenStream& tokens, Syntax& syntax) : tokens_(tokens), syntax_(syntax) {}

  // One expression; without `conditional`, a following "if" is left alone.
  const Node* expression(bool conditional = true);
  // One, or several with commas as a tuple; ends before a name of `ends`.
  const Node* tuple(bool conditional, std::initializer_list<std::string_view> ends = {});
  // Filters "| a | b(1)" applied to `value`, which may be null.
  const Node* filters(const Node* value);
  const Node* filter(const Node* value);  // after the "|"
  // Names, tuples of them, or with `spaces` attributes of namespaces.
  const Node* target(bool spaces);

  // A node of the tree; its parts decide its depth.
  Node& make(NodeKind kind, int line, std::vector<const Node*> parts = {});
  [[nodiscard]] int64_t& depth() { return depth_; }
  // Of varargs, kwargs and caller, which were named since the parser began, with how often.
  [[nodiscard]] const std::array<int64_t, 3>& rest_names() const { return rest_names_; }
  static constexpr std::array<std::string_view, 3> kRestNames = {"varargs", "kwargs", "caller"};

 private:
  const Node* conditional();
  const Node* either();
  const Node* both();
  const Node* negation();
  const Node* comparison();
  const Node* sum();
  const Node* concat();
  const Node* product();
  const Node* power();
  const Node* unary(bool with_filters);
  const Node* primary();
  const Node* text_literal();
  const Node* number_literal();
  const Node* name_or_constant();
  const Node* parenthesized();
  const Node* list();
  const Node* dict();
  const Node* postfix(const Node* value);
  const Node* filters_tests_calls(const Node* value);
  const Node* subscript(const Node* value);
  const Node* slice_or_index();
  const Node* call(const Node* callee);
  const Node* test(const Node* value);
  std::vector<Argument> arguments();
  const Node* simple_target(bool spaces);
  bool at_tuple_end(std::initializer_list<std::string_view> ends) const;
  const Node* binary_chain(std::initializer_list<std::string_view> symbols,
                           const Node* (ExpressionParser::*operand)());

  TokenStream& tokens_;
  Syntax& syntax_;
  int64_t depth_ = 0;
  std::array<int64_t, 3> rest_names_ = {};
};

}  // namespace shadowkv::jinja
