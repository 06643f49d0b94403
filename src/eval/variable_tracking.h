// RULER's variable tracking: one chain of assignments within noise; which variables hold the value?
#pragma once

#include <span>

#include "eval/draw.h"

namespace shadowkv::eval {

inline constexpr int64_t kTrackingAnswerTokens = 30;

// A chain within noise lines: each statement stands before the line of its index, ascending.
struct TrackedChain {
  std::vector<std::string>
      names;  // the first holds the value, each of the others what the one before it holds
  std::string value;
  std::vector<int64_t> before;
  int64_t noise_lines = 0;
};

[[nodiscard]] std::string chain_context(const TrackedChain& chain, Edition edition);
// The whole prompt: a solved example, then the chain that is asked for.
[[nodiscard]] Prompt tracking_prompt(const TrackedChain& example, const TrackedChain& asked, Edition edition);

[[nodiscard]] Sample make_variable_tracking(const Draw& draw);

}  // namespace shadowkv::eval
