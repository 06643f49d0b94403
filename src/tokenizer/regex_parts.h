// A text by what a pattern matches in it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"

namespace shadowkv {

struct RegexPart {
  int64_t begin, end;  // bytes
  bool is_match;
};

// The text as matches and what lies between them; `invert` turns is_match around. An empty match right behind
// the last one does not count.
[[nodiscard]] std::vector<RegexPart> find_parts(const Regex& regex, std::string_view text, bool invert,
                                                Regex::Scratch& scratch);

// The text with `content` in the place of every match; an empty text stays one. Throws InvalidInput when it
// grows beyond max_bytes.
[[nodiscard]] std::string replace_matches(const Regex& regex, std::string_view text, std::string_view content,
                                          int64_t max_bytes, Regex::Scratch& scratch);

}  // namespace shadowkv
