#include "constraint/json_text.h"

#include <array>
#include <string>

#include "base/check.h"

namespace shadowkv {
namespace {

// Digits of a number's whole part and of its fraction at most; two more of an exponent: far from infinity.
constexpr int kMostDigits = 20;

void add_digit(Grammar& grammar, NodeId from, NodeId to, char low = '0', char high = '9') {
  grammar.add_bytes(from, static_cast<uint8_t>(low), static_cast<uint8_t>(high), to);
}

// `least` to `most` further digits.
NodeId add_digits(Grammar& grammar, NodeId from, int least, int most) {
  const NodeId end = grammar.add_node();
  for (int i = 0; i < most; ++i) {
    if (i >= least) grammar.add_skip(from, end);
    const NodeId next = grammar.add_node();
    add_digit(grammar, from, next);
    from = next;
  }
  grammar.add_skip(from, end);
  return end;
}

NodeId add_number(Grammar& grammar, NodeId from) {
  const NodeId positive = grammar.text(from, "-");
  grammar.add_skip(from, positive);
  const NodeId first = grammar.add_node();
  add_digit(grammar, positive, first, '1', '9');
  const NodeId whole = add_digits(grammar, first, 0, kMostDigits - 1);
  grammar.add_skip(grammar.text(positive, "0"), whole);
  const NodeId fraction = add_digits(grammar, grammar.text(whole, "."), 1, kMostDigits);
  grammar.add_skip(whole, fraction);
  const NodeId sign = grammar.add_node(), power = grammar.add_node();
  for (const char e : {'e', 'E'}) add_digit(grammar, fraction, sign, e, e);
  for (const char c : {'+', '-'}) add_digit(grammar, sign, power, c, c);
  grammar.add_skip(sign, power);
  const NodeId end = add_digits(grammar, power, 1, 2);
  grammar.add_skip(fraction, end);
  return end;
}

// Up to `most` of two characters.
NodeId add_up_to(Grammar& grammar, NodeId from, std::string_view characters, int most) {
  const NodeId end = grammar.add_node();
  for (int i = 0; i < most; ++i) {
    grammar.add_skip(from, end);
    const NodeId next = grammar.add_node();
    for (const char c : characters) add_digit(grammar, from, next, c, c);
    from = next;
  }
  grammar.add_skip(from, end);
  return end;
}

NodeId add_space(Grammar& grammar, NodeId from) {
  const NodeId lines = add_up_to(grammar, grammar.text(from, "\n"), "\n", 1);
  const NodeId end = add_up_to(grammar, lines, " \t", 20);
  grammar.add_skip(grammar.text(from, " "), end);
  grammar.add_skip(from, end);
  return end;
}

NodeId add_hex(Grammar& grammar, NodeId from, int count) {
  for (int i = 0; i < count; ++i) {
    const NodeId next = grammar.add_node();
    add_digit(grammar, from, next);
    add_digit(grammar, from, next, 'a', 'f');
    add_digit(grammar, from, next, 'A', 'F');
    from = next;
  }
  return from;
}

// \uXXXX, halves of surrogate pairs only together.
void add_unicode_escape(Grammar& grammar, NodeId from, NodeId to) {
  const NodeId plain = grammar.add_node(), d = grammar.add_node(), low = grammar.add_node();
  add_digit(grammar, from, plain);
  for (const auto& [first, last] : {std::pair('a', 'c'), {'e', 'f'}, {'A', 'C'}, {'E', 'F'}}) {
    add_digit(grammar, from, plain, first, last);
  }
  for (const char c : {'d', 'D'}) add_digit(grammar, from, d, c, c);
  grammar.add_skip(add_hex(grammar, plain, 3), to);
  const NodeId basic = grammar.add_node(), high = grammar.add_node();
  add_digit(grammar, d, basic, '0', '7');
  grammar.add_skip(add_hex(grammar, basic, 2), to);
  for (const auto& [first, last] : {std::pair('8', '9'), {'a', 'b'}, {'A', 'B'}})
    add_digit(grammar, d, high, first, last);
  const NodeId second = grammar.text(add_hex(grammar, high, 2), "\\u");
  for (const char c : {'d', 'D'}) add_digit(grammar, second, low, c, c);
  const NodeId rest = grammar.add_node();
  for (const auto& [first, last] : {std::pair('c', 'f'), {'C', 'F'}})
    add_digit(grammar, low, rest, first, last);
  grammar.add_skip(add_hex(grammar, rest, 2), to);
}

CharSet plain_chars() {
  CharSet special(0, 0x1F);
  special.add(U'"', U'"');
  special.add(U'\\', U'\\');
  return special.inverted();
}

// `open` element ("," element)* `close`, or without elements.
template <typename AddElement>
NodeId add_list(Grammar& grammar, NodeId from, const JsonRules& rules, std::string_view brackets,
                const AddElement& add_element) {
  const NodeId inside = grammar.call(grammar.text(from, brackets.substr(0, 1)), rules.space);
  const NodeId element = grammar.add_node();
  grammar.add_skip(inside, element);
  const NodeId behind = add_element(element);
  grammar.add_skip(grammar.call(grammar.text(behind, ","), rules.space), element);
  const NodeId end = grammar.text(grammar.call(behind, rules.space), brackets.substr(1));
  grammar.add_bytes(inside, static_cast<uint8_t>(brackets[1]), static_cast<uint8_t>(brackets[1]), end);
  return end;
}

// Digits of numbers of one length, from `low` to `high`.
NodeId add_digits_between(Grammar& grammar, NodeId from, std::string_view low, std::string_view high) {
  if (low.empty()) return from;
  const auto rest = static_cast<int>(low.size()) - 1;
  const NodeId end = grammar.add_node();
  const auto branch = [&](char first, char last, const std::string& least, const std::string& most) {
    if (first > last) return;
    const NodeId next = grammar.add_node();
    add_digit(grammar, from, next, first, last);
    grammar.add_skip(add_digits_between(grammar, next, least, most), end);
  };
  const std::string zeros(static_cast<std::size_t>(rest), '0'), nines(static_cast<std::size_t>(rest), '9');
  const std::string low_rest(low.substr(1)), high_rest(high.substr(1));
  if (low_rest == zeros && high_rest == nines) {  // all there are behind each first digit
    const NodeId next = grammar.add_node();
    add_digit(grammar, from, next, low[0], high[0]);
    grammar.add_skip(add_digits(grammar, next, rest, rest), end);
  } else if (low[0] == high[0]) {
    branch(low[0], low[0], low_rest, high_rest);
  } else {
    branch(low[0], low[0], low_rest, nines);
    branch(static_cast<char>(low[0] + 1), static_cast<char>(high[0] - 1), zeros, nines);
    branch(high[0], high[0], zeros, high_rest);
  }
  return end;
}

// From 0 on.
void add_natural(Grammar& grammar, NodeId from, int64_t least, int64_t most, NodeId to) {
  const std::string high = std::to_string(most);
  std::string low = std::to_string(least);
  while (low.size() < high.size()) {
    grammar.add_skip(add_digits_between(grammar, from, low, std::string(low.size(), '9')), to);
    low.assign(low.size() + 1, '0');
    low[0] = '1';
  }
  grammar.add_skip(add_digits_between(grammar, from, low, high), to);
}

}  // namespace

NodeId add_string_char(Grammar& grammar, NodeId from, const CharSet& set) {
  constexpr std::array<std::pair<char32_t, const char*>, 7> kShort = {{{U'"', "\\\""},
                                                                       {U'\\', "\\\\"},
                                                                       {U'\b', "\\b"},
                                                                       {U'\f', "\\f"},
                                                                       {U'\n', "\\n"},
                                                                       {U'\r', "\\r"},
                                                                       {U'\t', "\\t"}}};
  const NodeId end = grammar.add_node();
  CharSet rest = set;
  for (const auto& [c, text] : kShort) {
    if (!set.has(c)) continue;
    grammar.add_skip(grammar.text(from, text), end);
    rest = rest.without({c, c});
  }
  for (char32_t c = 0; c < 0x20; ++c) {
    if (!rest.has(c)) continue;
    grammar.add_skip(grammar.text(from, fmt::format("\\u{:04x}", static_cast<uint32_t>(c))), end);
  }
  add_chars_to(grammar, from, rest.without({0, 0x1F}), end);
  return end;
}

NodeId add_any_string_char(Grammar& grammar, NodeId from) {
  const NodeId end = grammar.add_node();
  add_chars_to(grammar, from, plain_chars(), end);
  const NodeId escape = grammar.text(from, "\\");
  for (const char c : std::string_view("\"\\/bfnrt")) add_digit(grammar, escape, end, c, c);
  add_unicode_escape(grammar, grammar.text(escape, "u"), end);
  return end;
}

NodeId add_whole(Grammar& grammar, NodeId from, int64_t least, int64_t most) {
  require(least <= most, "no whole number lies between {} and {}", least, most);
  require(least >= -kLargestWhole && most <= kLargestWhole,
          "whole numbers from {} to {} were asked for; at most {} either side of 0 is taken", least, most,
          kLargestWhole);
  const NodeId end = grammar.add_node();
  if (least < 0) add_natural(grammar, grammar.text(from, "-"), most < 0 ? -most : 1, -least, end);
  if (most >= 0) add_natural(grammar, from, least > 0 ? least : 0, most, end);
  return end;
}

JsonRules add_json_rules(Grammar& grammar) {
  const JsonRules rules{.space = grammar.add_rule(),
                        .text = grammar.add_rule(),
                        .number = grammar.add_rule(),
                        .value = grammar.add_rule(),
                        .object = grammar.add_rule(),
                        .array = grammar.add_rule()};
  grammar.end_rule(add_space(grammar, grammar.first(rules.space)));
  grammar.end_rule(add_number(grammar, grammar.first(rules.number)));

  const NodeId inside = grammar.text(grammar.first(rules.text), "\"");
  grammar.add_skip(add_any_string_char(grammar, inside), inside);
  grammar.end_rule(grammar.text(inside, "\""));

  const NodeId value = grammar.first(rules.value), end = grammar.add_node();
  for (const char* word : {"true", "false", "null"}) grammar.add_skip(grammar.text(value, word), end);
  for (const RuleId rule : {rules.text, rules.number, rules.object, rules.array})
    grammar.add_call(value, rule, end);
  grammar.end_rule(end);

  const auto element = [&](NodeId from) { return grammar.call(from, rules.value); };
  const auto member = [&](NodeId from) {
    const NodeId colon = grammar.text(grammar.call(from, rules.text), ":");
    return element(grammar.call(colon, rules.space));
  };
  grammar.end_rule(add_list(grammar, grammar.first(rules.object), rules, "{}", member));
  grammar.end_rule(add_list(grammar, grammar.first(rules.array), rules, "[]", element));
  return rules;
}

}  // namespace shadowkv
