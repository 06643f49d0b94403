// A template as a tree. Nodes lie in one store and point to one another, so that a tree's depth costs nothing
// when it is given back.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "template/value.h"

namespace shadowkv::jinja {

enum class NodeKind : uint8_t {
  // Expressions
  literal,      // value
  name,         // text
  list,         // parts
  tuple,        // parts
  dict,         // parts: key, value, key, value, ...
  attribute,    // parts[0] . text
  item,         // parts[0] [ parts[1] ]
  slice,        // parts: begin, end, step, null where left out
  call,         // parts[0] ( arguments )
  filter,       // parts[0] | text ( arguments ); no part in a block's filter
  test,         // parts[0] is text ( arguments )
  unary,        // text: "-", "+" or "not"
  binary,       // parts[0] text parts[1]
  concat,       // parts, "~" between them
  compare,      // parts with names as the operators between them
  conditional,  // parts[0] if parts[1] else parts[2] (null where left out)
  // Statements
  data,          // text
  output,        // parts
  branch,        // parts: conditions; bodies in parts.size() + 1 blocks, the last for "else"
  loop,          // target, parts: iterable, condition or null; bodies: each, else
  assign,        // target, parts[0]
  assign_block,  // target, parts: filters applied or none; bodies[0]
  macro,         // text, names with parts as defaults (null where there is none); bodies[0]
  call_block,    // as macro without text; call
  filter_block,  // parts[0]; bodies[0]
  with,          // targets in names by parts; bodies[0]
  generation,    // bodies[0]
  leave_loop,    // text: "break" or "continue"
  // Targets of assignments: name, tuple, or
  space_attribute,  // text . names[0]
};

struct Argument {
  std::string name;  // empty: by position; "*" and "**": spread
  const Node* value;
};

using Block = std::vector<const Node*>;

struct Node {
  NodeKind kind = NodeKind::data;
  int line = 1;
  int64_t depth = 1;  // of expressions: 1 more than that of the deepest part
  std::string text = {};
  Value value = None{};
  std::vector<const Node*> parts = {};
  std::vector<Argument> arguments = {};
  std::vector<std::string> names = {};
  std::vector<Block> bodies = {};
  std::vector<std::string_view> rest = {};  // of a macro: which of varargs, kwargs and caller its body names
  const Node* target = nullptr;
  const Node* call = nullptr;
};

struct Syntax {
  std::deque<Node> nodes;
  Block body;
};

}  // namespace shadowkv::jinja
