// Values of misses over the host link by bulk copies. A few blocks, so that the rest of the device is left to
// others: loads over the link hold up all other loads of their multiprocessor, bulk copies do not. Every warp
// has a ring of pieces under way, a miss each: it sends for one more as soon as it has put the oldest into
// its slot. Bound: bytes of the misses' values over the link's rate.
#include "kernels/cuda/bulk_copies.cuh"
#include "kernels/cuda/gather_values.cuh"

namespace shadowkv::cuda {
namespace {

constexpr const char* kOp = "gather_values";
constexpr unsigned kBlocks = 16;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kStages = 2;  // of a warp's ring; more pieces under way lower the link's rate

// Bytes of a piece: the rows of a chunk, then with int8 their scales.
struct Piece {
  uint32_t rows;
  uint32_t scales;
  int row_vectors;  // of 16 bytes

  __host__ __device__ uint32_t bytes() const { return rows + scales; }
};

// A warp's ring. Lane i knows where the piece of stage i is to go.
template <bool kCodes>
class Ring {
 public:
  __device__ Ring(const Piece& piece, std::byte* memory, uint64_t* barriers)
      : piece_(piece), memory_(memory), barriers_(barriers) {
    const int lane = threadIdx.x % kWarp;
    if (lane < kStages) {
      init_barrier(&barriers_[lane]);
      publish_barriers();
    }
    __syncwarp();
  }

  // Sends for the piece that lane `from` knows.
  __device__ void send(int from, const std::byte* rows, const std::byte* scales, std::byte* to) {
    if (sent_ - taken_ == kStages) take();
    const int lane = threadIdx.x % kWarp, stage = static_cast<int>(sent_ % kStages);
    if (lane == from) {
      std::byte* place = memory_ + stage * piece_.bytes();
      expect_bytes(&barriers_[stage], piece_.bytes());
      copy_bulk(place, rows, piece_.rows, &barriers_[stage]);
      if constexpr (kCodes) copy_bulk(place + piece_.rows, scales, piece_.scales, &barriers_[stage]);
    }
    const uint64_t address = __shfl_sync(kAllLanes, reinterpret_cast<uint64_t>(to), from);
    if (lane == stage) to_ = reinterpret_cast<std::byte*>(address);
    ++sent_;
  }
  __device__ void finish() {
    while (taken_ < sent_) take();
  }

 private:
  // Waits for the oldest piece and puts it into its slot.
  __device__ void take() {
    const int lane = threadIdx.x % kWarp, stage = static_cast<int>(taken_ % kStages);
    auto* to = reinterpret_cast<std::byte*>(__shfl_sync(kAllLanes, reinterpret_cast<uint64_t>(to_), stage));
    wait_for_phase(&barriers_[stage], taken_ / kStages % 2);
    const std::byte* place = memory_ + stage * piece_.bytes();
    const auto* vectors = reinterpret_cast<const uint4*>(place);
    const auto* scales = reinterpret_cast<const Bf16*>(place + piece_.rows);
    const int count = static_cast<int>(piece_.rows / 16);
    for (int v = lane; v < count; v += kWarp) {
      if constexpr (kCodes) {
        store_codes(vectors[v], __bfloat162float(scales[v / piece_.row_vectors]), to + 32 * v);
      } else {
        reinterpret_cast<uint4*>(to)[v] = vectors[v];
      }
    }
    __syncwarp();  // all have read before the next piece comes
    ++taken_;
  }

  Piece piece_;
  std::byte* memory_;
  uint64_t* barriers_;
  uint32_t sent_ = 0, taken_ = 0;
  std::byte* to_ = nullptr;
};

template <bool kCodes>
__global__ void __launch_bounds__(kThreads) gather_bulk_kernel(GatherParams p, Piece piece) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(16) std::byte memory[];
  __shared__ uint64_t barriers[kWarps][kStages];
  const int64_t items = p.batch.size * p.slots.kv_heads * p.entries;
  const int64_t warps = gridDim.x * int64_t{kWarps}, nth = blockIdx.x * int64_t{kWarps} + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  Ring<kCodes> ring(piece, memory + warp * kStages * piece.bytes(), barriers[warp]);
  // Items are dealt out one by one, so that neighbours, which lie in one head's run, are under way together.
  for (int64_t base = 0; base < items; base += warps * kWarp) {
    const int64_t item = base + lane * warps + nth;
    const bool is_miss = item < items && p.source[item] >= 0 && p.assigned[item] >= 0;
    const std::byte *rows = nullptr, *scales = nullptr;
    std::byte* to = nullptr;
    if (is_miss) {
      const Miss miss = miss_of(p, item);
      rows = p.values.data.at(miss.row, miss.head, miss.token);
      if constexpr (kCodes) scales = p.values.scales.at(miss.row, miss.head, miss.token);
      to = miss.to;
    }
    for (unsigned left = __ballot_sync(kAllLanes, is_miss); left != 0; left &= left - 1) {
      ring.send(__ffs(static_cast<int>(left)) - 1, rows, scales, to);
    }
  }
  ring.finish();
#endif
}

}  // namespace

bool comes_in_bulk(Queue& queue, const GatherValuesParams& p) {
  const PagedView& data = p.values.data;
  const bool codes = data.dtype == DType::i8;
  if (!p.over_link || !p.spares || p.slots.dtype != DType::bf16 || !(codes || data.dtype == DType::bf16))
    return false;
  const bool whole = data.token_bytes == p.slots.head_dim * size_of(data.dtype) && data.token_bytes % 16 == 0;
  const bool scales =
      !codes || (p.values.scales.token_bytes == size_of(DType::bf16) &&
                 p.slots.chunk * size_of(DType::bf16) % 16 == 0 && is_aligned_16(p.values.scales));
  return whole && scales && is_aligned_16(data) && has_bulk_copies(queue, kOp);
}

void gather_in_bulk(Queue& queue, const GatherParams& params) {
  const PagedView& data = params.values.data;
  const bool codes = data.dtype == DType::i8;
  const Piece piece{static_cast<uint32_t>(params.slots.chunk * data.token_bytes),
                    codes ? static_cast<uint32_t>(params.slots.chunk * size_of(DType::bf16)) : 0u,
                    static_cast<int>(data.token_bytes / 16)};
  const int64_t shared = int64_t{kWarps} * kStages * piece.bytes();
  const auto run = [&](auto* kernel) {
    allow_shared(kernel, shared, kOp);
    kernel<<<kBlocks, kThreads, static_cast<size_t>(shared), stream_of(queue)>>>(params, piece);
  };
  codes ? run(gather_bulk_kernel<true>) : run(gather_bulk_kernel<false>);
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
