// Sets of Unicode characters, and the bytes of UTF-8 that they are.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "constraint/grammar.h"

namespace shadowkv {

class CharSet {
 public:
  struct Range {
    char32_t low, high;
    bool operator==(const Range&) const = default;
  };

  CharSet() = default;
  CharSet(char32_t low, char32_t high) { add(low, high); }
  [[nodiscard]] static CharSet all() { return {0, kLast}; }

  void add(char32_t low, char32_t high);
  void add(const CharSet& other);
  [[nodiscard]] CharSet inverted() const;  // of all characters
  [[nodiscard]] CharSet without(const CharSet& other) const;
  [[nodiscard]] bool has(char32_t c) const;
  [[nodiscard]] bool is_empty() const { return ranges_.empty(); }
  [[nodiscard]] const std::vector<Range>& ranges() const { return ranges_; }

 private:
  static constexpr char32_t kLast = 0x10FFFF;
  std::vector<Range> ranges_;  // in order, apart
};

// One character of the set, as UTF-8; surrogates are none. Returns the node behind.
[[nodiscard]] NodeId add_chars(Grammar& grammar, NodeId from, const CharSet& set);
// The same up to a node that is there already.
void add_chars_to(Grammar& grammar, NodeId from, const CharSet& set, NodeId to);

}  // namespace shadowkv
