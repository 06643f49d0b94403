// Queries as scoring by the sketch takes them: turned, rounded to a few bits a number and cut into bit
// planes, by one warp a head.
#pragma once

#include "kernels/cuda/sketch.cuh"

namespace shadowkv::cuda {

struct SketchScoreParams {
  const Bf16* q;  // [B, H, D]
  DecodeBatch batch;
  SketchView sketch;
  SketchLayout layout;
  int64_t kv_heads;
  int group;  // query heads of a KV head
  int head_dim;
  int64_t chunk;
  int64_t local_window;
  float scale;
  float* scores;  // [B, H, C]
  int64_t chunks;
  float2* spans;           // [B, H, spans_of(C)], or null
  uint32_t block_tiles;    // of a block of words, and of scales
  uint32_t segment_tiles;  // of a segment
  uint32_t grid_tiles;     // of a block of threads

  // No more than there is room for: what a sequence holds is not known when an op is launched.
  __device__ int64_t sealed(int64_t b, int64_t each) const {
    const int64_t count = sealed_chunks(batch.tokens[b], each, local_window);
    return count < chunks ? count : chunks;
  }
  __device__ int64_t head(int64_t b, int64_t g, int h) const { return (b * kv_heads + g) * group + h; }
};

// Numbers of one query head, lane + 32 j in y[j]; zeros where `held` is false.
template <int kNumbers>
__device__ inline void read_query(const SketchScoreParams& p, int64_t head, bool held, float (&y)[kNumbers]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int j = 0; j < kNumbers; ++j) {
    const int d = lane + j * kWarp;
    y[j] = held && d < p.head_dim ? to_float(p.q[head * p.head_dim + d]) : 0.0f;
  }
}

struct RoundedQuery {
  float step;  // size of one step, times scale and log2(e): scores are in base 2 until they are written
  int sum;     // of the rounded numbers
};

// Turns and rounds one query head of head_dim numbers by one warp. `store(bit, word, plane)` is called by
// every lane for every word of every bit plane.
template <int kNumbers, typename Store>
__device__ inline RoundedQuery round_query(const SketchScoreParams& p, int head_dim, float (&y)[kNumbers],
                                           const Store& store) {
  turn_sketch(y, head_dim);
  float largest = 0.0f;
#pragma unroll
  for (float x : y) largest = fmaxf(largest, fabsf(x));
  const float delta = warp_reduce(largest, Max()) / kQueryMax;
  const float inverse = delta > 0.0f ? 1.0f / delta : 0.0f;
  const int words = static_cast<int>(sketch_plane_words(head_dim));
  int sum = 0;
#pragma unroll
  for (int j = 0; j < kNumbers; ++j) {
    if (j >= words) break;
    const float steps = nearbyintf(y[j] * inverse);
    const int number = static_cast<int>(fminf(fmaxf(steps, -kQueryMax), kQueryMax));
    sum += number;
#pragma unroll
    for (int bit = 0; bit < kQueryBits; ++bit)
      store(bit, j, __ballot_sync(kAllLanes, ((static_cast<uint32_t>(number) >> bit) & 1u) != 0));
  }
  return {p.scale * kLog2e * delta, warp_reduce(sum, Sum())};
}

// A segment's centre, lane + 32 j in centre[j].
template <int kNumbers>
__device__ inline void read_centre(const SketchScoreParams& p, int64_t row, int64_t g, int64_t segment,
                                   float (&centre)[kNumbers]) {
  const PagedView& view = p.sketch.centre;
  const std::byte* start = view.table[row * view.seq_stride + g * view.head_stride + segment];
  const auto* numbers = reinterpret_cast<const float*>(start + view.offset + g * view.head_offset);
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int j = 0; j < kNumbers; ++j)
    centre[j] = lane + j * kWarp < p.head_dim ? numbers[lane + j * kWarp] : 0.0f;
}

// What a head's scores of one segment have in common, by one warp: q . centre, times scale and log2(e).
template <int kNumbers>
__device__ inline float multiply_centre(const SketchScoreParams& p, const float (&y)[kNumbers],
                                        const float (&centre)[kNumbers]) {
  float product = 0.0f;
#pragma unroll
  for (int j = 0; j < kNumbers; ++j) product += y[j] * centre[j];
  return p.scale * kLog2e * warp_reduce(product, Sum());
}

}  // namespace shadowkv::cuda
