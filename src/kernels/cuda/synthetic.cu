// Made-up state for benchmarks: one thread a number, grid-stride.
#include "kernels/cuda/common.cuh"
#include "kernels/synthetic_math.h"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 4096;

__device__ void write_random(std::byte* to, DType dtype, int64_t i, uint64_t bits, float low, float high) {
  const float number = random_uniform(bits, low, high);
  if (dtype == DType::f32) reinterpret_cast<float*>(to)[i] = number;
  if (dtype == DType::bf16) reinterpret_cast<Bf16*>(to)[i] = __float2bfloat16(number);
  if (dtype == DType::i8) reinterpret_cast<int8_t*>(to)[i] = static_cast<int8_t>(__float2int_rn(number));
  if (dtype == DType::u8) reinterpret_cast<uint8_t*>(to)[i] = static_cast<uint8_t>(bits >> 56);
}

__global__ void randomize_kernel(RandomizeRowsParams params) {
  const int64_t total = params.tokens * params.heads * params.elements;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; n < total; n += stride) {
    const int64_t token = n / (params.heads * params.elements);
    const int64_t head = n / params.elements % params.heads;
    write_random(params.to.at(params.row, head, token), params.to.dtype, n % params.elements,
                 random_bits(params.seed, static_cast<uint64_t>(n)), params.low, params.high);
  }
}

}  // namespace

void randomize_rows(Queue& queue, const RandomizeRowsParams& params) {
  const int64_t total = params.tokens * params.heads * params.elements;
  const int64_t blocks = ceil_div<int64_t>(total, kThreads);
  randomize_kernel<<<static_cast<unsigned>(blocks < kBlocks ? blocks : kBlocks), kThreads, 0,
                     stream_of(queue)>>>(params);
  check_launch("randomize_rows");
}

}  // namespace shadowkv::cuda
