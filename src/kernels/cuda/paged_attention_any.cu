// The same parts as paged_attention.cu for shapes and layouts that its kernels do not take: one warp a token
// at a time, numbers of a row spread over its lanes, one query head a block.
#include "kernels/cuda/paged_parts.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMostNumbers = 16;  // of a row a lane: head_dim up to 512

struct AnyParams {
  const Bf16* q;
  DecodeBatch batch;
  QuantizedView keys;
  QuantizedView values;
  int64_t heads;  // query heads of a KV head
  int head_dim;
  float scale;  // to base 2
  PartPlan plan;
  PartResults results;
};

// Number i of this lane is i * 32 + lane; those past head_dim are 0.
struct LaneRow {
  float numbers[kMostNumbers] = {};

  __device__ void load(const std::byte* data, DType dtype, float scale, int head_dim) {
    for (int i = 0; i < kMostNumbers; ++i) {
      const int d = i * kWarp + static_cast<int>(threadIdx.x) % kWarp;
      numbers[i] = d < head_dim ? read_stored(data, dtype, scale, d) : 0.0f;
    }
  }
};

// The warps' results: sums [kWarps, head_dim], then most and total [kWarps].
__device__ void merge(const AnyParams& p, float* shared, int64_t out) {
  const float* most = shared + kWarps * p.head_dim;
  const float* total = most + kWarps;
  float peak = kNothing, all = 0.0f;
  for (int w = 0; w < kWarps; ++w) peak = fmaxf(peak, most[w]);
  for (int w = 0; w < kWarps; ++w) all += exp2f(most[w] - peak) * total[w];
  for (int d = threadIdx.x; d < p.head_dim; d += kWarps * kWarp) {
    float sum = 0.0f;
    for (int w = 0; w < kWarps; ++w) sum += exp2f(most[w] - peak) * shared[w * p.head_dim + d];
    p.results.sums[out * p.head_dim + d] = sum;
  }
  if (threadIdx.x == 0) {
    p.results.most[out] = peak;
    p.results.total[out] = all;
  }
}

__global__ void any_part_kernel(const AnyParams p) {
  extern __shared__ float shared[];
  const int64_t part = blockIdx.x, head = blockIdx.y, sequence = blockIdx.z;
  const int64_t out = p.results.index(sequence, head, gridDim.y, part);
  const int64_t first = p.plan.first(part);
  const int64_t end = min(p.plan.first(part + 1), int64_t{p.batch.tokens[sequence]});
  if (first >= end) {
    if (threadIdx.x == 0) p.results.total[out] = 0.0f;
    return;
  }
  const int64_t row = p.batch.rows[sequence], kv_head = head / p.heads;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  LaneRow query, stored, sums;
  query.load(reinterpret_cast<const std::byte*>(p.q + (sequence * gridDim.y + head) * p.head_dim),
             DType::bf16, 1.0f, p.head_dim);
  float most = kNothing, total = 0.0f;
  for (int64_t token = first + warp; token < end; token += kWarps) {
    stored.load(p.keys.data.at(row, kv_head, token), p.keys.data.dtype,
                row_scale(p.keys, row, kv_head, token), p.head_dim);
    float score = 0.0f;
    for (int i = 0; i < kMostNumbers; ++i) score += query.numbers[i] * stored.numbers[i];
    score = warp_reduce(score, Sum{}) * p.scale;
    const float peak = fmaxf(most, score), shrink = exp2f(most - peak), weight = exp2f(score - peak);
    most = peak;
    total = total * shrink + weight;
    stored.load(p.values.data.at(row, kv_head, token), p.values.data.dtype,
                row_scale(p.values, row, kv_head, token), p.head_dim);
    for (int i = 0; i < kMostNumbers; ++i)
      sums.numbers[i] = sums.numbers[i] * shrink + weight * stored.numbers[i];
  }
  for (int i = 0; i < kMostNumbers; ++i) {
    if (i * kWarp + lane < p.head_dim) shared[warp * p.head_dim + i * kWarp + lane] = sums.numbers[i];
  }
  if (lane == 0) {
    shared[kWarps * p.head_dim + warp] = most;
    shared[kWarps * (p.head_dim + 1) + warp] = total;
  }
  __syncthreads();
  merge(p, shared, out);
}

}  // namespace

void launch_any_paged_attention(Queue& queue, const PagedAttentionParams& params, const PartPlan& plan,
                                const PartResults& results) {
  const char* op = "paged_attention";
  const int64_t head_dim = params.q.shape[2], heads = params.q.shape[1];
  demand(head_dim <= kMostNumbers * kWarp, op, "head_dim may be at most 512 on a GPU");
  const AnyParams p{device_ptr<const Bf16>(params.q),
                    params.batch,
                    params.keys,
                    params.values,
                    heads / params.kv_heads,
                    static_cast<int>(head_dim),
                    params.scale * kLog2E,
                    plan,
                    results};
  const dim3 grid(grid_x(plan.parts, op), grid_yz(heads, op), grid_yz(params.batch.size, op));
  const auto shared = static_cast<size_t>(kWarps * (head_dim + 2)) * sizeof(float);
  any_part_kernel<<<grid, kWarps * kWarp, shared, stream_of(queue)>>>(p);
  check_launch(op);
}

}  // namespace shadowkv::cuda
