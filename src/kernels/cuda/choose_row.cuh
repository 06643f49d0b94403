// One row's choice: the best entries of the scores of a KV head's query heads.
#pragma once

#include "kernels/cuda/selection.cuh"

namespace shadowkv::cuda {

// What a block of choose_groups.cu chooses from: row blockIdx.x.
struct GroupChoiceParams {
  const float* scores;    // [B, H, n]
  const float2* spans;    // [B, H, span_count] of long rows
  const int32_t* limits;  // [B]
  float* lses;            // [B, H]
  int64_t kv_heads;
  int group;  // query heads of a KV head
  int n;
  int span_count;
  int room;

  __device__ int limit() const { return limits[blockIdx.x / static_cast<unsigned>(kv_heads)]; }
  __device__ Choice choice(int limit, int32_t* chosen) const { return {n, min(limit, room), room, chosen}; }
  __device__ const float* row() const { return scores + blockIdx.x * int64_t{group} * n; }
  __device__ const float2* row_spans() const { return spans + blockIdx.x * int64_t{group} * span_count; }
};

inline constexpr int kMostGroup = 256;

// Raises the best share by a score's; a head without any open entry has none (not a number, which fmaxf
// drops).
__device__ inline void raise_by(float& best, float score, float lse) {
  best = fmaxf(best, score - lse);
}

// Factor of a sum of exp(number - largest) when a larger number takes that place.
__device__ inline float rescale(float largest, float most) {
  return fast_exp2(kLog2e * (largest - (most == kMinusInfinity ? 0.0f : most)));
}

// Scores [first, first + 4) of a row. kVectors: rows start at multiples of 16 bytes; from first >= n on
// anything.
template <bool kVectors>
__device__ inline float4 load_four(const float* row, int first, int n) {
  if constexpr (kVectors) {
    return *reinterpret_cast<const float4*>(row + (first < n ? first : 0));
  } else {
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = first + i < n ? row[first + i] : kMinusInfinity;
    return make_float4(x[0], x[1], x[2], x[3]);
  }
}

}  // namespace shadowkv::cuda
