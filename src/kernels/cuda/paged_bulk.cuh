// Bulk copies (Hopper and later) for kernels of parts: every warp walks its own steps of keys and values
// through a queue in shared memory that asynchronous copies of about a kibibyte fill, so that arithmetic
// issues no loads from memory and a multiprocessor keeps far more bytes on their way (up to 200 KiB) than the
// 40 KiB that the latency of memory asks for. Bound: bytes of keys and values, each read once.
#pragma once

#include <algorithm>

#include "kernels/cuda/paged_block.cuh"

namespace shadowkv::cuda {

// ---- a step in shared memory ------------------------------------------------------------------------------

// kStep keys and as many values of kBytes a row, in four pieces each; with kScales a bfloat16 scale a row
// follows. Pieces lie 32 bytes further apart than they are long, and rows of products stand for keys in an
// order (key_of_row) with which the lanes of a load, whose rows all start at the same bank, meet no conflict:
// rows 2 t of any t lie in pieces t, rows 2 t + 1 two pieces further.
template <int kStepKeys, int kBytes, bool kHasScales>
struct BulkStep {
  static constexpr int kKeys = kStepKeys;
  static constexpr int kRowBytes = kBytes;
  static constexpr bool kScales = kHasScales;
  static constexpr int kPieces = 4;
  static constexpr int kPieceKeys = kStepKeys / kPieces;
  static constexpr int kPieceBytes = kPieceKeys * kBytes;
  static constexpr int kPieceStride = kPieceBytes + 32;
  static constexpr int kScaleBytes = kHasScales ? kStepKeys * int{sizeof(Bf16)} : 0;
  static constexpr int kHalfBytes = kPieces * kPieceStride + kScaleBytes;  // keys, or values
  static constexpr int kStepBytes = 2 * kHalfBytes;
  static_assert(kPieceBytes % 16 == 0 && kScaleBytes % 16 == 0);

  static __device__ int piece_of_row(int g) { return (g / 2 + g % 2 * 2) % kPieces; }
  // Key of row g + 8 r of a product, r < kStepKeys / 8.
  static __device__ int key_of_row(int g, int r) { return piece_of_row(g) * kPieceKeys + g % 2 + 2 * r; }
  // Bytes from the first key's (or value's) start to that row's.
  static __device__ int offset_of_row(int g, int r) {
    return piece_of_row(g) * kPieceStride + (g % 2 + 2 * r) * kBytes;
  }

  // One half: rows and their scales, contiguous each, to `to`.
  static __device__ void copy(std::byte* to, const std::byte* rows, const std::byte* scales,
                              uint64_t* barrier) {
    if (!is_elected()) return;
    expect_bytes(barrier, kPieces * kPieceBytes + kScaleBytes);
#pragma unroll
    for (int i = 0; i < kPieces; ++i)
      copy_bulk(to + i * kPieceStride, rows + i * kPieceBytes, kPieceBytes, barrier);
    if constexpr (kHasScales) copy_bulk(to + kPieces * kPieceStride, scales, kScaleBytes, barrier);
  }
};

// ---- one sequence's rows ----------------------------------------------------------------------------------

// Rows of one component of one KV head.
struct BulkRows {
  std::byte* const* table;
  int64_t offset;

  __device__ BulkRows(const PagedView& view, int64_t row, int64_t head)
      : table(view.table + row * view.seq_stride + head * view.head_stride),
        offset(view.offset + head * view.head_offset) {}
  // bytes: into the rows that a block holds of this head.
  __device__ const std::byte* at(uint32_t block, uint32_t bytes) const {
    return table[block] + offset + bytes;
  }
};

// This warp's steps of a part: every kWarps-th from `first` to `end`, of which the one asked for comes next.
template <typename Step>
class BulkWalk {
 public:
  __device__ BulkWalk(const PartParams& p, int64_t row, int64_t head, uint32_t first, uint32_t end)
      : keys_(p.keys.data, row, head),
        values_(p.values.data, row, head),
        key_scales_(p.keys.scales, row, head),
        value_scales_(p.values.scales, row, head),
        steps_a_block_(static_cast<uint32_t>(p.keys.data.block_tokens) / Step::kKeys),
        end_(end),
        step_(first),
        block_(first / steps_a_block_),
        within_(first % steps_a_block_) {}

  [[nodiscard]] __device__ bool more() const { return step_ < end_; }
  __device__ void copy_keys(std::byte* to, uint64_t* barrier) const {
    Step::copy(to, keys_.at(block_, within_ * Step::kKeys * Step::kRowBytes),
               Step::kScales ? key_scales_.at(block_, within_ * Step::kScaleBytes) : nullptr, barrier);
  }
  __device__ void copy_values(std::byte* to, uint64_t* barrier) const {
    Step::copy(to, values_.at(block_, within_ * Step::kKeys * Step::kRowBytes),
               Step::kScales ? value_scales_.at(block_, within_ * Step::kScaleBytes) : nullptr, barrier);
  }
  __device__ void advance() {
    step_ += kWarps;
    for (within_ += kWarps; within_ >= steps_a_block_; within_ -= steps_a_block_) ++block_;
  }

 private:
  BulkRows keys_, values_, key_scales_, value_scales_;
  uint32_t steps_a_block_, end_, step_, block_, within_;
};

// By how much, to base 2, scores may pass a head's reference of weights before that moves.
inline constexpr float kSlack = 8.0f;

// ---- a block's part ---------------------------------------------------------------------------------------

// Shared memory of a multiprocessor for two blocks with queues of two steps or more a warp, or for one.
template <typename Step>
struct BulkTuning {
  static constexpr int kSharedBytes = 216 << 10;  // of 228 KiB
  static constexpr int kBlockStepBytes = kWarps * Step::kStepBytes;
  static constexpr int kBlocks = kSharedBytes / kBlockStepBytes >= 4 ? 2 : 1;
  static constexpr int kStages = std::clamp(kSharedBytes / kBlocks / kBlockStepBytes, 1, 8);
};

// A warp's queue of steps: keys and values of a stage have a barrier each.
template <typename Step>
struct BulkQueue {
  static constexpr int kStages = BulkTuning<Step>::kStages;
  std::byte* memory;
  uint64_t (*barriers)[2];

  __device__ std::byte* keys(int stage) const { return memory + stage * Step::kStepBytes; }
  __device__ std::byte* values(int stage) const { return keys(stage) + Step::kHalfBytes; }
  // Before any other use.
  __device__ void start(BulkWalk<Step>& ahead) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (lane < 2 * kStages) init_barrier(&barriers[lane / 2][lane % 2]);
    publish_barriers();
    __syncwarp();
    for (int i = 0; i < kStages && ahead.more(); ++i, ahead.advance()) {
      ahead.copy_keys(keys(i), &barriers[i][0]);
      ahead.copy_values(values(i), &barriers[i][1]);
    }
  }
};

// This warp's steps from `first` to `end`. Attention: what a warp knows of its heads; score(), soften() and
// add_values() take a step in turn.
template <typename Attention, typename Step = typename Attention::Step>
__device__ void attend_bulk(Attention& warp, BulkWalk<Step>& ahead, const BulkQueue<Step>& queue,
                            uint32_t first, uint32_t end, uint32_t tokens) {
  int stage = 0;
  uint32_t parity = 0;
  for (uint32_t step = first; step < end; step += kWarps, ahead.advance()) {
    std::byte *keys = queue.keys(stage), *values = queue.values(stage);
    uint64_t* barriers = queue.barriers[stage];
    const int last = static_cast<int>(min(tokens - step * Step::kKeys, uint32_t{Step::kKeys})) - 1;
    wait_for_phase(&barriers[0], parity);
    warp.score(keys, last);
    __syncwarp();  // every lane has read the keys
    if (ahead.more()) ahead.copy_keys(keys, &barriers[0]);
    warp.soften();
    wait_for_phase(&barriers[1], parity);
    warp.add_values(values, last);
    __syncwarp();
    if (ahead.more()) ahead.copy_values(values, &barriers[1]);
    if (++stage == queue.kStages) stage = 0, parity ^= 1;
  }
}

// Grid [KV heads, sequences, parts]: blocks that run together read neighbouring memory.
template <typename Attention>
__global__ void __launch_bounds__(kThreads, (BulkTuning<typename Attention::Step>::kBlocks))
    bulk_part_kernel([[maybe_unused]] const __grid_constant__ PartParams p) {
#if __CUDA_ARCH__ >= 900
  using Step = typename Attention::Step;
  constexpr int kStages = BulkTuning<Step>::kStages;
  extern __shared__ uint4 memory[];  // the warps' queues, then their results
  __shared__ uint64_t barriers[kWarps][kStages][2];
  let_next_kernel_start();
  const int64_t kv_head = blockIdx.x, sequence = blockIdx.y, part = blockIdx.z;
  const int64_t all_heads = int64_t{gridDim.x} * p.heads;
  const int64_t out = p.results.index(sequence, kv_head * p.heads, all_heads, part);
  const int64_t row = p.batch.rows[sequence];
  const int64_t first = p.plan.first(part);
  const int64_t end = min(p.plan.first(part + 1), int64_t{p.batch.tokens[sequence]});
  if (first >= end) {
    if (threadIdx.x < p.heads) p.results.total[out + threadIdx.x * p.results.parts] = 0.0f;
    return;
  }
  const uint32_t own = threadIdx.x / kWarp;
  const uint32_t first_step = static_cast<uint32_t>(first / Step::kKeys) + own;
  const auto end_step = static_cast<uint32_t>(ceil_div<int64_t>(end, Step::kKeys));
  const BulkQueue<Step> queue{reinterpret_cast<std::byte*>(memory) + own * kStages * Step::kStepBytes,
                              barriers[own]};
  BulkWalk<Step> walk(p, row, kv_head, first_step, end_step);
  queue.start(walk);
  Attention warp;
  warp.load_queries(p.q + (sequence * all_heads + kv_head * p.heads) * Attention::kDim, p.heads, p.scale);
  attend_bulk(warp, walk, queue, first_step, end_step, static_cast<uint32_t>(end));
  __syncthreads();  // results take the place of other warps' queues
  const Shared<Attention::kDim> shared(reinterpret_cast<float*>(memory), p.heads);
  warp.leave(shared, p.heads);
  __syncthreads();
  merge_warps(shared, p.heads, p.results, out, p.results.parts);
#endif
}

// ---- launching --------------------------------------------------------------------------------------------

// None where the device is older than bulk copies.
template <typename Attention>
PartKernel prepare_bulk(int64_t heads) {
  using Step = typename Attention::Step;
  using T = BulkTuning<Step>;
  const auto kernel = bulk_part_kernel<Attention>;
  cudaFuncAttributes attributes{};
  check_cuda(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)), "paged_attention");
  if (attributes.binaryVersion < 90) return {};
  PartKernel found;
  found.kernel = kernel;
  found.shared_bytes = std::max<int64_t>(T::kStages * T::kBlockStepBytes,
                                         Shared<Attention::kDim>::bytes(static_cast<int>(heads)));
  found.blocks_at_once = T::kBlocks;
  found.step_tokens = kWarps * Step::kKeys;
  found.releases_merge = true;
  allow_shared(kernel, found.shared_bytes, "paged_attention");
  return found;
}

}  // namespace shadowkv::cuda
