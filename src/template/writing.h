// Values as text: Python's str() and repr(), json.dumps.
#pragma once

#include "template/value.h"

namespace shadowkv::jinja {

// Throws InvalidInput for functions, iterators and loops, which Python shows by their address.
[[nodiscard]] Text to_text(const Value& value, Budget& budget);
[[nodiscard]] std::string real_text(double value);  // repr of a float

struct JsonStyle {
  bool ascii = false;       // escape what is not ASCII
  bool sorted = false;      // keys in order
  bool has_indent = false;  // one item a line
  std::string indent;       // of a level
  std::string item_separator = ", ", key_separator = ": ";
};
// Throws InvalidInput for what JSON has no form for.
[[nodiscard]] Text to_json(const Value& value, const JsonStyle& style, Budget& budget);

}  // namespace shadowkv::jinja
