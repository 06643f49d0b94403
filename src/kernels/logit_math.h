// How a row of logits changes before sampling_math.h draws from it, and what of it as it was makes up
// log-probabilities. Every number is rounded to float at every step and sums are of integers, so that all
// devices agree to the bit.
#pragma once

#include <cstdint>

#include "kernels/sampling_math.h"
#include "kernels/views.h"

namespace shadowkv {

// A product that is rounded before anything is added to it. No source that includes this is compiled for
// processors whose multiply-add the host's compiler would take.
SHADOWKV_HD inline float rounded_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

struct LogitPenalties {
  float repetition = 1.0f;  // above 0: divides what is positive, multiplies what is not
  float presence = 0.0f;    // subtracted once
  float frequency = 0.0f;   // subtracted each time
};

// The logit of a token that stands in prompt or answer, in the latter so many times.
SHADOWKV_HD inline float penalized_logit(float logit, const LogitPenalties& penalties, int32_t in_answer) {
  const float repeated =
      logit > 0 ? logit / penalties.repetition : rounded_product(logit, penalties.repetition);
  if (in_answer == 0) return repeated;
  const float often = rounded_product(penalties.frequency, static_cast<float>(in_answer));
  return repeated - often - penalties.presence;
}

// A token whose logit changes.
struct MarkedToken {
  int32_t id = 0;
  int32_t seen = 0;  // 0: penalties pass it over; else 1 + times in the answer
  float bias = 0.0f;
};

SHADOWKV_HD inline float changed_logit(float logit, const MarkedToken& token,
                                       const LogitPenalties& penalties) {
  const float biased = logit + token.bias;
  return token.seen == 0 ? biased : penalized_logit(biased, penalties, token.seen - 1);
}

// Bit id % 64 of word id / 64 says whether a token may be drawn.
SHADOWKV_HD constexpr int64_t mask_words(int64_t vocab) {
  return (vocab + 63) / 64;
}
SHADOWKV_HD inline bool is_allowed(const uint64_t* mask, int64_t id) {
  return (mask[id / 64] >> (id % 64) & 1) != 0;
}

// What is done with the logits of one sequence. Its memory lasts from step to step; what is fresh takes its
// place in there.
struct LogitRow {
  MarkedToken* marked = nullptr;  // [marked_count], each token once
  int32_t marked_count = 0;
  int32_t fresh_place = -1;  // of the marked token that `fresh` replaces; -1: all stand
  MarkedToken fresh = {};
  LogitPenalties penalties = {};
  uint64_t* mask = nullptr;              // [mask_words(vocab)]; null: all tokens are allowed
  const uint64_t* fresh_mask = nullptr;  // likewise, replaces `mask`; null: that stands
  float* raw = nullptr;                  // [vocab] keeps the logits as they were; null: nobody asks for them
  int32_t likeliest = -1;                // how many of the likeliest are found, to kMostRanked; -1: no ranks

  [[nodiscard]] SHADOWKV_HD bool changes() const { return marked_count > 0 || mask != nullptr; }
};

inline constexpr int kMostRanked = 20;
inline constexpr float kNaturalSteepness = 1.44269504f;  // log2(e): distances of the softmax itself

// What log-probabilities are made of: a token's is ln(2^40 / weight) + logit - largest.
struct TokenRanks {
  uint64_t weight = 0;   // of all tokens, as sampling_math.h has it, by kNaturalSteepness
  float largest = 0.0f;  // logit
  float own = 0.0f;      // logit of the token that was drawn
  int32_t ids[kMostRanked] = {};
  float logits[kMostRanked] = {};  // of the likeliest, best first, of equals the lower id
};

}  // namespace shadowkv
