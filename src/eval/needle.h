// One sentence in a haystack, at a given depth: the prompt of the ShadowKV paper, and the classic one.
#pragma once

#include "eval/draw.h"

namespace shadowkv::eval {

enum class NeedlePrompt : uint8_t { paper, classic };
[[nodiscard]] NeedlePrompt parse_needle_prompt(
    std::string_view name);  // throws InvalidInput naming the known

struct NeedlePlan {
  NeedlePrompt prompt = NeedlePrompt::paper;
  int64_t depth_percent = 0;
  const std::string& haystack;  // UTF-8, at least one sentence
  int64_t answer_tokens = 0;    // at most; 0: as the prompt has it
};

// The needle stands after the last sentence or line that ends at or before the depth. Every draw begins at
// another place of the haystack. Throws InvalidInput where the length is too short.
[[nodiscard]] Sample make_needle(const NeedlePlan& plan, const Draw& draw);

// As many needles as turns, the paper's, at depths spread evenly (the plan's is passed over), and a question
// for each in an order that is drawn: the first behind the haystack, each further one behind the answer
// before. Tasks are "turn 1", "turn 2" and so on.
[[nodiscard]] Sample make_needle_turns(const NeedlePlan& plan, int64_t turns, const Draw& draw);
inline constexpr int64_t kMostNeedleTurns = 64;

// `text` with the needle after the last . or line end at or before that share of its bytes; at its end for
// 100.
[[nodiscard]] std::string plant(const std::string& text, const std::string& needle, int64_t depth_percent);

// `count` depths from 0 to 100 per cent, evenly.
[[nodiscard]] std::vector<int64_t> needle_depths(int64_t count);

}  // namespace shadowkv::eval
