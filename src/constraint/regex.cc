#include "constraint/regex.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"

namespace shadowkv {
namespace {

constexpr int64_t kNoMost = -1;

struct Part;
using Sequence = std::vector<Part>;
using Alternatives = std::vector<Sequence>;

// A character or a group, and how often.
struct Part {
  CharSet chars;  // where there is no group
  std::shared_ptr<const Alternatives> group;
  int64_t least = 1;
  int64_t most = 1;
};

// An alternative of the whole pattern.
struct Anchored {
  Sequence sequence;
  bool at_begin = false;
  bool at_end = false;
};

CharSet digits() {
  return {U'0', U'9'};
}
CharSet word() {
  CharSet set = digits();
  set.add(U'a', U'z');
  set.add(U'A', U'Z');
  set.add(U'_', U'_');
  return set;
}
CharSet space() {
  CharSet set(U'\t', U'\r');
  set.add(U' ', U' ');
  return set;
}

class Parser {
 public:
  explicit Parser(std::string_view pattern) : pattern_(pattern) {
    require(std::ssize(pattern) <= kMostPatternBytes, "the pattern has {} bytes; at most {} are taken",
            pattern.size(), kMostPatternBytes);
    const auto invalid = find_invalid_utf8(pattern);
    require(!invalid, "the pattern is no UTF-8 from byte {} on", invalid.value_or(0));
  }

  std::vector<Anchored> whole() {
    std::vector<Anchored> alternatives;
    do {
      Anchored one;
      while (take_anchor("^", "\\A")) one.at_begin = true;
      one.sequence = sequence(0);
      while (take_anchor("$", "\\Z") || take_anchor("$", "\\z")) one.at_end = true;
      require_here(is_at_end() || peek() == '|' || peek() == ')',
                   "an anchor within the pattern is not supported");
      alternatives.push_back(std::move(one));
    } while (take("|"));
    require_here(is_at_end(), "there is a ) without its (");
    return alternatives;
  }

 private:
  // ---- reading
  [[nodiscard]] bool is_at_end() const { return at_ == pattern_.size(); }
  [[nodiscard]] char peek() const { return pattern_[at_]; }
  [[nodiscard]] bool sees(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!sees(text)) return false;
    at_ += text.size();
    return true;
  }
  bool take_anchor(std::string_view one, std::string_view other) { return take(one) || take(other); }
  char32_t take_char() {
    const Utf8Unit unit = read_utf8(pattern_.substr(at_));
    at_ += static_cast<std::size_t>(unit.length);
    return unit.code_point;
  }
  void require_here(bool holds, std::string_view what) const {
    require(holds, "the pattern cannot be used: at byte {}, {}", at_, what);
  }

  // ---- structure
  Alternatives alternatives(int depth) {
    require_here(depth <= kMostGroups, "groups are nested too deeply");
    Alternatives all;
    do {
      all.push_back(sequence(depth));
    } while (take("|"));
    return all;
  }

  Sequence sequence(int depth) {
    Sequence parts;
    while (!is_at_end() && peek() != '|' && peek() != ')') {
      if (sees("$") || sees("\\Z") || sees("\\z")) {
        require_here(depth == 0, "an anchor within a group is not supported");
        break;
      }
      Part part = atom(depth);
      repeat(part);
      parts.push_back(std::move(part));
    }
    return parts;
  }

  Part atom(int depth) {
    if (take("(")) return group(depth);
    if (take("[")) return {.chars = char_class(), .group = nullptr};
    if (take(".")) return {.chars = CharSet(U'\n', U'\n').inverted(), .group = nullptr};
    require_here(!sees("^") && !sees("\\A"), "an anchor within the pattern is not supported");
    require_here(!sees("*") && !sees("+") && !sees("?"), "there is nothing to repeat");
    require_here(!sees("{"), "a { stands where nothing can be repeated; write \\{ for the character");
    if (take("\\")) return {.chars = escape(), .group = nullptr};
    const char32_t c = take_char();
    return {.chars = CharSet(c, c), .group = nullptr};
  }

  Part group(int depth) {
    if (take("?")) {
      if (!take(":")) {
        take("P");
        require_here(sees("<") && !sees("<=") && !sees("<!"),
                     "this kind of group (look-around, flags, reference) is not supported");
        while (!is_at_end() && !sees(">")) (void)take_char();
        require_here(take(">"), "the name of a group has no end");
      }
    }
    auto inner = std::make_shared<Alternatives>(alternatives(depth + 1));
    require_here(take(")"), "there is a ( without its )");
    return {.chars = {}, .group = std::move(inner)};
  }

  void repeat(Part& part) {
    if (take("*")) {
      part.least = 0, part.most = kNoMost;
    } else if (take("+")) {
      part.most = kNoMost;
    } else if (take("?")) {
      part.least = 0;
    } else if (take("{")) {
      part.least = count();
      part.most = part.least;
      if (take(",")) part.most = sees("}") ? kNoMost : count();
      require_here(take("}"), "a { has no }");
      require_here(part.most == kNoMost || part.most >= part.least,
                   "the counts in { } are in the wrong order");
    } else {
      return;
    }
    require_here(!sees("+"), "possessive quantifiers are not supported");
    take("?");  // as few as possible is as many texts
    require_here(!sees("*") && !sees("+") && !sees("?") && !sees("{"), "what is repeated is repeated again");
  }

  int64_t count() {
    require_here(!is_at_end() && peek() >= '0' && peek() <= '9', "a count is missing in { }");
    int64_t value = 0;
    while (!is_at_end() && peek() >= '0' && peek() <= '9') {
      value = 10 * value + (peek() - '0');
      require_here(value <= kMostNodes, "a count in { } is too large");
      ++at_;
    }
    return value;
  }

  // ---- characters
  char32_t hex(int64_t least, int64_t most) {
    char32_t value = 0;
    int64_t read = 0;
    for (; read < most && !is_at_end(); ++read, ++at_) {
      const char c = peek();
      const bool is_digit = c >= '0' && c <= '9', is_low = c >= 'a' && c <= 'f',
                 is_high = c >= 'A' && c <= 'F';
      if (!is_digit && !is_low && !is_high) break;
      value = 16 * value + static_cast<char32_t>(is_digit ? c - '0' : is_low ? c - 'a' + 10 : c - 'A' + 10);
    }
    require_here(read >= least && value <= 0x10FFFF && !(value >= 0xD800 && value <= 0xDFFF),
                 "an escape needs the digits of a character");
    return value;
  }

  // Behind a backslash.
  CharSet escape() {
    require_here(!is_at_end(), "a \\ stands at the end");
    const auto start = at_;
    const char32_t c = take_char();
    const auto one = [](char32_t x) { return CharSet(x, x); };
    switch (c) {
      case 'd':
        return digits();
      case 'w':
        return word();
      case 's':
        return space();
      case 'D':
        return digits().inverted();
      case 'W':
        return word().inverted();
      case 'S':
        return space().inverted();
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 't':
        return one('\t');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 'x':
        return one(hex(2, 2));
      case 'u': {
        if (!take("{")) return one(hex(4, 4));
        const char32_t value = hex(1, 6);
        require_here(take("}"), "a \\u{ has no }");
        return one(value);
      }
      default:
        break;
    }
    if (c == '0' && (is_at_end() || peek() < '0' || peek() > '9')) return one(0);
    const bool is_plain = c < 0x80 && !word().has(c);
    if (!is_plain) at_ = start;
    require_here(is_plain, "this escape is not supported");
    return one(c);
  }

  // Behind a [.
  CharSet char_class() {
    const bool is_inverted = take("^");
    CharSet set;
    for (bool is_first = true; is_first || !sees("]"); is_first = false) {
      require_here(!is_at_end(), "a [ has no ]");
      require_here(!sees("[:"), "named classes are not supported");
      const CharSet low = class_part();
      const bool is_range = sees("-") && !sees("-]");
      if (!is_range) {
        set.add(low);
        continue;
      }
      take("-");
      require_here(!is_at_end(), "a [ has no ]");
      const CharSet high = class_part();
      const auto is_one = [](const CharSet& x) {
        return x.ranges().size() == 1 && x.ranges()[0].low == x.ranges()[0].high;
      };
      require_here(is_one(low) && is_one(high) && low.ranges()[0].low <= high.ranges()[0].low,
                   "a range of a [ ] is none");
      set.add(low.ranges()[0].low, high.ranges()[0].low);
    }
    take("]");
    return is_inverted ? set.inverted() : set;
  }

  CharSet class_part() {
    if (take("\\")) {
      if (take("b")) return {U'\b', U'\b'};
      return escape();
    }
    const char32_t c = take_char();
    return {c, c};
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
};

class Builder {
 public:
  Builder(Grammar& grammar, const AddChar& add_char) : grammar_(grammar), add_char_(add_char) {}

  NodeId add(NodeId from, const Alternatives& all) {
    const NodeId end = grammar_.add_node();
    for (const Sequence& sequence : all) {
      const NodeId start = grammar_.add_node();
      grammar_.add_skip(from, start);
      grammar_.add_skip(add(start, sequence), end);
    }
    return end;
  }
  NodeId add(NodeId from, const Sequence& sequence) {
    for (const Part& part : sequence) from = add(from, part);
    return from;
  }
  NodeId any(NodeId from) {
    return add(from, Part{.chars = CharSet::all(), .group = nullptr, .least = 0, .most = kNoMost});
  }

 private:
  NodeId once(NodeId from, const Part& part) {
    return part.group ? add(from, *part.group) : add_char_(grammar_, from, part.chars);
  }

  NodeId add(NodeId from, const Part& part) {
    for (int64_t i = 0; i < part.least; ++i) from = once(from, part);
    if (part.most == part.least) return from;
    const NodeId end = grammar_.add_node();
    if (part.most == kNoMost) {
      const NodeId loop = grammar_.add_node();
      grammar_.add_skip(from, loop);
      grammar_.add_skip(loop, end);
      grammar_.add_skip(once(loop, part), loop);
      return end;
    }
    for (int64_t i = part.least; i < part.most; ++i) {  // each only behind the one before
      grammar_.add_skip(from, end);
      from = once(from, part);
    }
    grammar_.add_skip(from, end);
    return end;
  }

  Grammar& grammar_;
  const AddChar& add_char_;
};

}  // namespace

NodeId add_regex(Grammar& grammar, NodeId from, std::string_view pattern, RegexMatch match,
                 const AddChar& add_char) {
  const std::vector<Anchored> alternatives = Parser(pattern).whole();
  Builder builder(grammar, add_char);
  const NodeId end = grammar.add_node();
  for (const Anchored& one : alternatives) {
    NodeId at = grammar.add_node();
    grammar.add_skip(from, at);
    if (match == RegexMatch::search && !one.at_begin) at = builder.any(at);
    at = builder.add(at, one.sequence);
    if (match == RegexMatch::search && !one.at_end) at = builder.any(at);
    grammar.add_skip(at, end);
  }
  return end;
}

}  // namespace shadowkv
