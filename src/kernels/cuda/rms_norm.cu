// One block a token: a sum of squares in float32, then the scaled row. Bound: bytes of x and out; a decode
// step's few tokens are bound by latency, so a thread's loads are 16 bytes where rows allow it, and weights,
// which nothing on a queue writes just before, are on their way before the rows are there.
#include "kernels/cuda/bulk_copies.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void rms_norm_kernel(const Bf16* x, const float* weight, float eps, int64_t hidden, Bf16* out) {
  __shared__ float sums[kThreads / kWarp];
  let_next_kernel_start();
  wait_for_earlier_kernel();
  const Bf16* row = x + blockIdx.x * hidden;
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < hidden; i += kThreads) {
    const float number = to_float(row[i]);
    squares += number * number;
  }
  squares = block_reduce<kThreads>(squares, Sum{}, sums);
  const float inverse = rsqrtf(squares / static_cast<float>(hidden) + eps);
  for (int64_t i = threadIdx.x; i < hidden; i += kThreads) {
    out[blockIdx.x * hidden + i] = from_float<Bf16>(to_float(row[i]) * inverse * weight[i]);
  }
}

// Eight weights of a row.
struct Weights8 {
  float4 low, high;

  __device__ static Weights8 load(const float* from) {
    return {__ldg(reinterpret_cast<const float4*>(from)), __ldg(reinterpret_cast<const float4*>(from) + 1)};
  }
};

__device__ void write_eight(const Bf16* x, const Weights8& weights, float inverse, Bf16* out) {
  const float4 low = weights.low, high = weights.high;
  const float each[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  float numbers[8];
  Bf16x8::load(x).to_floats(numbers);
#pragma unroll
  for (int j = 0; j < 8; ++j) numbers[j] *= inverse * each[j];
  Bf16x8::from_floats(numbers).store(out);
}

constexpr int kEarly = 2;  // eights of a thread whose weights do not wait for the kernel before

// Rows that are multiples of 8 numbers, rows and weights 16-byte aligned. The second read of the row comes
// from the L1 cache.
__global__ void rms_norm_kernel_x8(const Bf16* x, const float* weight, float eps, int64_t hidden, Bf16* out) {
  __shared__ float sums[kThreads / kWarp];
  let_next_kernel_start();
  const int64_t first = threadIdx.x * 8, step = kThreads * 8;
  Weights8 early[kEarly];
#pragma unroll
  for (int j = 0; j < kEarly; ++j) {
    if (first + j * step < hidden) early[j] = Weights8::load(weight + first + j * step);
  }
  wait_for_earlier_kernel();
  const Bf16* row = x + blockIdx.x * hidden;
  Bf16* to = out + blockIdx.x * hidden;
  float squares = 0.0f;
  float numbers[8];
  for (int64_t i = first; i < hidden; i += step) {
    Bf16x8::load(row + i).to_floats(numbers);
#pragma unroll
    for (const float number : numbers) squares += number * number;
  }
  squares = block_reduce<kThreads>(squares, Sum{}, sums);
  const float inverse = rsqrtf(squares / static_cast<float>(hidden) + eps);
#pragma unroll
  for (int j = 0; j < kEarly; ++j) {
    const int64_t i = first + j * step;
    if (i < hidden) write_eight(row + i, early[j], inverse, to + i);
  }
  for (int64_t i = first + kEarly * step; i < hidden; i += step)
    write_eight(row + i, Weights8::load(weight + i), inverse, to + i);
}

}  // namespace

void rms_norm(Queue& queue, const RmsNormParams& params) {
  const int64_t tokens = params.x.shape[0], hidden = params.x.shape[1];
  if (tokens == 0) return;
  const bool wide = hidden % 8 == 0 && is_aligned_16(params.x.data) && is_aligned_16(params.out.data) &&
                    is_aligned_16(params.weight.data);
  launch_early({queue, grid_x(tokens, "rms_norm"), kThreads, "rms_norm"},
               wide ? rms_norm_kernel_x8 : rms_norm_kernel, device_ptr<Bf16>(params.x),
               device_ptr<float>(params.weight), params.eps, hidden, device_ptr<Bf16>(params.out));
}

}  // namespace shadowkv::cuda
