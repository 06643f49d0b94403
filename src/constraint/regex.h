// Regular expressions as constraints. Understood are, over Unicode characters:
//   characters, . (any but a line feed), | ( ) (?: ) and named groups, as groups alone;
//   * + ? {n} {n,} {n,m}, a ? behind them changing nothing;
//   [abc] [a-z] [^..]; \d \w \s \D \W \S of ASCII, in classes, too;
//   \n \r \t \f \v \0 \xHH \uHHHH \u{H..}, and \ before a punctuation character;
//   ^ and $ (\A, \Z, \z) at the beginning and the end of the pattern or of an alternative of it.
// Refused by name: back references, look-around, \b, flags, \p, possessive quantifiers, anchors elsewhere.
#pragma once

#include <functional>
#include <string_view>

#include "constraint/char_set.h"
#include "constraint/grammar.h"

namespace shadowkv {

inline constexpr int64_t kMostPatternBytes = 8192;
inline constexpr int kMostGroups = 100;  // within each other

enum class RegexMatch : uint8_t {
  whole,  // the text is what the pattern matches
  search  // the pattern matches somewhere in it, unless anchored
};

// Appends one character of a set, as it is written; returns the node behind.
using AddChar = std::function<NodeId(Grammar& grammar, NodeId from, const CharSet& set)>;

// Appends texts that match; returns the node behind. Throws InvalidInput with the pattern's byte and what is
// wrong there.
[[nodiscard]] NodeId add_regex(Grammar& grammar, NodeId from, std::string_view pattern, RegexMatch match,
                               const AddChar& add_char);

}  // namespace shadowkv
