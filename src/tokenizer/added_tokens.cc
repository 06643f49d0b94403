#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "base/utf8.h"

namespace shadowkv {
namespace {

// The character that ends at byte `end` > 0 of valid UTF-8.
Utf8Unit character_before(std::string_view text, int64_t end) {
  int64_t begin = end - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[static_cast<size_t>(begin)]) & 0xC0U) == 0x80) --begin;
  return read_utf8(text.substr(static_cast<size_t>(begin)));
}

bool touches_word(std::string_view text, int64_t begin, int64_t end) {
  const bool before = begin > 0 && is_word(character_before(text, begin).code_point);
  const bool after = end < static_cast<int64_t>(text.size()) &&
                     is_word(read_utf8(text.substr(static_cast<size_t>(end))).code_point);
  return before || after;
}

int64_t space_begin(std::string_view text, int64_t end) {
  while (end > 0) {
    const Utf8Unit unit = character_before(text, end);
    if (!is_white_space(unit.code_point)) break;
    end -= unit.length;
  }
  return end;
}

int64_t space_end(std::string_view text, int64_t begin) {
  while (begin < static_cast<int64_t>(text.size())) {
    const Utf8Unit unit = read_utf8(text.substr(static_cast<size_t>(begin)));
    if (!is_white_space(unit.code_point)) break;
    begin += unit.length;
  }
  return begin;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::span<const AddedTokenSpec> tokens,
                                   std::span<const std::string> contents)
    : tokens_(tokens.begin(), tokens.end()), nodes_(1) {
  for (size_t i = 0; i < contents.size(); ++i) insert(contents[i], static_cast<int32_t>(i));
}

int32_t AddedTokenFinder::child(int32_t node, char byte) const {
  int32_t next = nodes_[static_cast<size_t>(node)].first_child;
  while (next >= 0 && nodes_[static_cast<size_t>(next)].byte != byte) {
    next = nodes_[static_cast<size_t>(next)].next_sibling;
  }
  return next;
}

void AddedTokenFinder::insert(std::string_view content, int32_t token) {
  if (content.empty()) return;
  starts_[static_cast<unsigned char>(content[0])] = true;
  int32_t node = 0;
  for (const char byte : content) {
    int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({-1, nodes_[static_cast<size_t>(node)].first_child, -1, byte});
      nodes_[static_cast<size_t>(node)].first_child = next;
    }
    node = next;
  }
  if (nodes_[static_cast<size_t>(node)].token < 0) nodes_[static_cast<size_t>(node)].token = token;
}

AddedTokenFinder::Match AddedTokenFinder::find(std::string_view text, int64_t from,
                                               std::string_view plain) const {
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t begin = from; begin < size; ++begin) {
    if (!starts_[static_cast<unsigned char>(text[static_cast<size_t>(begin)])]) continue;
    Match best{begin, begin, -1};
    int32_t node = 0;
    for (int64_t at = begin; at < size; ++at) {
      if (!plain.empty() && plain[static_cast<size_t>(at)] != plain[static_cast<size_t>(begin)]) break;
      node = child(node, text[static_cast<size_t>(at)]);
      if (node < 0) break;
      const int32_t token = nodes_[static_cast<size_t>(node)].token;
      if (token >= 0) best = {begin, at + 1, token};
    }
    if (best.token >= 0) return best;
  }
  return {size, size, -1};
}

bool AddedTokenFinder::settle(std::string_view text, int64_t covered, bool parse_special,
                              Match& match) const {
  const AddedTokenSpec& token = tokens_[static_cast<size_t>(match.token)];
  if (token.special && !parse_special) return false;
  if (token.single_word && touches_word(text, match.begin, match.end)) return false;
  if (token.lstrip) match.begin = std::max(space_begin(text, match.begin), covered);
  if (token.rstrip) match.end = space_end(text, match.end);
  return true;
}

std::vector<AddedTokenFinder::Segment> AddedTokenFinder::split(std::string_view text, bool parse_special,
                                                               std::string_view plain) const {
  std::vector<Segment> segments;
  const auto add_text = [&](int64_t begin, int64_t end) {
    if (begin < end) {
      segments.push_back({text.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), -1});
    }
  };
  int64_t covered = 0;
  int64_t from = 0;
  while (!tokens_.empty()) {
    Match match = find(text, from, plain);
    if (match.token < 0) break;
    from = match.end;
    const bool is_plain = !plain.empty() && plain[static_cast<size_t>(match.begin)] != '\0';
    if (!settle(text, covered, parse_special && !is_plain, match)) continue;
    add_text(covered, match.begin);
    segments.push_back({{}, tokens_[static_cast<size_t>(match.token)].id});
    covered = match.end;
  }
  add_text(covered, static_cast<int64_t>(text.size()));
  return segments;
}

}  // namespace shadowkv
