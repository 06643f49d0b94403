// Finds tokens that are written out in a text: special ones and others that merges do not make.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_spec.h"

namespace shadowkv {

class AddedTokenFinder {
 public:
  struct Segment {
    std::string_view text;  // empty for a token
    int32_t id;             // -1 for text
  };

  AddedTokenFinder() = default;
  // Looks for contents[i] as tokens[i]; where two contents are equal the first counts.
  AddedTokenFinder(std::span<const AddedTokenSpec> tokens, std::span<const std::string> contents);

  // The leftmost-longest tokens of `text` (valid UTF-8) and what lies between them, in order. Without
  // `parse_special` a special token's place stays text. `plain` is empty or has a byte for each of the
  // text's: no token is found across a change of it, and where it is not 0 a special token's place stays
  // text, too.
  [[nodiscard]] std::vector<Segment> split(std::string_view text, bool parse_special,
                                           std::string_view plain = {}) const;

 private:
  struct Node {
    int32_t first_child = -1;
    int32_t next_sibling = -1;
    int32_t token = -1;  // index into tokens_
    char byte = 0;
  };
  struct Match {
    int64_t begin, end;  // bytes
    int32_t token;       // -1: nothing found
  };

  void insert(std::string_view content, int32_t token);
  [[nodiscard]] int32_t child(int32_t node, char byte) const;
  [[nodiscard]] Match find(std::string_view text, int64_t from, std::string_view plain) const;
  // Widens the match by the white space it takes along; false when it does not count here.
  [[nodiscard]] bool settle(std::string_view text, int64_t covered, bool parse_special, Match& match) const;

  std::vector<AddedTokenSpec> tokens_;
  std::vector<Node> nodes_;  // a trie, root first
  std::vector<bool> starts_ = std::vector<bool>(256, false);
};

}  // namespace shadowkv
