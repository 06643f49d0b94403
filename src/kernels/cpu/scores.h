// Log-sum-exp of scores, chunk by chunk, and spans of them.
#pragma once

#include <cstddef>
#include <limits>
#include <utility>

#include "kernels/cpu/lanes.h"
#include "kernels/kernels.h"

namespace shadowkv::cpu {

// Lane i takes lane i ^ kStep.
template <int kStep, std::size_t... kLane>
SHADOWKV_INLINE void swap_lanes(const Lanes& x, Lanes& swapped, std::index_sequence<kLane...> /*lanes*/) {
  swapped = __builtin_shufflevector(x, x, (static_cast<int>(kLane) ^ kStep)...);
}

// Every lane becomes the largest (or the sum) of the kChunk lanes that it belongs to; kChunk divides 16.
template <int kChunk, int kStep = 1>
SHADOWKV_INLINE void largest_of_chunks(Lanes& x) {
  if constexpr (kStep < kChunk) {
    Lanes other;
    swap_lanes<kStep>(x, other, std::make_index_sequence<kLanes>());
    x = other > x ? other : x;
    largest_of_chunks<kChunk, 2 * kStep>(x);
  }
}

template <int kChunk, int kStep = 1>
SHADOWKV_INLINE void sum_of_chunks(Lanes& x) {
  if constexpr (kStep < kChunk) {
    Lanes other;
    swap_lanes<kStep>(x, other, std::make_index_sequence<kLanes>());
    x += other;
    sum_of_chunks<kChunk, 2 * kStep>(x);
  }
}

// Of `tokens` <= 16 scores, whole chunks: each chunk's largest score, and the sum of exp(score - largest).
template <int kChunk>
SHADOWKV_INLINE void reduce_lanes(const float* scores, int64_t tokens, float* largest, float* sums) {
  Lanes x, most;
  if (tokens == kLanes)
    load(scores, x);
  else
    load_part(scores, tokens, x);
  most = x;
  largest_of_chunks<kChunk>(most);
  x -= most;
  exp_lanes(x);
  sum_of_chunks<kChunk>(x);
  for (int64_t c = 0; c * kChunk < tokens; ++c) {
    largest[c] = most[c * kChunk];
    sums[c] = x[c * kChunk];
  }
}

template <int kChunk>
SHADOWKV_INLINE void reduce_chunks(const float* scores, int64_t chunks, float* largest, float* sums) {
  constexpr int64_t kInLanes = kLanes / kChunk;
  int64_t c = 0;
  for (; c + kInLanes <= chunks; c += kInLanes) {
    reduce_lanes<kChunk>(scores + c * kChunk, kLanes, largest + c, sums + c);
  }
  if (c < chunks) reduce_lanes<kChunk>(scores + c * kChunk, (chunks - c) * kChunk, largest + c, sums + c);
}

// The same for chunks of any size, one after another.
SHADOWKV_INLINE void reduce_any_chunks(float* scores, int64_t chunks, int64_t chunk, float* largest,
                                       float* sums) {
  for (int64_t c = 0; c < chunks; ++c) {
    float* x = scores + c * chunk;
    largest[c] = max_of(x, chunk);
    for (int64_t i = 0; i < chunk; ++i) x[i] -= largest[c];
    sums[c] = exp_sum(x, chunk);
  }
}

// out[c] = log-sum-exp of scores[c * chunk ..], finite. May overwrite scores; sums: room for `chunks`
// numbers.
SHADOWKV_INLINE void chunk_log_sum_exp(float* scores, int64_t chunks, int64_t chunk, float* sums,
                                       float* out) {
  switch (chunk) {
    case 2:
      reduce_chunks<2>(scores, chunks, out, sums);
      break;
    case 4:
      reduce_chunks<4>(scores, chunks, out, sums);
      break;
    case 8:
      reduce_chunks<8>(scores, chunks, out, sums);
      break;
    case 16:
      reduce_chunks<16>(scores, chunks, out, sums);
      break;
    default:
      reduce_any_chunks(scores, chunks, chunk, out, sums);
  }
  log_each(sums, chunks);
  for (int64_t c = 0; c < chunks; ++c) out[c] += sums[c];
}

// One span as kernels.h says, of `count` <= kSpanScores scores.
SHADOWKV_INLINE void sum_span(const float* scores, int64_t count, float* span) {
  float shares[kSpanScores];
  span[0] = max_of(scores, count);
  span[1] = 0.0f;
  if (span[0] == -std::numeric_limits<float>::infinity()) return;
  for (int64_t i = 0; i < count; ++i) shares[i] = scores[i] - span[0];
  span[1] = exp_sum(shares, count);
}

// All spans of a row of n scores.
SHADOWKV_INLINE void sum_spans(const float* scores, int64_t n, float* spans) {
  for (int64_t first = 0; first < n; first += kSpanScores) {
    const int64_t count = n - first < kSpanScores ? n - first : kSpanScores;
    sum_span(scores + first, count, spans + first / kSpanScores * 2);
  }
}

}  // namespace shadowkv::cpu
