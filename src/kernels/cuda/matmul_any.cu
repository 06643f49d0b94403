// One warp a number of out. For float32 weights and odd sizes of small models and tests, not for speed.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/matmul_any.h"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

__global__ void any_matmul_kernel(MatmulParams p) {
  const int64_t inputs = p.x.shape[1], outputs = p.weight.shape[0];
  const int64_t i = blockIdx.x * int64_t{kWarps} + threadIdx.x / kWarp;
  if (i >= p.x.shape[0] * outputs) return;
  const std::byte* x = p.x.data + i / outputs * inputs * size_of(p.x.dtype);
  const std::byte* weight = p.weight.data + i % outputs * inputs * size_of(p.weight.dtype);
  const bool codes = p.weight.quantized();
  float sum = 0.0f;
  for (int64_t k = threadIdx.x % kWarp; k < inputs; k += kWarp) {
    sum += read_number(x, p.x.dtype, k) *
           read_stored(weight, p.weight.dtype, 1.0f, codes ? code_place(k, inputs) : k);
  }
  sum = warp_reduce(sum, Sum{});
  if (threadIdx.x % kWarp != 0) return;
  if (codes) sum *= reinterpret_cast<const float*>(p.weight.scales.data)[i % outputs];
  if (p.accumulate) sum += read_number(p.out.data, p.out.dtype, i);
  write_number(p.out.data, p.out.dtype, i, sum);
}

__global__ void add_bias_kernel(std::byte* out, DType dtype, int64_t count, const float* bias,
                                int64_t outputs) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count) write_number(out, dtype, i, read_number(out, dtype, i) + bias[i % outputs]);
}

}  // namespace

void launch_any_matmul(Queue& queue, const MatmulParams& params) {
  const int64_t count = params.out.elements();
  any_matmul_kernel<<<grid_x(ceil_div<int64_t>(count, kWarps), "matmul"), kThreads, 0, stream_of(queue)>>>(
      params);
  check_launch("matmul");
}

void launch_add_bias(Queue& queue, const MatmulParams& params) {
  const int64_t count = params.out.elements();
  add_bias_kernel<<<grid_x(ceil_div<int64_t>(count, kThreads), "matmul"), kThreads, 0, stream_of(queue)>>>(
      params.out.data, params.out.dtype, count, device_ptr<float>(params.bias), params.weight.shape[0]);
  check_launch("matmul");
}

}  // namespace shadowkv::cuda
