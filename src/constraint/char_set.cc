#include "constraint/char_set.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <tuple>

#include "base/utf8.h"

namespace shadowkv {

void CharSet::add(char32_t low, char32_t high) {
  ranges_.push_back({low, high});
  std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.low < b.low; });
  std::vector<Range> merged;
  for (const Range& range : ranges_) {
    if (!merged.empty() && range.low <= merged.back().high + 1) {
      merged.back().high = std::max(merged.back().high, range.high);
    } else {
      merged.push_back(range);
    }
  }
  ranges_ = std::move(merged);
}

void CharSet::add(const CharSet& other) {
  for (const Range& range : other.ranges_) add(range.low, range.high);
}

CharSet CharSet::inverted() const {
  CharSet out;
  char32_t next = 0;
  for (const Range& range : ranges_) {
    if (range.low > next) out.ranges_.push_back({next, range.low - 1});
    next = range.high + 1;
  }
  if (next <= kLast) out.ranges_.push_back({next, kLast});
  return out;
}

CharSet CharSet::without(const CharSet& other) const {
  CharSet rest = inverted();
  rest.add(other);
  return rest.inverted();
}

bool CharSet::has(char32_t c) const {
  return std::any_of(ranges_.begin(), ranges_.end(),
                     [c](const Range& r) { return r.low <= c && c <= r.high; });
}

namespace {

// Writes ranges of characters as paths of ranges of bytes that share their ends.
class Utf8Paths {
 public:
  Utf8Paths(Grammar& grammar, NodeId from, NodeId to) : grammar_(grammar), from_(from), to_(to) {}

  void add(char32_t low, char32_t high) {
    constexpr std::array<char32_t, 6> kLasts = {0x7F, 0x7FF, 0xD7FF, 0xDFFF, 0xFFFF, 0x10FFFF};
    for (const char32_t last : kLasts) {
      if (low > last) continue;
      if (last != 0xDFFF) split(low, std::min(high, last));
      if (high <= last) return;
      low = last + 1;
    }
  }

 private:
  // Characters of equally many bytes: cut until every byte but a prefix runs over all that it can be.
  void split(char32_t low, char32_t high) {
    for (int bytes = 1; bytes < 4; ++bytes) {
      const char32_t rest = (char32_t{1} << (6 * bytes)) - 1;
      if ((low & ~rest) == (high & ~rest)) continue;
      if (low < 0x80) break;
      if ((low & rest) != 0) return split(low, low | rest), split((low | rest) + 1, high);
      if ((high & rest) != rest) return split(low, (high & ~rest) - 1), split(high & ~rest, high);
    }
    std::string first, last;
    append_utf8(first, low);
    append_utf8(last, high);
    NodeId to = to_;
    for (std::size_t i = first.size(); i-- > 1;) to = before(first[i], last[i], to);
    grammar_.add_bytes(from_, static_cast<uint8_t>(first[0]), static_cast<uint8_t>(last[0]), to);
  }

  NodeId before(char low, char high, NodeId to) {
    const auto [found, is_new] = known_.try_emplace({low, high, to}, 0);
    if (is_new) {
      found->second = grammar_.add_node();
      grammar_.add_bytes(found->second, static_cast<uint8_t>(low), static_cast<uint8_t>(high), to);
    }
    return found->second;
  }

  Grammar& grammar_;
  NodeId from_, to_;
  std::map<std::tuple<char, char, NodeId>, NodeId> known_;
};

}  // namespace

void add_chars_to(Grammar& grammar, NodeId from, const CharSet& set, NodeId to) {
  Utf8Paths paths(grammar, from, to);
  for (const CharSet::Range& range : set.ranges()) paths.add(range.low, range.high);
}

NodeId add_chars(Grammar& grammar, NodeId from, const CharSet& set) {
  const NodeId to = grammar.add_node();
  add_chars_to(grammar, from, set, to);
  return to;
}

}  // namespace shadowkv
