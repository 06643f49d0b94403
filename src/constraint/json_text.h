// The parts of JSON text, as constraints.
#pragma once

#include <cstdint>
#include <string_view>

#include "constraint/char_set.h"
#include "constraint/grammar.h"

namespace shadowkv {

// Rules that all parts share; made once a grammar, behind its first rule. Numbers are finite in double
// precision, strings hold no half of a surrogate pair, and white space between parts is bounded, so that
// every reader takes what is written.
struct JsonRules {
  RuleId space;   // nothing, a space, or up to two line feeds and 20 spaces or tabs
  RuleId text;    // a string
  RuleId number;  // any number
  RuleId value;   // anything
  RuleId object;  // any object
  RuleId array;   // any array
};
[[nodiscard]] JsonRules add_json_rules(Grammar& grammar);

// One character of a string, written as itself or, where it must be, escaped. Returns the node behind.
[[nodiscard]] NodeId add_string_char(Grammar& grammar, NodeId from, const CharSet& set);
// Any character of a string, in every way to write it.
[[nodiscard]] NodeId add_any_string_char(Grammar& grammar, NodeId from);

// Whole numbers from least to most, without leading zeros; both at most kLargestWhole either side of 0.
inline constexpr int64_t kLargestWhole = 999'999'999'999'999'999;
[[nodiscard]] NodeId add_whole(Grammar& grammar, NodeId from, int64_t least, int64_t most);

}  // namespace shadowkv
