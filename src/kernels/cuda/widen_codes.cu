// A thread widens 16 codes of a row: one 16-byte load, two 16-byte stores. Bound: 3 bytes a code.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/widen_codes.h"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kStretch = 16;

__global__ void widen_stretches_kernel(const uint4* codes, const float* scales, int64_t row_stretches,
                                       int64_t count, uint4* out) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= count) return;
  const uint4 loaded = __ldcs(codes + i);
  const float scale = scales[i / row_stretches];
  const uint32_t words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
  uint32_t pairs[8];  // word t has columns 2 t, 2 t + 1, 2 t + 8, 2 t + 9
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const auto code = [&](int byte) {
      return scale * static_cast<float>(static_cast<int8_t>(words[t] >> 8 * byte));
    };
    pairs[t] = pack_bf16(code(0), code(1));
    pairs[t + 4] = pack_bf16(code(2), code(3));
  }
  out[2 * i] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  out[2 * i + 1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
}

__global__ void widen_any_kernel(const int8_t* codes, const float* scales, int64_t columns, int64_t count,
                                 Bf16* out) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= count) return;
  const int64_t row = i / columns, column = i % columns;
  out[i] = __float2bfloat16_rn(scales[row] *
                               static_cast<float>(codes[row * columns + code_place(column, columns)]));
}

}  // namespace

void widen_codes(Queue& queue, const Matrix& codes, int64_t first, int64_t count, std::byte* out) {
  constexpr const char* kOp = "matmul";
  const int64_t columns = codes.shape[1], numbers = count * columns;
  const std::byte* from = codes.data + first * columns;
  const float* scales = device_ptr<float>(codes.scales) + first;
  if (columns % kStretch == 0 && is_aligned_16(from) && is_aligned_16(out)) {
    const int64_t stretches = numbers / kStretch;
    widen_stretches_kernel<<<grid_x(ceil_div<int64_t>(stretches, kThreads), kOp), kThreads, 0,
                             stream_of(queue)>>>(reinterpret_cast<const uint4*>(from), scales,
                                                 columns / kStretch, stretches,
                                                 reinterpret_cast<uint4*>(out));
  } else {
    widen_any_kernel<<<grid_x(ceil_div<int64_t>(numbers, kThreads), kOp), kThreads, 0, stream_of(queue)>>>(
        reinterpret_cast<const int8_t*>(from), scales, columns, numbers, reinterpret_cast<Bf16*>(out));
  }
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
