// How a token is drawn from a row of logits: integers from the first step on, so that sums come out alike in
// any order and every device draws the same token.
//
// A token's distance is how far its logit lies below the row's largest, in halvings of its probability, as a
// fixed-point number; its weight is 2^-distance, 2^40 for the largest. Tokens of kFarthest halvings or more
// have no weight and are never drawn, nor are those whose logit lies further below the largest than the row's
// gap. Of the others, in order of distance and then of id, top_k keeps the first ones and then top_p the
// fewest whose weights reach its share of what is left. A random number below the sum of the weights that are
// kept says which token it is: they follow one another in order of ids.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/views.h"

namespace shadowkv {

// How the next token of one sequence is drawn.
struct SamplingRow {
  uint64_t seed = 0;
  uint64_t drawn = 0;  // random numbers of this seed that earlier tokens took
  uint64_t share = kWholeShare;
  int32_t top_k = 0;       // 0: no limit
  float steepness = 0.0f;  // halvings of a token's probability by one below the largest logit; 0: greedy
  float gap = kNoGap;      // of min_p: -ln(min_p) * temperature

  static constexpr float kNoGap = std::numeric_limits<float>::infinity();
  static constexpr uint64_t kWholeShare = ~uint64_t{0};  // of top_p, in 2^-64; of less than 1 otherwise
};

inline constexpr float kFarthest = 40.0f;
inline constexpr int kDistanceBits = 26;  // behind the point
inline constexpr uint32_t kNoDistance = ~uint32_t{0};
inline constexpr int64_t kMostSampled = int64_t{1} << 22;  // tokens of a row: their weights fit 64 bits

// No number of a product is added to another: nothing that a compiler may contract.
SHADOWKV_HD inline uint32_t sampling_distance(float logit, float largest, float steepness) {
  const float halvings = (largest - logit) * steepness;
  return halvings < kFarthest ? static_cast<uint32_t>(halvings * static_cast<float>(1 << kDistanceBits))
                              : kNoDistance;
}
// The same of a token that a row may pass over.
SHADOWKV_HD inline uint32_t sampling_distance(float logit, float largest, const SamplingRow& row) {
  return largest - logit <= row.gap ? sampling_distance(logit, largest, row.steepness) : kNoDistance;
}

// Tokens in order: of equal distance the lower id first.
SHADOWKV_HD constexpr uint64_t sampling_key(uint32_t distance, int64_t id) {
  return static_cast<uint64_t>(distance) << 32 | static_cast<uint64_t>(id);
}

// 2^(40 - distance) but for 1 part in 10^8, rounded down.
SHADOWKV_HD constexpr uint64_t sampling_weight(uint32_t distance) {
  if (distance == kNoDistance) return 0;
  const uint32_t behind = distance << (32 - kDistanceBits), x = 0u - behind;  // up to the next whole halving
  // 2^x = 1 + x (c0 + x (c1 + ..)), x and all c in units of 2^-32; the sum of the c is below 1.
  uint32_t sum = 0x000da57b;
  sum = 0x00533542 + static_cast<uint32_t>(uint64_t{sum} * x >> 32);
  sum = 0x02788018 + static_cast<uint32_t>(uint64_t{sum} * x >> 32);
  sum = 0x0e35083c + static_cast<uint32_t>(uint64_t{sum} * x >> 32);
  sum = 0x3d7f84f7 + static_cast<uint32_t>(uint64_t{sum} * x >> 32);
  sum = 0xb17217f7 + static_cast<uint32_t>(uint64_t{sum} * x >> 32);
  const uint64_t power = (uint64_t{1} << 32) + (uint64_t{sum} * x >> 32);
  return power << 8 >> ((distance >> kDistanceBits) + (behind != 0 ? 1u : 0u));
}

// a b = high 2^64 + low.
struct WideProduct {
  uint64_t high, low;
};
SHADOWKV_HD constexpr WideProduct multiply_wide(uint64_t a, uint64_t b) {
  constexpr uint64_t kHalf = 0xffffffff;
  const uint64_t low = (a & kHalf) * (b & kHalf), cross = (a >> 32) * (b & kHalf) + (low >> 32);
  const uint64_t other = (a & kHalf) * (b >> 32) + (cross & kHalf);
  return {(a >> 32) * (b >> 32) + (cross >> 32) + (other >> 32), other << 32 | (low & kHalf)};
}

// Least sum of weights that is a share of `total`; 1 at least.
SHADOWKV_HD constexpr uint64_t share_of(uint64_t total, uint64_t share) {
  const WideProduct product = multiply_wide(total, share);
  const uint64_t least = product.high + (product.low != 0 ? 1 : 0);
  return least > 0 ? least : 1;
}

// The row's random number below `total`: splitmix64 of the seed and of how many were drawn, nothing else.
SHADOWKV_HD constexpr uint64_t draw_below(uint64_t total, const SamplingRow& row) {
  uint64_t x = row.seed + 0x9e3779b97f4a7c15u * (row.drawn + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return multiply_wide(x, total).high;
}

// Draws from `vocab` logits in host memory, at least one.
[[nodiscard]] int32_t draw_token(const float* logits, int64_t vocab, const SamplingRow& row);

}  // namespace shadowkv
