// What the memories give at most. Both kernels are plain streams of 16-byte loads, several in flight a
// thread. read_memory: blocks take turns at tiles of 64 KiB; bound: bytes over the device memory's rate.
// gather_pieces: vector v of the result belongs to piece v / vectors of a piece; few blocks, since the link
// is full from 8 of them on and device memory is not what this measures; bound: bytes over the link's rate.
#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kReadThreads = 512;
constexpr int kReadBlocks = 3;  // a multiprocessor
constexpr int kReadAhead = 8;   // loads in flight a thread
constexpr int kGatherThreads = 512;
constexpr int kGatherBlocks = 64;
constexpr int kGatherAhead = 4;

__device__ uint64_t folded(const uint4& x) {
  return (static_cast<uint64_t>(x.y ^ x.w) << 32) | (x.x ^ x.z);
}

__global__ void __launch_bounds__(kReadThreads)
    read_kernel(const uint4* from, int64_t vectors, unsigned long long* result) {
  constexpr int64_t kTile = kReadThreads * kReadAhead;
  uint64_t bits = 0;
  for (int64_t base = blockIdx.x * kTile + threadIdx.x; base < vectors; base += gridDim.x * kTile) {
    uint4 held[kReadAhead];
#pragma unroll
    for (int i = 0; i < kReadAhead; ++i) {
      const int64_t v = base + i * kReadThreads;
      held[i] = v < vectors ? __ldcs(from + v) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < kReadAhead; ++i) bits ^= folded(held[i]);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) bits ^= __shfl_xor_sync(0xffffffffu, bits, step);
  if (threadIdx.x % kWarp == 0) atomicXor(result, static_cast<unsigned long long>(bits));
}

__global__ void __launch_bounds__(kGatherThreads)
    gather_kernel(const uint4* from, const int32_t* ids, uint4* out, int64_t vectors, int64_t piece_vectors) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kGatherThreads;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * kGatherThreads + threadIdx.x; base < vectors;
       base += stride * kGatherAhead) {
    uint4 held[kGatherAhead];
#pragma unroll
    for (int i = 0; i < kGatherAhead; ++i) {
      const int64_t v = base + i * stride;
      if (v < vectors) held[i] = __ldcs(from + ids[v / piece_vectors] * piece_vectors + v % piece_vectors);
    }
#pragma unroll
    for (int i = 0; i < kGatherAhead; ++i) {
      const int64_t v = base + i * stride;
      if (v < vectors) out[v] = held[i];
    }
  }
}

}  // namespace

void read_memory(Queue& queue, const ReadMemoryParams& params) {
  const char* op = "read_memory";
  demand(is_aligned_16(params.from.data), op, "memory must be aligned to 16 bytes");
  queue.fill_zero(params.folded.data, params.folded.bytes());
  const unsigned blocks = grid_x(int64_t{kReadBlocks} * device_of(queue).multiprocessors(), op);
  read_kernel<<<blocks, kReadThreads, 0, stream_of(queue)>>>(device_ptr<uint4>(params.from),
                                                             params.from.bytes() / 16,
                                                             device_ptr<unsigned long long>(params.folded));
  check_launch(op);
}

void gather_pieces(Queue& queue, const GatherPiecesParams& params) {
  const char* op = "gather_pieces";
  demand(is_aligned_16(params.from.data) && is_aligned_16(params.out.data), op,
         "pieces must be aligned to 16 bytes");
  gather_kernel<<<kGatherBlocks, kGatherThreads, 0, stream_of(queue)>>>(
      device_ptr<uint4>(params.from), device_ptr<int32_t>(params.ids), device_ptr<uint4>(params.out),
      params.out.bytes() / 16, params.from.shape[1] / 16);
  check_launch(op);
}

}  // namespace shadowkv::cuda
