// Greedy picks. One block a sequence; every thread walks the row with a stride, then the block reduces to the
// largest logit and, of equals, the lowest index. Bound: one read of the logits.
#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 1024;

struct Best {
  float logit;
  int index;
};

__device__ Best better(Best a, Best b) {
  const bool take_b = b.logit > a.logit || (b.logit == a.logit && b.index < a.index);
  return take_b ? b : a;
}

__device__ Best warp_best(Best best) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Best other{__shfl_xor_sync(kAllLanes, best.logit, offset),
                     __shfl_xor_sync(kAllLanes, best.index, offset)};
    best = better(best, other);
  }
  return best;
}

__global__ void __launch_bounds__(kThreads) pick_kernel(const float* logits, int vocab, int32_t* ids) {
  __shared__ Best partial[kThreads / kWarp];
  const float* row = logits + static_cast<int64_t>(blockIdx.x) * vocab;
  Best best{-INFINITY, 0x7fffffff};
  for (int i = static_cast<int>(threadIdx.x); i < vocab; i += kThreads) best = better(best, {row[i], i});
  best = warp_best(best);
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = best;
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  best = warp_best(partial[threadIdx.x]);
  if (threadIdx.x == 0) ids[blockIdx.x] = best.index;
}

}  // namespace

void pick_likeliest(Queue& queue, const PickLikeliestParams& params) {
  const auto vocab = static_cast<int>(params.logits.shape[1]);
  pick_kernel<<<grid_x(params.logits.shape[0], "pick_likeliest"), kThreads, 0, stream_of(queue)>>>(
      device_ptr<float>(params.logits), vocab, device_ptr<int32_t>(params.ids));
  check_launch("pick_likeliest");
}

}  // namespace shadowkv::cuda
