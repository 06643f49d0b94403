// Scores of one output, 0 to 1.
#pragma once

#include <string>
#include <string_view>

#include "eval/sample.h"

namespace shadowkv::eval {

// Whose rules: RULER's own, or those that the ShadowKV paper's code scores with (for comparison with its
// tables alone: its question answering takes an empty output for right).
enum class Scoring : uint8_t { ruler, shadowkv };
[[nodiscard]] Scoring parse_scoring(std::string_view name);  // throws InvalidInput naming the known

[[nodiscard]] double score(const Sample& sample, std::string_view output, Scoring scoring);

// RULER's clean-up: white space off both ends, control characters to line ends.
[[nodiscard]] std::string clean_output(std::string_view output);
// Lower case, no punctuation, no articles, single blanks.
[[nodiscard]] std::string normalized(std::string_view text);

}  // namespace shadowkv::eval
