#include "template/expression_parser.h"

#include <algorithm>

#include "formats/quote.h"
#include "template/literal.h"

namespace shadowkv::jinja {
namespace {

bool is_comparison(const Token& token) {
  if (token.kind != TokenKind::symbol) return false;
  const std::string& s = token.text;
  return s == "==" || s == "!=" || s == "<" || s == "<=" || s == ">" || s == ">=";
}

bool is_constant(std::string_view name) {
  return name == "true" || name == "True" || name == "false" || name == "False" || name == "none" ||
         name == "None";
}

}  // namespace

Node& ExpressionParser::make(NodeKind kind, int line, std::vector<const Node*> parts) {
  int64_t deepest = 0;
  for (const Node* part : parts) deepest = std::max(deepest, part == nullptr ? 0 : part->depth);
  if (deepest >= kMaxSyntaxDepth)
    fail_at(line, fmt::format("an expression is nested more than {} deep", kMaxSyntaxDepth));
  Node& node = syntax_.nodes.emplace_back();
  node.kind = kind;
  node.line = line;
  node.depth = deepest + 1;
  node.parts = std::move(parts);
  return node;
}

const Node* ExpressionParser::expression(bool conditional_too) {
  const Nesting nesting(depth_, tokens_.now().line);
  return conditional_too ? conditional() : either();
}

bool ExpressionParser::at_tuple_end(std::initializer_list<std::string_view> ends) const {
  if (tokens_.at(TokenKind::output_end) || tokens_.at(TokenKind::block_end) || tokens_.at_symbol(")"))
    return true;
  return std::any_of(ends.begin(), ends.end(),
                     [this](std::string_view name) { return tokens_.at_name(name); });
}

const Node* ExpressionParser::tuple(bool conditional_too, std::initializer_list<std::string_view> ends) {
  const int line = tokens_.now().line;
  std::vector<const Node*> parts;
  bool is_tuple = false;
  while (!at_tuple_end(ends)) {
    parts.push_back(expression(conditional_too));
    if (!tokens_.take_symbol(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return &make(NodeKind::tuple, line, std::move(parts));
  if (parts.empty()) tokens_.fail_expected("an expression");
  return parts[0];
}

const Node* ExpressionParser::conditional() {
  const Node* value = either();
  while (tokens_.at_name("if")) {
    const int line = tokens_.take().line;
    const Node* condition = either();
    const Node* otherwise = tokens_.take_name("else") ? expression() : nullptr;
    value = &make(NodeKind::conditional, line, {value, condition, otherwise});
  }
  return value;
}

const Node* ExpressionParser::either() {
  const Node* value = both();
  while (tokens_.at_name("or")) {
    const int line = tokens_.take().line;
    Node& node = make(NodeKind::binary, line, {value, both()});
    node.text = "or";
    value = &node;
  }
  return value;
}

const Node* ExpressionParser::both() {
  const Node* value = negation();
  while (tokens_.at_name("and")) {
    const int line = tokens_.take().line;
    Node& node = make(NodeKind::binary, line, {value, negation()});
    node.text = "and";
    value = &node;
  }
  return value;
}

const Node* ExpressionParser::negation() {
  if (!tokens_.at_name("not")) return comparison();
  const int line = tokens_.take().line;
  const Nesting nesting(depth_, line);
  Node& node = make(NodeKind::unary, line, {negation()});
  node.text = "not";
  return &node;
}

const Node* ExpressionParser::comparison() {
  const int line = tokens_.now().line;
  std::vector<const Node*> operands = {sum()};
  std::vector<std::string> operators;
  while (true) {
    if (is_comparison(tokens_.now())) {
      operators.push_back(tokens_.take().text);
    } else if (tokens_.take_name("in")) {
      operators.emplace_back("in");
    } else if (tokens_.at_name("not") && tokens_.next().kind == TokenKind::name &&
               tokens_.next().text == "in") {
      tokens_.take();
      tokens_.take();
      operators.emplace_back("not in");
    } else {
      break;
    }
    operands.push_back(sum());
  }
  if (operators.empty()) return operands[0];
  Node& node = make(NodeKind::compare, line, std::move(operands));
  node.names = std::move(operators);
  return &node;
}

const Node* ExpressionParser::binary_chain(std::initializer_list<std::string_view> symbols,
                                           const Node* (ExpressionParser::*operand)()) {
  const Node* value = (this->*operand)();
  const auto at_one = [&] {
    return std::any_of(symbols.begin(), symbols.end(),
                       [&](std::string_view s) { return tokens_.at_symbol(s); });
  };
  while (at_one()) {
    const Token symbol = tokens_.take();
    Node& node = make(NodeKind::binary, symbol.line, {value, (this->*operand)()});
    node.text = symbol.text;
    value = &node;
  }
  return value;
}

const Node* ExpressionParser::sum() {
  return binary_chain({"+", "-"}, &ExpressionParser::concat);
}

const Node* ExpressionParser::concat() {
  const int line = tokens_.now().line;
  std::vector<const Node*> parts = {product()};
  while (tokens_.take_symbol("~")) parts.push_back(product());
  return parts.size() == 1 ? parts[0] : &make(NodeKind::concat, line, std::move(parts));
}

const Node* ExpressionParser::product() {
  return binary_chain({"*", "/", "//", "%"}, &ExpressionParser::power);
}

const Node* ExpressionParser::power() {
  const Node* value = unary(true);
  while (tokens_.at_symbol("**")) {
    const int line = tokens_.take().line;
    Node& node = make(NodeKind::binary, line, {value, unary(true)});
    node.text = "**";
    value = &node;
  }
  return value;
}

const Node* ExpressionParser::unary(bool with_filters) {
  const Node* value = nullptr;
  if (tokens_.at_symbol("-") || tokens_.at_symbol("+")) {
    const Token sign = tokens_.take();
    const Nesting nesting(depth_, sign.line);
    Node& node = make(NodeKind::unary, sign.line, {unary(false)});
    node.text = sign.text;
    value = &node;
  } else {
    value = primary();
  }
  value = postfix(value);
  return with_filters ? filters_tests_calls(value) : value;
}

const Node* ExpressionParser::primary() {
  switch (tokens_.now().kind) {
    case TokenKind::name:
      return name_or_constant();
    case TokenKind::text:
      return text_literal();
    case TokenKind::integer:
    case TokenKind::real:
      return number_literal();
    default:
      break;
  }
  if (tokens_.at_symbol("(")) return parenthesized();
  if (tokens_.at_symbol("[")) return list();
  if (tokens_.at_symbol("{")) return dict();
  tokens_.fail_expected("an expression");
}

const Node* ExpressionParser::name_or_constant() {
  const Token name = tokens_.take();
  if (!is_constant(name.text)) {
    for (size_t i = 0; i < kRestNames.size(); ++i) rest_names_[i] += name.text == kRestNames[i] ? 1 : 0;
    Node& node = make(NodeKind::name, name.line);
    node.text = name.text;
    return &node;
  }
  Node& node = make(NodeKind::literal, name.line);
  const char first = static_cast<char>(name.text[0] | 0x20);
  if (first != 'n') node.value = first == 't';
  return &node;
}

// Texts that stand side by side are one.
const Node* ExpressionParser::text_literal() {
  const int line = tokens_.now().line;
  Text text;
  while (tokens_.at(TokenKind::text)) text.bytes += tokens_.take().text;
  Node& node = make(NodeKind::literal, line);
  node.value = std::move(text);
  return &node;
}

const Node* ExpressionParser::number_literal() {
  const Token number = tokens_.take();
  Node& node = make(NodeKind::literal, number.line);
  if (number.kind == TokenKind::real) {
    node.value = real_value(number.text).value_or(0);
    return &node;
  }
  const std::optional<int64_t> value = integer_value(number.text);
  if (!value) fail_at(number.line, fmt::format("the number {} is beyond 64 bits", printable(number.text)));
  node.value = *value;
  return &node;
}

const Node* ExpressionParser::parenthesized() {
  const int line = tokens_.take().line;
  const Nesting nesting(depth_, line);
  const Node* value = tokens_.at_symbol(")") ? &make(NodeKind::tuple, line) : tuple(true);
  tokens_.expect_symbol(")");
  return value;
}

const Node* ExpressionParser::list() {
  const int line = tokens_.take().line;
  std::vector<const Node*> parts;
  while (!tokens_.at_symbol("]")) {
    parts.push_back(expression());
    if (!tokens_.take_symbol(",")) break;
  }
  tokens_.expect_symbol("]");
  return &make(NodeKind::list, line, std::move(parts));
}

const Node* ExpressionParser::dict() {
  const int line = tokens_.take().line;
  std::vector<const Node*> parts;
  while (!tokens_.at_symbol("}")) {
    parts.push_back(expression());
    tokens_.expect_symbol(":");
    parts.push_back(expression());
    if (!tokens_.take_symbol(",")) break;
  }
  tokens_.expect_symbol("}");
  return &make(NodeKind::dict, line, std::move(parts));
}

const Node* ExpressionParser::postfix(const Node* value) {
  while (true) {
    if (tokens_.at_symbol(".") || tokens_.at_symbol("[")) {
      value = subscript(value);
    } else if (tokens_.at_symbol("(")) {
      value = call(value);
    } else {
      return value;
    }
  }
}

const Node* ExpressionParser::filters_tests_calls(const Node* value) {
  while (true) {
    if (tokens_.take_symbol("|")) {
      value = filter(value);
    } else if (tokens_.at_name("is")) {
      value = test(value);
    } else if (tokens_.at_symbol("(")) {
      value = call(value);
    } else {
      return value;
    }
  }
}

const Node* ExpressionParser::subscript(const Node* value) {
  const Token symbol = tokens_.take();
  if (symbol.text == "[") {
    std::vector<const Node*> indices;
    bool more = !tokens_.at_symbol("]");
    while (more) {
      indices.push_back(slice_or_index());
      more = tokens_.take_symbol(",");
    }
    tokens_.expect_symbol("]");
    const Node* index = indices.size() == 1 ? indices[0] : &make(NodeKind::tuple, symbol.line, indices);
    return &make(NodeKind::item, symbol.line, {value, index});
  }
  if (tokens_.at(TokenKind::integer)) return &make(NodeKind::item, symbol.line, {value, number_literal()});
  const Token name = tokens_.expect(TokenKind::name, "the name of an attribute");
  Node& node = make(NodeKind::attribute, symbol.line, {value});
  node.text = name.text;
  return &node;
}

const Node* ExpressionParser::slice_or_index() {
  const int line = tokens_.now().line;
  std::vector<const Node*> bounds(3, nullptr);
  if (!tokens_.at_symbol(":")) {
    bounds[0] = expression();
    if (!tokens_.at_symbol(":")) return bounds[0];
  }
  for (size_t i = 1; i < 3 && tokens_.take_symbol(":"); ++i) {
    const bool left_out = tokens_.at_symbol(":") || tokens_.at_symbol("]") || tokens_.at_symbol(",");
    if (!left_out) bounds[i] = expression();
  }
  return &make(NodeKind::slice, line, std::move(bounds));
}

std::vector<Argument> ExpressionParser::arguments() {
  const int line = tokens_.now().line;
  tokens_.expect_symbol("(");
  std::vector<Argument> found;
  bool named = false, spread = false;
  while (!tokens_.at_symbol(")")) {
    if (tokens_.at_symbol("*") || tokens_.at_symbol("**")) {
      const std::string stars = tokens_.take().text;
      found.push_back({stars, expression()});
      spread = true;
    } else if (tokens_.at(TokenKind::name) && tokens_.next().kind == TokenKind::symbol &&
               tokens_.next().text == "=") {
      const std::string name = tokens_.take().text;
      tokens_.take();
      found.push_back({name, expression()});
      named = true;
    } else {
      if (named || spread) fail_at(line, "an argument without a name follows one with a name");
      found.push_back({"", expression()});
    }
    if (!tokens_.take_symbol(",")) break;
  }
  tokens_.expect_symbol(")");
  return found;
}

const Node* ExpressionParser::call(const Node* callee) {
  const int line = tokens_.now().line;
  std::vector<Argument> given = arguments();
  Node& node = make(NodeKind::call, line, {callee});
  node.arguments = std::move(given);
  return &node;
}

const Node* ExpressionParser::filters(const Node* value) {
  while (tokens_.take_symbol("|")) value = filter(value);
  return value;
}

const Node* ExpressionParser::filter(const Node* value) {
  const Token name = tokens_.expect(TokenKind::name, "the name of a filter");
  std::vector<Argument> given;
  if (tokens_.at_symbol("(")) given = arguments();
  std::vector<const Node*> parts;
  if (value != nullptr) parts.push_back(value);
  Node& node = make(NodeKind::filter, name.line, std::move(parts));
  node.text = name.text;
  node.arguments = std::move(given);
  return &node;
}

const Node* ExpressionParser::test(const Node* value) {
  const int line = tokens_.take().line;
  const bool negated = tokens_.take_name("not");
  const Token name = tokens_.expect(TokenKind::name, "the name of a test");
  std::vector<Argument> given;
  const bool at_value = tokens_.at(TokenKind::name) || tokens_.at(TokenKind::text) ||
                        tokens_.at(TokenKind::integer) || tokens_.at(TokenKind::real) ||
                        tokens_.at_symbol("[") || tokens_.at_symbol("{");
  if (tokens_.at_symbol("(")) {
    given = arguments();
  } else if (at_value && !tokens_.at_name("else") && !tokens_.at_name("or") && !tokens_.at_name("and")) {
    if (tokens_.at_name("is")) fail_at(line, "tests follow one another; put the first in brackets");
    given.push_back({"", postfix(primary())});
  }
  Node* node = &make(NodeKind::test, line, {value});
  node->text = name.text;
  node->arguments = std::move(given);
  if (!negated) return node;
  Node& opposite = make(NodeKind::unary, line, {node});
  opposite.text = "not";
  return &opposite;
}

const Node* ExpressionParser::simple_target(bool spaces) {
  const Nesting nesting(depth_, tokens_.now().line);
  if (tokens_.take_symbol("(")) {
    const Node* inner = target(false);
    tokens_.expect_symbol(")");
    return inner;
  }
  const Token name = tokens_.expect(TokenKind::name, "a name to assign to");
  if (is_constant(name.text)) fail_at(name.line, fmt::format("{} cannot be assigned to", name.text));
  const bool is_attribute = spaces && tokens_.take_symbol(".");
  Node& node = make(is_attribute ? NodeKind::space_attribute : NodeKind::name, name.line);
  node.text = name.text;
  if (is_attribute) node.names.push_back(tokens_.expect(TokenKind::name, "the name of an attribute").text);
  return &node;
}

const Node* ExpressionParser::target(bool spaces) {
  const int line = tokens_.now().line;
  std::vector<const Node*> parts = {simple_target(spaces)};
  bool is_tuple = false;
  while (tokens_.take_symbol(",")) {
    is_tuple = true;
    if (!tokens_.at(TokenKind::name) && !tokens_.at_symbol("(")) break;
    if (tokens_.at_name("in")) break;
    parts.push_back(simple_target(spaces));
  }
  return is_tuple ? &make(NodeKind::tuple, line, std::move(parts)) : parts[0];
}

}  // namespace shadowkv::jinja
