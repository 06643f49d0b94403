// Parts of a sequence's context that blocks attend to alone, and how their results are kept and merged.
#pragma once

#include <cmath>

#include "kernels/cuda/bulk_copies.cuh"

namespace shadowkv::cuda {

// How a decode step's contexts are cut: `level_parts` parts of `tokens` tokens, as many of half that, and so
// on; parts of the last level go on to the end. Blocks start in the order of parts, so the long ones keep
// what a block costs small and the short ones end together.
struct PartPlan {
  int64_t parts = 1;
  int64_t level_parts = 1;
  int64_t levels = 1;
  int64_t tokens = 0;  // a multiple of 2^(levels - 1) steps

  // First token of a part; parts up to `parts` cover all tokens.
  SHADOWKV_HD int64_t first(int64_t part) const {
    int64_t level = part / level_parts;
    if (level >= levels) level = levels - 1;
    const int64_t earlier = 2 * level_parts * (tokens - (tokens >> level));
    return earlier + (part - level * level_parts) * (tokens >> level);
  }
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

// What a kernel of parts is launched with, grid [KV heads, sequences, parts]: blocks that run together read
// neighbouring memory.
struct PartParams {
  const Bf16* q;
  DecodeBatch batch;
  QuantizedView keys;
  QuantizedView values;
  int heads;    // query heads of a KV head
  float scale;  // to base 2
  PartPlan plan;
  PartResults results;
};

// A kernel of parts for the shapes and layout at hand, or none.
struct PartKernel {
  void (*kernel)(PartParams) = nullptr;
  int64_t shared_bytes = 0;
  int64_t blocks_at_once = 2;   // on a multiprocessor
  int64_t step_tokens = 64;     // a block takes at a time
  bool releases_merge = false;  // calls let_next_kernel_start(), so the merge may be launched beside it
};

inline constexpr int kPartWarps = 4;  // of a block of such a kernel
inline constexpr int kPartThreads = kPartWarps * kWarp;
inline constexpr int kPartStep = kPartWarps * 16;  // tokens a block takes at a time

// bfloat16 or int8 keys and values, through bulk copies, on devices that have them.
[[nodiscard]] PartKernel find_bulk_bf16_kernel(const PagedAttentionParams& params);
[[nodiscard]] PartKernel find_bulk_int8_kernel(const PagedAttentionParams& params);
// bfloat16 keys and values, from memory straight to registers.
[[nodiscard]] PartKernel find_register_kernel(const PagedAttentionParams& params);
// int8 keys and values, through queues in shared memory.
[[nodiscard]] PartKernel find_queue_kernel(const PagedAttentionParams& params);

// Any head_dim, stored type, layout and ratio of heads: slow.
void launch_any_paged_attention(Queue& queue, const PagedAttentionParams& params, const PartPlan& plan,
                                const PartResults& results);

}  // namespace shadowkv::cuda
