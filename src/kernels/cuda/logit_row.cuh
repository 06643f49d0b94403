// A row of logits as one block reads it: its warps take stretches of the vocabulary.
#pragma once

#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {

inline constexpr int kRowThreads = 1024;  // of the block
inline constexpr int kRowWarps = kRowThreads / kWarp;
inline constexpr int kFours = 4;          // loads of four logits that a lane has under way
inline constexpr int kPiece = 4 * kWarp;  // tokens that a warp takes together

struct Best {
  float logit;
  int index;
};

__device__ inline Best better(Best a, Best b) {
  const bool take_b = b.logit > a.logit || (b.logit == a.logit && b.index < a.index);
  return take_b ? b : a;
}

__device__ inline Best warp_best(Best best) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Best other{__shfl_xor_sync(kAllLanes, best.logit, offset),
                     __shfl_xor_sync(kAllLanes, best.index, offset)};
    best = better(best, other);
  }
  return best;
}

// A stretch of a row's tokens.
struct Stretch {
  int first, end;  // first a multiple of kPiece

  // That of warp `warp` of all that share it.
  __device__ Stretch part(int warp) const {
    const int each = part_tokens(), start = min(end, first + warp * each);
    return {start, min(end, start + each)};
  }
  __device__ int part_tokens() const { return round_up(ceil_div(end - first, kRowWarps), kPiece); }
};

// One sequence's logits.
class Row {
 public:
  __device__ Row(const float* logits, int vocab)
      : logits_(logits), vocab_(vocab), aligned_(reinterpret_cast<uintptr_t>(logits) % 16 == 0) {}

  [[nodiscard]] __device__ Stretch all() const { return {0, vocab_}; }

  // Calls body(id, logit) for the tokens of a warp's stretch and, with -infinity, some behind its end.
  template <typename Body>
  __device__ void walk(Stretch stretch, const Body& body) const {
    const int own = static_cast<int>(threadIdx.x) % kWarp * 4;
    for (int base = stretch.first; base < stretch.end; base += kFours * kPiece) {
      float4 fours[kFours];
#pragma unroll
      for (int i = 0; i < kFours; ++i) fours[i] = four_at(base + i * kPiece + own, stretch.end);
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
        const int id = base + i * kPiece + own;
        body(id, fours[i].x), body(id + 1, fours[i].y), body(id + 2, fours[i].z), body(id + 3, fours[i].w);
      }
    }
  }
  // Logits id .. id + 3, -infinity from `end` on.
  [[nodiscard]] __device__ float4 four_at(int id, int end) const {
    if (aligned_ && id + 4 <= end) return __ldg(reinterpret_cast<const float4*>(logits_ + id));
    const auto one = [&](int i) { return i < end ? __ldg(logits_ + i) : -INFINITY; };
    return make_float4(one(id), one(id + 1), one(id + 2), one(id + 3));
  }

 private:
  const float* logits_;
  int vocab_;
  bool aligned_;
};

// Of all threads' own, to all of them; `shared` holds kRowWarps.
__device__ inline Best block_best(Best own, Best* shared) {
  own = warp_best(own);
  __syncthreads();  // earlier readers of `shared` are done
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = own;
  __syncthreads();
  return warp_best(shared[threadIdx.x % kWarp]);
}

}  // namespace shadowkv::cuda
