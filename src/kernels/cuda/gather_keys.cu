// Keys kept as they are of the chunks that no slot holds: a warp a chunk copies 16 bytes a lane. Bound: bytes
// of the listed chunks, read and written once.
#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kWarps = 8;  // of a block

struct GatherParams {
  const int32_t* rows;     // [B]
  const int32_t* missing;  // [B, G, M, 2]
  PagedView keys;
  std::byte* out;  // [B, G, M, chunk * D]
  int64_t candidates;
  int chunk;
  int row_words;  // 16 bytes each
};

// Grid: warps of listed chunks, KV heads, sequences.
__global__ void __launch_bounds__(kWarps* kWarp) gather_keys_kernel(GatherParams p) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp;
  if (i >= p.candidates) return;
  const int64_t b = blockIdx.z, g = blockIdx.y, first = (b * gridDim.y + g) * p.candidates;
  const int candidate = p.missing[(first + i) * 2], chunk = p.missing[(first + i) * 2 + 1];
  if (candidate < 0) return;
  const int words = p.chunk * p.row_words;
  auto* to = reinterpret_cast<uint4*>(p.out) + (first + candidate) * words;
#pragma unroll 4  // so many loads are under way at once
  for (int w = threadIdx.x % kWarp; w < words; w += kWarp) {
    const std::byte* key = p.keys.at(p.rows[b], g, int64_t{chunk} * p.chunk + w / p.row_words);
    to[w] = reinterpret_cast<const uint4*>(key)[w % p.row_words];
  }
}

}  // namespace

void gather_keys(Queue& queue, const GatherKeysParams& p) {
  constexpr const char* kOp = "gather_keys";
  const int64_t bytes = p.head_dim * size_of(p.out.dtype);
  demand(
      bytes % 16 == 0 && p.keys.token_bytes % 16 == 0 && is_aligned_16(p.keys) && is_aligned_16(p.out.data),
      kOp, "rows of keys must begin at multiples of 16 bytes");
  const GatherParams params{p.batch.rows,
                            device_ptr<int32_t>(p.missing),
                            p.keys,
                            p.out.data,
                            p.out.shape[2],
                            static_cast<int>(p.chunk),
                            static_cast<int>(bytes / 16)};
  const dim3 grid(grid_x(ceil_div<int64_t>(p.out.shape[2], kWarps), kOp), grid_yz(p.out.shape[1], kOp),
                  grid_yz(p.batch.size, kOp));
  gather_keys_kernel<<<grid, kWarps * kWarp, 0, stream_of(queue)>>>(params);
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
