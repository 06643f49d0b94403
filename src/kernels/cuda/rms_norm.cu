// One block a token, or one warp where rows are as short as a head: a sum of squares in float32, then the
// scaled row. Bound: bytes of x and out; a decode
// step's few tokens are bound by latency, so a thread's loads are 16 bytes where rows allow it, and weights,
// which nothing on a queue writes just before, are on their way before the rows are there.
#include "kernels/cuda/bulk_copies.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;

template <bool kAdds>
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
    Bf16* to = out + blockIdx.x * hidden + i;
    const float number = to_float(row[i]) * inverse * weight[i];
    *to = from_float<Bf16>(kAdds ? to_float(*to) + number : number);
  }
}

// Eight weights of a row.
struct Weights8 {
  float4 low, high;

  __device__ static Weights8 load(const float* from) {
    return {__ldg(reinterpret_cast<const float4*>(from)), __ldg(reinterpret_cast<const float4*>(from) + 1)};
  }
};

template <bool kAdds>
__device__ void write_eight(const Bf16* x, const Weights8& weights, float inverse, Bf16* out) {
  const float4 low = weights.low, high = weights.high;
  const float each[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  float numbers[8];
  Bf16x8::load(x).to_floats(numbers);
#pragma unroll
  for (int j = 0; j < 8; ++j) numbers[j] *= inverse * each[j];
  if (kAdds) {
    float before[8];
    Bf16x8::load(out).to_floats(before);
#pragma unroll
    for (int j = 0; j < 8; ++j) numbers[j] += before[j];
  }
  Bf16x8::from_floats(numbers).store(out);
}

constexpr int kEarly = 2;  // eights of a thread whose weights do not wait for the kernel before

// Rows that are multiples of 8 numbers, rows and weights 16-byte aligned. The second read of the row comes
// from the L1 cache.
template <bool kAdds>
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
    if (i < hidden) write_eight<kAdds>(row + i, early[j], inverse, to + i);
  }
  for (int64_t i = first + kEarly * step; i < hidden; i += step)
    write_eight<kAdds>(row + i, Weights8::load(weight + i), inverse, to + i);
}

// Rows of at most 256 numbers, likewise: a warp each, eight numbers a lane.
template <bool kAdds>
__global__ void rms_norm_kernel_short(const Bf16* x, const float* weight, float eps, int64_t hidden,
                                      int64_t rows, Bf16* out) {
  let_next_kernel_start();
  const int64_t row = (blockIdx.x * int64_t{kThreads} + threadIdx.x) / kWarp;
  const int64_t i = threadIdx.x % kWarp * 8;
  const bool has_numbers = i < hidden;
  const Weights8 weights = has_numbers ? Weights8::load(weight + i) : Weights8{};
  wait_for_earlier_kernel();
  if (row >= rows) return;
  float squares = 0.0f;
  if (has_numbers) {
    float numbers[8];
    Bf16x8::load(x + row * hidden + i).to_floats(numbers);
#pragma unroll
    for (const float number : numbers) squares += number * number;
  }
  squares = warp_reduce(squares, Sum{});
  const float inverse = rsqrtf(squares / static_cast<float>(hidden) + eps);
  if (has_numbers) write_eight<kAdds>(x + row * hidden + i, weights, inverse, out + row * hidden + i);
}

template <bool kAdds>
void launch_rms_norm(Queue& queue, const RmsNormParams& params) {
  const int64_t tokens = params.x.shape[0], hidden = params.x.shape[1];
  const auto* x = device_ptr<Bf16>(params.x);
  const auto* weight = device_ptr<float>(params.weight);
  auto* out = device_ptr<Bf16>(params.out);
  const auto eps = static_cast<float>(params.eps);
  const bool wide = hidden % 8 == 0 && is_aligned_16(x) && is_aligned_16(out) && is_aligned_16(weight);
  if (wide && hidden <= 8 * kWarp) {
    const unsigned blocks = grid_x(ceil_div<int64_t>(tokens, kThreads / kWarp), "rms_norm");
    return launch_early({queue, blocks, kThreads, "rms_norm"}, rms_norm_kernel_short<kAdds>, x, weight, eps,
                        hidden, tokens, out);
  }
  launch_early({queue, grid_x(tokens, "rms_norm"), kThreads, "rms_norm"},
               wide ? rms_norm_kernel_x8<kAdds> : rms_norm_kernel<kAdds>, x, weight, eps, hidden, out);
}

}  // namespace

void rms_norm(Queue& queue, const RmsNormParams& params) {
  if (params.x.shape[0] == 0) return;
  params.accumulate ? launch_rms_norm<true>(queue, params) : launch_rms_norm<false>(queue, params);
}

}  // namespace shadowkv::cuda
