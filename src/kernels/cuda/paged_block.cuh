// What the kernels of paged_bulk_*.cu, paged_registers.cu and paged_queue.cu share: a block of four warps
// attends to a part of one KV head, each warp to sixteen keys at a time, and merges what its warps found.
#pragma once

#include "kernels/cuda/paged_parts.cuh"

namespace shadowkv::cuda {

inline constexpr int kWarps = kPartWarps;
inline constexpr int kThreads = kPartThreads;
inline constexpr int kKeys = kPartStep / kPartWarps;  // of a warp's step
inline constexpr int kMostHeads = 16;                 // query heads of a KV head

// Bytes of a lane's load so that `lanes` lanes cover a row with whole loads.
constexpr int widest(int row_bytes, int lanes, int least) {
  int bytes = 16;
  while (bytes > least && row_bytes % (lanes * bytes) != 0) bytes /= 2;
  return bytes;
}

// Keys and values are of this type, rows of a group of kKeys contiguous, and their loads aligned.
inline bool has_whole_groups(const PagedAttentionParams& params, DType dtype) {
  if (params.q.shape[1] / params.kv_heads > kMostHeads) return false;
  for (const QuantizedView* view : {&params.keys, &params.values}) {
    const PagedView& data = view->data;
    if (data.dtype != dtype || data.token_bytes != params.q.shape[2] * size_of(dtype)) return false;
    if (data.block_tokens % kKeys != 0 || data.offset % 16 != 0 || data.head_offset % 16 != 0) return false;
  }
  return true;
}

template <int kBytes>
__device__ void load_words(uint32_t* to, const std::byte* from) {
  if constexpr (kBytes == 16) {
    const uint4 words = *reinterpret_cast<const uint4*>(from);
    to[0] = words.x, to[1] = words.y, to[2] = words.z, to[3] = words.w;
  } else if constexpr (kBytes == 8) {
    const uint2 words = *reinterpret_cast<const uint2*>(from);
    to[0] = words.x, to[1] = words.y;
  } else {
    to[0] = *reinterpret_cast<const uint32_t*>(from);
  }
}

// An 8x8 matrix of 16-bit numbers that lane 4 g + t holds (g, 2t..) of, transposed.
__device__ inline uint32_t transpose_8x8(uint32_t pair) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(result) : "r"(pair));
  return result;
}

// 2^x, off by at most 2^-22 of it; 0 instead of numbers below 2^-126.
__device__ inline float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
  return result;
}

// The warps' results in shared memory: sums [kWarps, heads, kDim], then most and total [kWarps, heads].
template <int kDim>
struct Shared {
  float* sums;
  float* most;
  float* total;

  __device__ Shared(float* memory, int heads)
      : sums(memory), most(memory + kWarps * heads * kDim), total(most + kWarps * heads) {}
  static int64_t bytes(int heads) { return int64_t{kWarps} * heads * (kDim + 2) * int64_t{sizeof(float)}; }
};

// out: index of the first head's part in the results, `stride` between heads.
template <int kDim>
__device__ void merge_warps(const Shared<kDim>& shared, int heads, const PartResults& results, int64_t out,
                            int64_t stride) {
  for (int i = threadIdx.x; i < heads * kDim; i += kThreads) {
    const int head = i / kDim;
    float most = kNothing;
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, shared.most[w * heads + head]);
    float sum = 0.0f, total = 0.0f;
    for (int w = 0; w < kWarps; ++w) {
      const float weight = exp2f(shared.most[w * heads + head] - most);
      sum += weight * shared.sums[w * heads * kDim + i];
      total += weight * shared.total[w * heads + head];
    }
    const int64_t to = out + head * stride;
    results.sums[to * kDim + i % kDim] = sum;
    if (i % kDim == 0) {
      results.most[to] = most;
      results.total[to] = total;
    }
  }
}

}  // namespace shadowkv::cuda
