// Each sequence's context is cut into parts; a block attends to one part of one KV head (paged_registers.cu,
// paged_queue.cu, paged_attention_any.cu), and a second kernel here merges the parts.
#include <algorithm>

#include "kernels/cuda/paged_parts.cuh"

namespace shadowkv::cuda {
namespace {

// ---- merging ----------------------------------------------------------------------------------------------

constexpr int kMergeThreads = 512;
constexpr int kMergeWarps = kMergeThreads / kWarp;
constexpr int kMostNumbers = 16;  // of a row a lane: head_dim up to 512

// One block a query head of a sequence; its warps share the parts, their lanes the numbers of a row.
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(PartResults results, int head_dim, Bf16* out, float* lse) {
  extern __shared__ float rows[];  // [kMergeWarps, head_dim]
  __shared__ float reduced[kMergeWarps];
  const int64_t head = blockIdx.x;
  const float* most = results.most + head * results.parts;
  const float* total = results.total + head * results.parts;
  float peak = kNothing, sum = 0.0f;
  for (int64_t i = threadIdx.x; i < results.parts; i += kMergeThreads) {
    if (total[i] > 0.0f) peak = fmaxf(peak, most[i]);
  }
  peak = block_reduce<kMergeThreads>(peak, Max{}, reduced);
  for (int64_t i = threadIdx.x; i < results.parts; i += kMergeThreads) {
    if (total[i] > 0.0f) sum += exp2f(most[i] - peak) * total[i];
  }
  sum = block_reduce<kMergeThreads>(sum, Sum{}, reduced);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float numbers[kMostNumbers] = {};
  for (int64_t i = warp; i < results.parts; i += kMergeWarps) {
    if (!(total[i] > 0.0f)) continue;  // its sums were not written
    const float weight = exp2f(most[i] - peak);
    const float* from = results.sums + (head * results.parts + i) * head_dim + lane;
#pragma unroll
    for (int j = 0; j < kMostNumbers; ++j) {
      if (j * kWarp + lane < head_dim) numbers[j] += weight * from[j * kWarp];
    }
  }
#pragma unroll
  for (int j = 0; j < kMostNumbers; ++j) {
    if (j * kWarp + lane < head_dim) rows[warp * head_dim + j * kWarp + lane] = numbers[j];
  }
  __syncthreads();
  for (int d = threadIdx.x; d < head_dim; d += kMergeThreads) {
    float number = 0.0f;
    for (int w = 0; w < kMergeWarps; ++w) number += rows[w * head_dim + d];
    out[head * head_dim + d] = from_float<Bf16>(sum > 0.0f ? number / sum : 0.0f);
  }
  if (threadIdx.x == 0) lse[head] = sum > 0.0f ? (peak + log2f(sum)) * kLn2 : kNothing;
}

void launch_merge(Queue& queue, const PagedAttentionParams& params, const PartResults& results) {
  const char* op = "paged_attention";
  const auto head_dim = static_cast<int>(params.q.shape[2]);
  demand(head_dim <= kMostNumbers * kWarp, op, "head_dim may be at most 512 on a GPU");
  const auto shared = static_cast<size_t>(kMergeWarps * head_dim) * sizeof(float);
  merge_kernel<<<grid_x(params.batch.size * params.q.shape[1], op), kMergeThreads, shared,
                 stream_of(queue)>>>(results, head_dim, device_ptr<Bf16>(params.out),
                                     device_ptr<float>(params.lse));
  check_launch(op);
}

// ---- launching --------------------------------------------------------------------------------------------

// Tokens of a part so that all parts together leave the least time idle, `slots` blocks running at once: a
// last wave with idle multiprocessors is time lost. Several waves even out the pace of multiprocessors.
int64_t tokens_that_fill(int64_t slots, int64_t pairs, int64_t tokens, int64_t most_parts) {
  constexpr int64_t kLeastWaves = 4, kMostWaves = 8;
  int64_t best = 0;
  double best_fill = 0.0;
  for (int64_t waves = kLeastWaves; waves <= kMostWaves; ++waves) {
    const int64_t parts = std::clamp<int64_t>(waves * slots / pairs, 1, most_parts);
    const int64_t each = round_up(ceil_div(tokens, parts), int64_t{kPartStep});
    const int64_t taken = ceil_div(ceil_div(tokens, each) * pairs, slots);  // waves
    const double fill = static_cast<double>(tokens * pairs) / static_cast<double>(taken * slots * each);
    if (best == 0 || fill > best_fill + 0.01) best = each, best_fill = fill;
  }
  return best;
}

// Tokens of a part so that the number of blocks fills whole waves best.
int64_t tokens_of_whole_waves(int64_t slots, int64_t pairs, int64_t tokens, int64_t most_parts) {
  constexpr int64_t kLeastWaves = 4, kMostWaves = 8;
  int64_t best = 1;
  double best_fill = 0.0;
  for (int64_t waves = kLeastWaves; waves <= kMostWaves; ++waves) {
    const int64_t parts = waves * slots / pairs;
    const double fill = static_cast<double>(parts * pairs) / static_cast<double>(waves * slots);
    if (parts > 0 && fill > best_fill + 0.01) best = parts, best_fill = fill;
  }
  return round_up(ceil_div(tokens, std::min(best, most_parts)), int64_t{kPartStep});
}

// From host values alone, so that a recorded step keeps its grid.
PartPlan plan_parts(Queue& queue, const PagedAttentionParams& params, const PartKernel& fast) {
  constexpr int64_t kLeastTokens = 256;  // of a part
  const int64_t heads = params.q.shape[1], tokens = std::max<int64_t>(1, params.batch.max_tokens);
  const int64_t row_bytes = params.batch.size * heads * (params.q.shape[2] + 2) * int64_t{sizeof(float)};
  const int64_t most_parts = std::max<int64_t>(
      1, std::min(ceil_div(tokens, kLeastTokens), scratch_bytes_of(queue) / std::max<int64_t>(1, row_bytes)));
  PartPlan plan;
  const auto tokens_of_a_part = fast.whole_waves ? tokens_of_whole_waves : tokens_that_fill;
  plan.tokens = tokens_of_a_part(fast.blocks_at_once * device_of(queue).multiprocessors(),
                                 params.batch.size * params.kv_heads, tokens, most_parts);
  plan.parts = ceil_div(tokens, plan.tokens);
  return plan;
}

PartResults results_in(Queue& queue, const PagedAttentionParams& params, const PartPlan& plan) {
  const int64_t rows = params.batch.size * params.q.shape[1] * plan.parts, head_dim = params.q.shape[2];
  auto* memory = reinterpret_cast<float*>(
      scratch_of(queue, rows * (head_dim + 2) * int64_t{sizeof(float)}, "paged_attention"));
  return {memory, memory + rows * head_dim, memory + rows * (head_dim + 1), plan.parts};
}

void launch_fast(Queue& queue, const PagedAttentionParams& params, const PartPlan& plan,
                 const PartResults& results, const PartKernel& fast) {
  const PartParams p{device_ptr<const Bf16>(params.q),
                     params.batch,
                     params.keys,
                     params.values,
                     static_cast<int>(params.q.shape[1] / params.kv_heads),
                     params.scale * kLog2E,
                     plan.tokens,
                     results};
  const dim3 grid(grid_x(plan.parts, "paged_attention"), grid_yz(params.kv_heads, "paged_attention"),
                  grid_yz(params.batch.size, "paged_attention"));
  fast.kernel<<<grid, kPartThreads, static_cast<size_t>(fast.shared_bytes), stream_of(queue)>>>(p);
  check_launch("paged_attention");
}

}  // namespace

void paged_attention(Queue& queue, const PagedAttentionParams& params) {
  if (params.batch.size == 0) return;
  PartKernel fast = find_register_kernel(params);
  if (fast.kernel == nullptr) fast = find_queue_kernel(params);
  const PartPlan plan = plan_parts(queue, params, fast);
  const PartResults results = results_in(queue, params, plan);
  if (fast.kernel != nullptr)
    launch_fast(queue, params, plan, results, fast);
  else
    launch_any_paged_attention(queue, params, plan, results);
  launch_merge(queue, params, results);
}

}  // namespace shadowkv::cuda
