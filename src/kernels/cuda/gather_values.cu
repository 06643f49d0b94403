// Values of misses into their slots, from the device or over the host link (pinned memory is mapped, so that
// both are plain loads). Half a warp takes a miss, with four 16-byte loads a lane in flight; 32 blocks of
// 512 threads fill the link, but draw only a quarter of the device memory's rate, so a batch with many
// entries gets up to a block a multiprocessor. Bound: bytes of the misses' values, over the link's rate for
// those in host memory.
#include <algorithm>

#include "kernels/cuda/gather_values.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kLeastBlocks = 32;
constexpr int kThreads = 512;
constexpr int kItemLanes = 16;  // lanes that share a miss
constexpr int kAhead = 4;       // loads in flight a lane

// Rows side by side, in whole vectors of 16 bytes, to bfloat16.
template <bool kCodes>
__device__ void copy_vectors(const GatherParams& p, const Miss& miss) {
  const std::byte* from = p.values.data.at(miss.row, miss.head, miss.token);
  const int lane = threadIdx.x % kItemLanes;
  const int row_vectors = static_cast<int>(p.slots.head_dim) * (kCodes ? 1 : 2) / 16;
  const int vectors = row_vectors * static_cast<int>(p.slots.chunk);
  for (int base = lane; base < vectors; base += kItemLanes * kAhead) {
    uint4 held[kAhead];
    float scales[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int v = base + i * kItemLanes;
      if (v < vectors) held[i] = __ldcs(reinterpret_cast<const uint4*>(from) + v);
      if (kCodes && v < vectors)
        scales[i] = row_scale(p.values, miss.row, miss.head, miss.token + v / row_vectors);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int v = base + i * kItemLanes;
      if (v >= vectors) continue;
      if constexpr (kCodes) {
        store_codes(held[i], scales[i], miss.to + 32 * v);
      } else {
        *(reinterpret_cast<uint4*>(miss.to) + v) = held[i];
      }
    }
  }
}

// Any types and head_dim.
__device__ void copy_plainly(const GatherParams& p, const Miss& miss) {
  const int64_t n = p.slots.head_dim, row_bytes = n * size_of(p.slots.dtype);
  for (int64_t t = 0; t < p.slots.chunk; ++t) {
    const std::byte* from = p.values.data.at(miss.row, miss.head, miss.token + t);
    const float scale = row_scale(p.values, miss.row, miss.head, miss.token + t);
    for (int64_t d = threadIdx.x % kItemLanes; d < n; d += kItemLanes) {
      write_number(miss.to + t * row_bytes, p.slots.dtype, d,
                   read_stored(from, p.values.data.dtype, scale, d));
    }
  }
}

enum class Copy { vectors, codes, plain };

template <Copy kCopy>
__global__ void __launch_bounds__(kThreads) gather_values_kernel(GatherParams p) {
  const int64_t items = p.batch.size * p.slots.kv_heads * p.entries;
  const int64_t warps = gridDim.x * (kThreads / kWarp);
  const int64_t warp = blockIdx.x * static_cast<int64_t>(kThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  // Items are dealt out one by one, so that neighbours, which lie in one head's run, are in flight together.
  for (int64_t base = 0; base < items; base += warps * kWarp) {
    const int64_t own = base + lane * warps + warp;
    unsigned misses = __ballot_sync(kAllLanes, own < items && p.source[own] >= 0 && p.assigned[own] >= 0);
    while (misses != 0) {
      const int first = __ffs(misses) - 1;
      misses &= misses - 1;
      const int second = __ffs(misses) - 1;  // -1: none
      misses &= misses - 1;
      const int mine = lane < kItemLanes ? first : second;
      if (mine < 0) continue;
      const Miss miss = miss_of(p, base + mine * warps + warp);
      if constexpr (kCopy == Copy::plain) copy_plainly(p, miss);
      if constexpr (kCopy != Copy::plain) copy_vectors<kCopy == Copy::codes>(p, miss);
    }
  }
}

// Pieces below 1 KiB stay with the fewest blocks: more of them in flight lower the link's rate.
unsigned blocks_of(Queue& queue, const GatherValuesParams& p) {
  constexpr int64_t kLeastPiece = 1024;
  const int64_t row_bytes = p.slots.head_dim * size_of(p.values.data.dtype);
  if (p.over_link || p.slots.chunk * row_bytes < kLeastPiece) return kLeastBlocks;
  const int64_t items = p.batch.size * p.slots.kv_heads * p.assigned.shape[2];
  const int64_t useful = ceil_div<int64_t>(items, kThreads / kItemLanes);
  const int64_t most = device_of(queue).multiprocessors();
  return static_cast<unsigned>(std::max<int64_t>(kLeastBlocks, std::min(useful, most)));
}

}  // namespace

void gather_values(Queue& queue, const GatherValuesParams& p) {
  constexpr const char* kOp = "gather_values";
  const GatherParams params{p.batch,
                            device_ptr<int32_t>(p.chunks),
                            device_ptr<int32_t>(p.assigned),
                            device_ptr<int32_t>(p.source),
                            p.values,
                            p.slots,
                            p.chunks.shape[2],
                            p.assigned.shape[2]};
  if (comes_in_bulk(queue, p)) return gather_in_bulk(queue, params);
  const PagedView& data = p.values.data;
  const bool rows_touch = data.token_bytes == p.slots.head_dim * size_of(data.dtype);
  const bool vectors = p.slots.dtype == DType::bf16 && rows_touch && is_aligned_16(data) &&
                       data.token_bytes % 16 == 0 && p.slots.head_dim % 8 == 0;
  const unsigned blocks = blocks_of(queue, p);
  cudaStream_t stream = stream_of(queue);
  if (vectors && data.dtype == DType::i8) {
    gather_values_kernel<Copy::codes><<<blocks, kThreads, 0, stream>>>(params);
  } else if (vectors && data.dtype == DType::bf16) {
    gather_values_kernel<Copy::vectors><<<blocks, kThreads, 0, stream>>>(params);
  } else {
    gather_values_kernel<Copy::plain><<<blocks, kThreads, 0, stream>>>(params);
  }
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
