// The ops on one row of logits in host memory: what change_logits and rank_tokens do on a CPU, and what a
// sampler does without a device. They ask for no memory.
#pragma once

#include <cstdint>

#include "kernels/logit_math.h"

namespace shadowkv {

// logits: [vocab], changed in place; all that the row points to is in host memory.
void change_row(float* logits, int64_t vocab, const LogitRow& row);

// logits: [vocab] as they were; id: the token that was drawn; likeliest: 0 to kMostRanked, at most vocab.
[[nodiscard]] TokenRanks rank_row(const float* logits, int64_t vocab, int32_t id, int32_t likeliest);

}  // namespace shadowkv
