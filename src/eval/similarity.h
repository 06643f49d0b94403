// How alike two texts are, 0 to 1, as LongBench measures it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv::eval {

// Harmonic mean of precision and recall of the words that both have, each as often as both have it.
[[nodiscard]] double words_f1(std::span<const std::string> output, std::span<const std::string> reference);

// ROUGE-L at summary level, of distinct words, as the Python package `rouge` counts it: sentences end at
// every full stop; for each of the reference the union of its longest common subsequences with those of the
// output.
[[nodiscard]] double rouge_l(std::string_view output, std::string_view reference);

// Twice the characters within matching blocks over those of both texts, to a hundredth: `ratio` of the Python
// package fuzzywuzzy over difflib. Longest blocks are found first; of a reference of 200 characters and more,
// those that make up over a hundredth of it begin none.
[[nodiscard]] double edit_similarity(std::string_view output, std::string_view reference);

// Characters of a text, each as a text of its own; white space left out.
[[nodiscard]] std::vector<std::string> characters_of(std::string_view text);

}  // namespace shadowkv::eval
