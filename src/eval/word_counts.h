// RULER's two aggregation tasks: the most common of a numbered list of words, and of a coded text.
#pragma once

#include <span>

#include "eval/draw.h"

namespace shadowkv::eval {

inline constexpr int64_t kCommonAnswerTokens = 120;
inline constexpr int64_t kFrequentAnswerTokens = 50;

// Common words: a solved example, then the list that is asked about.
struct WordList {
  std::vector<std::string> words;   // in order, repeats included
  std::vector<std::string> common;  // the ten
};
[[nodiscard]] Prompt common_words_prompt(const WordList& example, const WordList& asked);
[[nodiscard]] Sample make_common_words(const Draw& draw);

// How often the word of rank k, from 1, stands in a coded text of size `size`: floor(size k^-2 / zeta(2)).
[[nodiscard]] int64_t frequent_count(int64_t size, int64_t rank);
[[nodiscard]] Prompt frequent_words_prompt(std::string_view context);
[[nodiscard]] Sample make_frequent_words(const Draw& draw);

}  // namespace shadowkv::eval
