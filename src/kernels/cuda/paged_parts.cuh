// Parts of a sequence's context that blocks attend to alone, and how their results are kept and merged.
#pragma once

#include <cmath>

#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {

// How a decode step's contexts are cut: part i of a sequence covers tokens [i * tokens, (i + 1) * tokens).
struct PartPlan {
  int64_t parts = 1;
  int64_t tokens = 0;
};

// Results of parts in the queue's scratch: sums [B, H, parts, D] of exp2(score - most) * value, and most and
// total [B, H, parts], scores in base 2. A part without tokens has total 0 and sums that are not written.
struct PartResults {
  float* sums;
  float* most;
  float* total;
  int64_t parts;

  SHADOWKV_HD int64_t index(int64_t sequence, int64_t head, int64_t heads, int64_t part) const {
    return (sequence * heads + head) * parts + part;
  }
};

inline constexpr float kLog2E = 1.44269504088896340736f;
inline constexpr float kLn2 = 0.69314718055994530942f;
inline constexpr float kNothing = -INFINITY;

// What a kernel of parts is launched with, grid [parts, KV heads, sequences].
struct PartParams {
  const Bf16* q;
  DecodeBatch batch;
  QuantizedView keys;
  QuantizedView values;
  int heads;    // query heads of a KV head
  float scale;  // to base 2
  int64_t part_tokens;
  PartResults results;
};

// A kernel of parts for the shapes and layout at hand, or none.
struct PartKernel {
  void (*kernel)(PartParams) = nullptr;
  int64_t shared_bytes = 0;
  int64_t blocks_at_once = 2;  // on a multiprocessor
  bool whole_waves = false;    // parts are planned by the number of blocks alone, not by their tokens
};

inline constexpr int kPartWarps = 4;  // of a block of such a kernel
inline constexpr int kPartThreads = kPartWarps * kWarp;
inline constexpr int kPartStep = kPartWarps * 16;  // tokens a block takes at a time

// bfloat16 keys and values, from memory straight to registers.
[[nodiscard]] PartKernel find_register_kernel(const PagedAttentionParams& params);
// int8 keys and values, through queues in shared memory.
[[nodiscard]] PartKernel find_queue_kernel(const PagedAttentionParams& params);

// Any head_dim, stored type, layout and ratio of heads: slow.
void launch_any_paged_attention(Queue& queue, const PagedAttentionParams& params, const PartPlan& plan,
                                const PartResults& results);

}  // namespace shadowkv::cuda
