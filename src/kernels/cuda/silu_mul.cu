// Elementwise, eight numbers a thread. Bound: bytes of gate, up and out.
#include "kernels/cuda/bulk_copies.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float silu(float x) {
  return x / (1.0f + __expf(-x));
}

__global__ void silu_mul_kernel(const Bf16* gate, const Bf16* up, int64_t count, Bf16* out) {
  let_next_kernel_start();
  wait_for_earlier_kernel();
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count) out[i] = from_float<Bf16>(silu(to_float(gate[i])) * to_float(up[i]));
}

// `count` in eights; all three 16-byte aligned.
__global__ void silu_mul_kernel_x8(const Bf16* gate, const Bf16* up, int64_t count, Bf16* out) {
  let_next_kernel_start();
  wait_for_earlier_kernel();
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= count) return;
  float g[8], u[8];
  Bf16x8::load(gate + 8 * i).to_floats(g);
  Bf16x8::load(up + 8 * i).to_floats(u);
#pragma unroll
  for (int j = 0; j < 8; ++j) g[j] = silu(g[j]) * u[j];
  Bf16x8::from_floats(g).store(out + 8 * i);
}

}  // namespace

void silu_mul(Queue& queue, const SiluMulParams& params) {
  const int64_t count = params.gate.elements();
  if (count == 0) return;
  const bool wide = count % 8 == 0 && is_aligned_16(params.gate.data) && is_aligned_16(params.up.data) &&
                    is_aligned_16(params.out.data);
  const int64_t pieces = wide ? count / 8 : count;
  launch_early({queue, grid_x(ceil_div<int64_t>(pieces, kThreads), "silu_mul"), kThreads, "silu_mul"},
               wide ? silu_mul_kernel_x8 : silu_mul_kernel, device_ptr<Bf16>(params.gate),
               device_ptr<Bf16>(params.up), pieces, device_ptr<Bf16>(params.out));
}

}  // namespace shadowkv::cuda
