// Each sequence's context is cut into parts; a block attends to one part of one KV head (paged_bulk_*.cu,
// paged_registers.cu, paged_queue.cu, paged_attention_any.cu), and a second kernel here merges the parts.
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
  wait_for_earlier_kernel();
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
#pragma unroll 4
  for (int64_t i = warp; i < results.parts; i += kMergeWarps) {
    const bool written = total[i] > 0.0f;
    const float weight = exp2f(most[i] - peak);
    const float* from = results.sums + (head * results.parts + i) * head_dim + lane;
#pragma unroll
    for (int j = 0; j < kMostNumbers; ++j) {
      const float number = j * kWarp + lane < head_dim ? from[j * kWarp] : 0.0f;
      numbers[j] += written ? weight * number : 0.0f;
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

void launch_merge(Queue& queue, const PagedAttentionParams& params, const PartResults& results,
                  bool starts_early) {
  const char* op = "paged_attention";
  const auto head_dim = static_cast<int>(params.q.shape[2]);
  demand(head_dim <= kMostNumbers * kWarp, op, "head_dim may be at most 512 on a GPU");
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid_x(params.batch.size * params.q.shape[1], op);
  config.blockDim = kMergeThreads;
  config.dynamicSmemBytes = static_cast<size_t>(kMergeWarps * head_dim) * sizeof(float);
  config.stream = stream_of(queue);
  config.attrs = &early;
  config.numAttrs = starts_early ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, merge_kernel, results, head_dim, device_ptr<Bf16>(params.out),
                                device_ptr<float>(params.lse)),
             op);
}

// ---- launching --------------------------------------------------------------------------------------------

// Parts of a level so that each slot starts about one of every level: the first level's parts take half of
// all tokens, the next a quarter, until they are short.
PartPlan plan_levels(int64_t level_parts, int64_t tokens, int64_t step) {
  constexpr int64_t kLeastTokens = 256, kMostLevels = 6;
  PartPlan plan;
  plan.level_parts = level_parts;
  const int64_t half = ceil_div(tokens, 2 * level_parts);
  while (plan.levels < kMostLevels && half >> plan.levels >= kLeastTokens) ++plan.levels;
  plan.tokens = round_up(std::max(half, kLeastTokens), step << (plan.levels - 1));
  while (plan.first(plan.parts) < tokens) ++plan.parts;
  return plan;
}

// From host values alone, so that a recorded step keeps its grid.
PartPlan plan_parts(Queue& queue, const PagedAttentionParams& params, const PartKernel& fast) {
  const int64_t heads = params.q.shape[1], tokens = std::max<int64_t>(1, params.batch.max_tokens);
  const int64_t row_bytes = params.batch.size * heads * (params.q.shape[2] + 2) * int64_t{sizeof(float)};
  const int64_t most_parts = std::max<int64_t>(1, scratch_bytes_of(queue) / row_bytes);
  const int64_t slots = fast.blocks_at_once * device_of(queue).multiprocessors();
  int64_t level_parts = ceil_div(slots, params.batch.size * params.kv_heads);
  PartPlan plan = plan_levels(level_parts, tokens, fast.step_tokens);
  while (plan.parts > most_parts && level_parts > 1)
    plan = plan_levels(level_parts /= 2, tokens, fast.step_tokens);
  if (plan.parts > most_parts) {
    plan.levels = 1;
    plan.tokens = round_up(ceil_div(tokens, most_parts), fast.step_tokens);
    plan.parts = ceil_div(tokens, plan.tokens);
  }
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
                     plan,
                     results};
  const dim3 grid(grid_x(params.kv_heads, "paged_attention"), grid_yz(params.batch.size, "paged_attention"),
                  grid_yz(plan.parts, "paged_attention"));
  fast.kernel<<<grid, kPartThreads, static_cast<size_t>(fast.shared_bytes), stream_of(queue)>>>(p);
  check_launch("paged_attention");
}

PartKernel find_fast(const PagedAttentionParams& params) {
  for (const auto find :
       {find_bulk_bf16_kernel, find_bulk_int8_kernel, find_register_kernel, find_queue_kernel}) {
    const PartKernel found = find(params);
    if (found.kernel != nullptr) return found;
  }
  return {};
}

}  // namespace

void paged_attention(Queue& queue, const PagedAttentionParams& params) {
  if (params.batch.size == 0) return;
  const PartKernel fast = find_fast(params);
  const PartPlan plan = plan_parts(queue, params, fast);
  const PartResults results = results_in(queue, params, plan);
  if (fast.kernel != nullptr)
    launch_fast(queue, params, plan, results, fast);
  else
    launch_any_paged_attention(queue, params, plan, results);
  launch_merge(queue, params, results, fast.releases_merge);
}

}  // namespace shadowkv::cuda
