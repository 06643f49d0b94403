#include "template/parser.h"

#include "formats/quote.h"
#include "template/expression_parser.h"

namespace shadowkv::jinja {
namespace {

using Ends = std::initializer_list<std::string_view>;

class Parser {
 public:
  Parser(std::string_view source, Syntax& syntax)
      : tokens_(tokenize(source)), syntax_(syntax), expressions_(tokens_, syntax) {}

  void run() {
    syntax_.body = block({});
    if (!tokens_.at(TokenKind::end)) tokens_.fail_expected("the end of the template");
  }

 private:
  // Statements up to {% and one of `ends`, which is not taken; to the template's end where there are none.
  Block block(Ends ends);
  // After a tag's own words: %}, then a block.
  Block body(Ends ends);
  // The same up to {% end %}, which is taken without its %}.
  Block closed_body(std::string_view end);
  const Node* output();
  const Node* statement();

  const Node* branch();
  const Node* loop();
  const Node* assign();
  const Node* macro();
  const Node* call_block();
  const Node* filter_block();
  const Node* with();
  const Node* generation();
  const Node* print();
  const Node* leave_loop();
  void signature(Node& node);
  void note_rest(const std::array<int64_t, 3>& named_before, Node& node);
  // A body that a loop around it cannot be left from.
  Block function_body(std::string_view end);

  Node& make(NodeKind kind, int line, std::vector<const Node*> parts = {}) {
    return expressions_.make(kind, line, std::move(parts));
  }

  TokenStream tokens_;
  Syntax& syntax_;
  ExpressionParser expressions_;
  int loops_ = 0;  // around what is being read, within one function
};

Block Parser::block(Ends ends) {
  Block found;
  while (!tokens_.at(TokenKind::end)) {
    if (tokens_.at(TokenKind::data)) {
      Node& node = make(NodeKind::data, tokens_.now().line);
      node.text = tokens_.take().text;
      found.push_back(&node);
    } else if (tokens_.at(TokenKind::output_begin)) {
      found.push_back(output());
    } else {
      tokens_.expect(TokenKind::block_begin, "{%");
      for (const std::string_view end : ends) {
        if (tokens_.at_name(end)) return found;
      }
      found.push_back(statement());
      tokens_.expect(TokenKind::block_end, "%}");
    }
  }
  if (ends.size() > 0) fail_at(tokens_.now().line, fmt::format("{{% {} %}} is missing", *ends.begin()));
  return found;
}

Block Parser::body(Ends ends) {
  tokens_.take_symbol(":");
  tokens_.expect(TokenKind::block_end, "%}");
  return block(ends);
}

Block Parser::closed_body(std::string_view end) {
  Block found = body({end});
  tokens_.take();
  return found;
}

Block Parser::function_body(std::string_view end) {
  const int around = loops_;
  loops_ = 0;
  Block found = closed_body(end);
  loops_ = around;
  return found;
}

const Node* Parser::output() {
  const int line = tokens_.take().line;
  const Node* value = expressions_.tuple(true);
  tokens_.expect(TokenKind::output_end, "}}");
  return &make(NodeKind::output, line, {value});
}

const Node* Parser::statement() {
  const Nesting nesting(expressions_.depth(), tokens_.now().line);
  if (tokens_.at_name("if")) return branch();
  if (tokens_.at_name("for")) return loop();
  if (tokens_.at_name("set")) return assign();
  if (tokens_.at_name("macro")) return macro();
  if (tokens_.at_name("call")) return call_block();
  if (tokens_.at_name("filter")) return filter_block();
  if (tokens_.at_name("with")) return with();
  if (tokens_.at_name("generation")) return generation();
  if (tokens_.at_name("print")) return print();
  if (tokens_.at_name("break") || tokens_.at_name("continue")) return leave_loop();
  if (!tokens_.at(TokenKind::name)) tokens_.fail_expected("the name of a statement");
  fail_at(tokens_.now().line,
          fmt::format("the statement {} is not supported", in_quotes(tokens_.now().text)));
}

const Node* Parser::branch() {
  const int line = tokens_.now().line;
  std::vector<const Node*> conditions;
  std::vector<Block> bodies;
  while (tokens_.at_name("if") || tokens_.at_name("elif")) {
    tokens_.take();
    conditions.push_back(expressions_.tuple(false));
    bodies.push_back(body({"endif", "elif", "else"}));
  }
  if (tokens_.take_name("else")) {
    bodies.push_back(closed_body("endif"));
  } else {
    tokens_.take();
    bodies.emplace_back();
  }
  Node& node = make(NodeKind::branch, line, std::move(conditions));
  node.bodies = std::move(bodies);
  return &node;
}

const Node* Parser::loop() {
  const int line = tokens_.take().line;
  const Node* target = expressions_.target(false);
  if (!tokens_.take_name("in")) tokens_.fail_expected("in");
  const Node* items = expressions_.tuple(false, {"recursive"});
  const Node* condition = tokens_.take_name("if") ? expressions_.expression() : nullptr;
  if (tokens_.at_name("recursive")) fail_at(line, "recursive loops are not supported");
  std::vector<Block> bodies;
  ++loops_;
  bodies.push_back(body({"endfor", "else"}));
  --loops_;
  if (tokens_.take_name("else")) {
    bodies.push_back(closed_body("endfor"));
  } else {
    tokens_.take();
    bodies.emplace_back();
  }
  Node& node = make(NodeKind::loop, line, {items, condition});
  node.target = target;
  node.bodies = std::move(bodies);
  return &node;
}

const Node* Parser::assign() {
  const int line = tokens_.take().line;
  const Node* target = expressions_.target(true);
  if (tokens_.take_symbol("=")) {
    Node& node = make(NodeKind::assign, line, {expressions_.tuple(true)});
    node.target = target;
    return &node;
  }
  const Node* filter = expressions_.filters(nullptr);
  Block inside = function_body("endset");
  Node& node = make(NodeKind::assign_block, line);
  if (filter != nullptr) node.parts.push_back(filter);
  node.target = target;
  node.bodies.push_back(std::move(inside));
  return &node;
}

void Parser::signature(Node& node) {
  tokens_.expect_symbol("(");
  while (!tokens_.at_symbol(")")) {
    const Token name = tokens_.expect(TokenKind::name, "the name of a parameter");
    const bool has_default = tokens_.take_symbol("=");
    if (!has_default && !node.parts.empty() && node.parts.back() != nullptr)
      fail_at(name.line, "a parameter without a default follows one with a default");
    node.names.push_back(name.text);
    node.parts.push_back(has_default ? expressions_.expression() : nullptr);
    if (!tokens_.take_symbol(",")) break;
  }
  tokens_.expect_symbol(")");
}

void Parser::note_rest(const std::array<int64_t, 3>& named_before, Node& node) {
  for (size_t i = 0; i < named_before.size(); ++i) {
    if (expressions_.rest_names()[i] > named_before[i]) node.rest.push_back(ExpressionParser::kRestNames[i]);
  }
}

const Node* Parser::macro() {
  const int line = tokens_.take().line;
  Node& node = make(NodeKind::macro, line);
  node.text = tokens_.expect(TokenKind::name, "the name of a macro").text;
  const auto named_before = expressions_.rest_names();
  signature(node);
  node.bodies.push_back(function_body("endmacro"));
  note_rest(named_before, node);
  return &node;
}

const Node* Parser::call_block() {
  const int line = tokens_.take().line;
  Node& node = make(NodeKind::call_block, line);
  if (tokens_.at_symbol("(")) signature(node);
  node.call = expressions_.expression();
  if (node.call->kind != NodeKind::call) fail_at(line, "{% call %} is followed by no call");
  const auto named_before = expressions_.rest_names();
  node.bodies.push_back(function_body("endcall"));
  note_rest(named_before, node);
  return &node;
}

const Node* Parser::filter_block() {
  const int line = tokens_.take().line;
  const Node* filter = expressions_.filters(expressions_.filter(nullptr));
  Block inside = function_body("endfilter");
  Node& node = make(NodeKind::filter_block, line, {filter});
  node.bodies.push_back(std::move(inside));
  return &node;
}

const Node* Parser::with() {
  const int line = tokens_.take().line;
  std::vector<const Node*> values;
  std::vector<std::string> names;
  while (!tokens_.at(TokenKind::block_end)) {
    if (!names.empty()) tokens_.expect_symbol(",");
    names.push_back(tokens_.expect(TokenKind::name, "a name to assign to").text);
    tokens_.expect_symbol("=");
    values.push_back(expressions_.expression());
  }
  Block inside = closed_body("endwith");
  Node& node = make(NodeKind::with, line, std::move(values));
  node.names = std::move(names);
  node.bodies.push_back(std::move(inside));
  return &node;
}

const Node* Parser::generation() {
  const int line = tokens_.take().line;
  Block inside = function_body("endgeneration");
  Node& node = make(NodeKind::generation, line);
  node.bodies.push_back(std::move(inside));
  return &node;
}

const Node* Parser::print() {
  const int line = tokens_.take().line;
  std::vector<const Node*> values;
  while (!tokens_.at(TokenKind::block_end)) {
    if (!values.empty()) tokens_.expect_symbol(",");
    values.push_back(expressions_.expression());
  }
  return &make(NodeKind::output, line, std::move(values));
}

const Node* Parser::leave_loop() {
  const Token word = tokens_.take();
  if (loops_ == 0) fail_at(word.line, fmt::format("{{% {} %}} stands outside of a loop", word.text));
  Node& node = make(NodeKind::leave_loop, word.line);
  node.text = word.text;
  return &node;
}

}  // namespace

Syntax parse(std::string_view source) {
  Syntax syntax;
  Parser(source, syntax).run();
  return syntax;
}

}  // namespace shadowkv::jinja
