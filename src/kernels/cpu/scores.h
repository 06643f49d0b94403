// Log-sum-exp of scores, chunk by chunk.
#pragma once

#include "kernels/cpu/lanes.h"

namespace shadowkv::cpu {

// Subtracts each chunk's largest score from its scores and keeps it. kChunk 0: any `chunk`.
template <int64_t kChunk>
SHADOWKV_INLINE void subtract_largest(float* scores, int64_t chunks, int64_t chunk, float* largest) {
  const int64_t n = kChunk > 0 ? kChunk : chunk;
  for (int64_t c = 0; c < chunks; ++c) {
    float* x = scores + c * n;
    float m = x[0];
    for (int64_t j = 1; j < n; ++j) m = x[j] > m ? x[j] : m;
    for (int64_t j = 0; j < n; ++j) x[j] -= m;
    largest[c] = m;
  }
}

template <int64_t kChunk>
SHADOWKV_INLINE void sum_chunks(const float* x, int64_t chunks, int64_t chunk, float* sums) {
  const int64_t n = kChunk > 0 ? kChunk : chunk;
  for (int64_t c = 0; c < chunks; ++c) {
    float sum = x[c * n];
    for (int64_t j = 1; j < n; ++j) sum += x[c * n + j];
    sums[c] = sum;
  }
}

template <int64_t kChunk>
SHADOWKV_INLINE void chunk_log_sum_exp_of(float* scores, int64_t chunks, int64_t chunk, float* sums,
                                          float* out) {
  subtract_largest<kChunk>(scores, chunks, chunk, out);
  exp_sum(scores, chunks * chunk);
  sum_chunks<kChunk>(scores, chunks, chunk, sums);
  log_each(sums, chunks);
  for (int64_t c = 0; c < chunks; ++c) out[c] += sums[c];
}

// out[c] = log-sum-exp of scores[c * chunk ..], finite. Overwrites scores; sums: room for `chunks` numbers.
SHADOWKV_INLINE void chunk_log_sum_exp(float* scores, int64_t chunks, int64_t chunk, float* sums,
                                       float* out) {
  switch (chunk) {
    case 4:
      return chunk_log_sum_exp_of<4>(scores, chunks, chunk, sums, out);
    case 8:
      return chunk_log_sum_exp_of<8>(scores, chunks, chunk, sums, out);
    default:
      return chunk_log_sum_exp_of<0>(scores, chunks, chunk, sums, out);
  }
}

}  // namespace shadowkv::cpu
