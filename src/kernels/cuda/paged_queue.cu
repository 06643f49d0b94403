// int8 keys and values. A warp takes sixteen keys at a time, as the 16 rows of mma.m16n8k16; query heads of
// the KV head are its 8 columns. Which number of a row a lane holds is free as long as queries (for keys) and
// sums (for values) are permuted alike, so every lane brings 16 bytes at a time, and it brings what it alone
// will use: shared memory is a queue of kStages such steps a lane, filled by asynchronous copies, which keeps
// many more bytes on their way than registers could hold. The numbers go to bfloat16 as they are; scales of
// keys multiply scores, and those of values weights. Bound: bytes of keys and values, each read once.
#include <algorithm>

#include "kernels/cuda/paged_block.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kEight = 8;  // columns of a product: query heads

// ---- which lane holds what --------------------------------------------------------------------------------

// With lane = 4 g + t, a lane holds of the keys g and g + 8, and of the values of keys 2 t, 2 t + 1, 2 t + 8
// and 2 t + 9, the bytes [load * lanes * width + part * width, ... + width) of the row, part = t for keys (4
// lanes a row) and g for values (8 lanes a row).
template <int kDim>
struct Layout {
  static constexpr int kRowBytes = kDim;
  static constexpr int kKeyWidth = widest(kRowBytes, 4, 4);
  static constexpr int kKeyLoads = kRowBytes / (4 * kKeyWidth);
  static constexpr int kKeyWords = kRowBytes / 16;
  static constexpr int kValueWidth = widest(kRowBytes, 8, 4);
  static constexpr int kValueLoads = kRowBytes / (8 * kValueWidth);
  static constexpr int kValueWords = kRowBytes / 32;
  static constexpr int kSteps = kDim / 16;  // products of 16 numbers along a key
  static constexpr int kTiles = kDim / 8;   // eights of sums
  static_assert(kKeyLoads * 4 * kKeyWidth == kRowBytes && kValueLoads * 8 * kValueWidth == kRowBytes);
  // Of a warp's step in shared memory: keys, values, then kKeys scales of each.
  static constexpr int kRowsBytes = kKeys * kRowBytes;
  static constexpr int kStageBytes = 2 * kRowsBytes + 4 * kKeys;

  // First of the four numbers that a lane brings to step s: the first and third are k = 2 t.., the others
  // k = 2 t + 8...
  static __device__ int key_number(int step, int t) {
    const int byte = step * 4;  // within what the lane holds
    return byte / kKeyWidth * 4 * kKeyWidth + t * kKeyWidth + byte % kKeyWidth;
  }
  // Number that column g of tile `tile` sums up.
  static __device__ int value_number(int tile, int g) {
    return tile / kValueWidth * 8 * kValueWidth + g * kValueWidth + tile % kValueWidth;
  }
};

// Blocks on a multiprocessor that registers are limited for, and the steps a warp's queue holds.
template <int kDim, int kEights>
struct Tuning {
  static constexpr int kBlocks = kDim > 128 || kEights > 1 ? 2 : 4;
  static constexpr int kSharedBytes = 216 << 10;  // of a multiprocessor, of 228 KiB
  static constexpr int kBlockStageBytes = kWarps * Layout<kDim>::kStageBytes;
  static constexpr int kStages = std::clamp(kSharedBytes / kBlocks / kBlockStageBytes, 1, 4);
};

template <int kBytes>
__device__ void copy_stream(std::byte* to, const std::byte* from) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared_address(to)), "l"(from)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;\n" ::"r"(shared_address(to)), "l"(from),
                 "n"(kBytes)
                 : "memory");
  }
}

// (x & mask) | bits as one instruction: left alone, the compiler takes two.
__device__ inline uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;\n" : "=r"(result) : "r"(x), "r"(mask), "r"(bits));
  return result;
}

// bfloat16 pair of the signed bytes in bits 0-7 and 16-23; other bits are ignored. 128 + low seven bits, less
// 128 or 256, all exact.
__device__ inline uint32_t widen_bytes(uint32_t pair) {
  const uint32_t number = and_or(pair, 0x007f007fu, 0x43004300u);
  const uint32_t sign = and_or(pair, 0x00800080u, 0x43004300u);
  const __nv_bfloat162 result = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&number),
                                        *reinterpret_cast<const __nv_bfloat162*>(&sign));
  return *reinterpret_cast<const uint32_t*>(&result);
}

// ---- one component of the storage -------------------------------------------------------------------------

// Rows of one KV head of one sequence in groups of kKeys, each contiguous.
struct Rows {
  std::byte* const* table;
  int64_t offset;

  __device__ Rows(const PagedView& view, int64_t row, int64_t head)
      : table(view.table + row * view.seq_stride + head * view.head_stride),
        offset(view.offset + head * view.head_offset) {}

  // bytes: into the rows that a block holds of this head.
  __device__ const std::byte* at(uint32_t block, uint32_t bytes) const {
    return table[block] + offset + bytes;
  }
};

__device__ inline float scale_of(const std::byte* scales, int key) {
  return __bfloat162float(reinterpret_cast<const Bf16*>(scales)[key]);
}

// ---- a warp's attention -----------------------------------------------------------------------------------

// What a warp is at: addresses of a group's rows, and how many of its keys exist.
struct Group {
  const std::byte* keys;
  const std::byte* values;
  const std::byte* key_scales;
  const std::byte* value_scales;
};

template <int kDim, int kEights>
class WarpAttention {
  using L = Layout<kDim>;

 public:
  // [pair of tiles][eight]: number g of the first tile for heads 2 t, 2 t + 1, then of the second.
  float sums[L::kTiles / 2][kEights][4] = {};
  float most[kEights][2];        // of heads 2 t and 2 t + 1
  float total[kEights][2] = {};  // this lane's part

  __device__ WarpAttention() {
#pragma unroll
    for (int e = 0; e < kEights; ++e) most[e][0] = most[e][1] = kNothing;
  }

  // queries: [heads, kDim] of the KV head.
  __device__ void load_queries(const Bf16* queries, int heads) {
#pragma unroll
    for (int step = 0; step < L::kSteps; ++step) {
#pragma unroll
      for (int e = 0; e < kEights; ++e) {
        const int head = g_ + kEight * e;
        const auto* pairs =
            reinterpret_cast<const uint32_t*>(queries + head * kDim + L::key_number(step, t_));
        const uint32_t first = head < heads ? pairs[0] : 0u, second = head < heads ? pairs[1] : 0u;
        queries_[step][e][0] = __byte_perm(first, second, 0x5410);
        queries_[step][e][1] = __byte_perm(first, second, 0x7632);
      }
    }
  }

  // last: the last key of the group that exists; rows past it are read as that one and weigh nothing.
  __device__ void copy_keys(std::byte* stage, const Group& group, int last) const {
    std::byte* to = stage + lane_ * L::kKeyWidth;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const std::byte* row = group.keys + min(g_ + 8 * n, last) * L::kRowBytes + t_ * L::kKeyWidth;
#pragma unroll
      for (int i = 0; i < L::kKeyLoads; ++i)
        copy_stream<L::kKeyWidth>(to + (n * L::kKeyLoads + i) * kWarp * L::kKeyWidth,
                                  row + i * 4 * L::kKeyWidth);
    }
    copy_scales(stage + 2 * L::kRowsBytes, group.key_scales, last);
  }

  __device__ void copy_values(std::byte* stage, const Group& group, int last) const {
    std::byte* to = stage + L::kRowsBytes + lane_ * L::kValueWidth;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = min(2 * t_ + i % 2 + i / 2 * 8, last);
      const std::byte* row = group.values + key * L::kRowBytes + g_ * L::kValueWidth;
#pragma unroll
      for (int j = 0; j < L::kValueLoads; ++j)
        copy_stream<L::kValueWidth>(to + (i * L::kValueLoads + j) * kWarp * L::kValueWidth,
                                    row + j * 8 * L::kValueWidth);
    }
    copy_scales(stage + 2 * L::kRowsBytes + 2 * kKeys, group.value_scales, last);
  }

  // scores_[e]: keys g, g, g + 8, g + 8 of heads 2 t, 2 t + 1, likewise; -infinity past the last key.
  __device__ void score(const std::byte* stage, float scale, int last) {
    uint32_t keys[2][L::kKeyWords];
    const std::byte* from = stage + lane_ * L::kKeyWidth;
#pragma unroll
    for (int i = 0; i < 2 * L::kKeyLoads; ++i)
      load_words<L::kKeyWidth>(keys[i / L::kKeyLoads] + i % L::kKeyLoads * (L::kKeyWidth / 4),
                               from + i * kWarp * L::kKeyWidth);
    float products[2][kEights][4] = {};  // two chains, each of half the latency
#pragma unroll
    for (int step = 0; step < L::kSteps; ++step) {
      uint32_t key[4];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        key[n] = widen_bytes(keys[n][step]);
        key[n + 2] = widen_bytes(keys[n][step] >> 8);
      }
#pragma unroll
      for (int e = 0; e < kEights; ++e) mma_16x8x16(products[step % 2][e], key, queries_[step][e]);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int key = g_ + 8 * n;
      const float factor = scale * scale_of(stage + 2 * L::kRowsBytes, key);
#pragma unroll
      for (int i = 2 * n; i < 2 * n + 2; ++i) {
#pragma unroll
        for (int e = 0; e < kEights; ++e)
          scores_[e][i] = key > last ? kNothing : (products[0][e][i] + products[1][e][i]) * factor;
      }
    }
  }

  // Scores to weights, with the running softmax of each head.
  __device__ void soften() {
    float peak[kEights][2];
    bool grew = false;
#pragma unroll
    for (int e = 0; e < kEights; ++e) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        peak[e][i] = fmaxf(most[e][i], over_keys(fmaxf(scores_[e][i], scores_[e][i + 2]), Max{}));
        grew = grew || peak[e][i] > most[e][i];
      }
    }
    if (__any_sync(kAllLanes, grew)) shrink(peak);
#pragma unroll
    for (int e = 0; e < kEights; ++e) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores_[e][i] = exp2f(scores_[e][i] - most[e][i % 2]);
        total[e][i % 2] += scores_[e][i];
      }
    }
  }

  __device__ void add_values(const std::byte* stage, int last) {
    scale_weights(stage + 2 * L::kRowsBytes + 2 * kKeys, last);
    uint32_t values[4][L::kValueWords];
    const std::byte* from = stage + L::kRowsBytes + lane_ * L::kValueWidth;
#pragma unroll
    for (int i = 0; i < 4 * L::kValueLoads; ++i)
      load_words<L::kValueWidth>(values[i / L::kValueLoads] + i % L::kValueLoads * (L::kValueWidth / 4),
                                 from + i * kWarp * L::kValueWidth);
    uint32_t weights[kEights][2];
#pragma unroll
    for (int e = 0; e < kEights; ++e) {
      weights[e][0] = transpose_8x8(pack_bf16(scores_[e][0], scores_[e][1]));
      weights[e][1] = transpose_8x8(pack_bf16(scores_[e][2], scores_[e][3]));
    }
#pragma unroll
    for (int i = 0; i < L::kTiles / 2; ++i) {
      uint32_t value[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pairs =
            __byte_perm(values[2 * half][i / 2], values[2 * half + 1][i / 2], i % 2 == 0 ? 0x5410 : 0x7632);
        value[2 * half] = widen_bytes(pairs);
        value[2 * half + 1] = widen_bytes(pairs >> 8);
      }
#pragma unroll
      for (int e = 0; e < kEights; ++e) mma_16x8x16(sums[i][e], value, weights[e]);
    }
  }

  // Over the lanes of the same heads.
  template <typename Op>
  static __device__ float over_keys(float x, Op op) {
#pragma unroll
    for (int step = 4; step < kWarp; step *= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, step));
    return x;
  }

 private:
  // Two a lane, for the whole warp; those past `last` may be anything.
  __device__ void copy_scales(std::byte* to, const std::byte* from, int last) const {
    if (lane_ < kKeys / 2) copy_stream<4>(to + 4 * lane_, from + 4 * min(lane_, last / 2));
  }

  __device__ void scale_weights(const std::byte* scales, int last) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int key = g_ + 8 * n;
      const float scale = key > last ? 0.0f : scale_of(scales, key);
#pragma unroll
      for (int e = 0; e < kEights; ++e) scores_[e][2 * n] *= scale, scores_[e][2 * n + 1] *= scale;
    }
  }

  __device__ void shrink(const float (&peak)[kEights][2]) {
#pragma unroll
    for (int e = 0; e < kEights; ++e) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float factor = exp2f(most[e][i] - peak[e][i]);
        most[e][i] = peak[e][i];
        total[e][i] *= factor;
#pragma unroll
        for (int tiles = 0; tiles < L::kTiles / 2; ++tiles)
          sums[tiles][e][i] *= factor, sums[tiles][e][i + 2] *= factor;
      }
    }
  }

  const int lane_ = static_cast<int>(threadIdx.x) % kWarp;
  const int g_ = lane_ / 4;
  const int t_ = lane_ % 4;
  uint32_t queries_[L::kSteps][kEights][2];
  float scores_[kEights][4];
};

// ---- a block's part ---------------------------------------------------------------------------------------

template <int kDim>
struct Storage {
  Rows keys, values, key_scales, value_scales;
  uint32_t groups_a_block;  // of all four

  __device__ Storage(const PartParams& p, int64_t row, int64_t head)
      : keys(p.keys.data, row, head),
        values(p.values.data, row, head),
        key_scales(p.keys.scales, row, head),
        value_scales(p.values.scales, row, head),
        groups_a_block(static_cast<uint32_t>(p.keys.data.block_tokens / kKeys)) {}

  __device__ Group at(uint32_t block, uint32_t group) const {
    constexpr uint32_t kRows = Layout<kDim>::kRowsBytes, kScales = kKeys * sizeof(Bf16);
    return {keys.at(block, group * kRows), values.at(block, group * kRows),
            key_scales.at(block, group * kScales), value_scales.at(block, group * kScales)};
  }
};

// Groups [first, end) from this warp's own on, every kWarps-th, as they are asked for.
template <int kDim>
class Walk {
 public:
  // tokens: that exist.
  __device__ Walk(const Storage<kDim>& storage, uint32_t first, uint32_t end, int64_t tokens)
      : storage_(storage),
        tokens_(static_cast<uint32_t>(tokens)),
        end_(end),
        group_(first),
        block_(first / storage.groups_a_block),
        within_(first % storage.groups_a_block) {}

  [[nodiscard]] __device__ bool more() const { return group_ < end_; }
  [[nodiscard]] __device__ Group group() const { return storage_.at(block_, within_); }
  // Last key of the group that exists.
  [[nodiscard]] __device__ int last() const { return last_of(group_); }
  [[nodiscard]] __device__ int last_of(uint32_t group) const {
    return static_cast<int>(min(tokens_ - group * kKeys, uint32_t{kKeys})) - 1;
  }

  __device__ void advance() {
    group_ += kWarps;
    for (within_ += kWarps; within_ >= storage_.groups_a_block; within_ -= storage_.groups_a_block) ++block_;
  }

 private:
  const Storage<kDim>& storage_;
  uint32_t tokens_, end_, group_, block_, within_;
};

// queue: [kStages, kStageBytes] of this warp. Copies of keys and of values are groups of their own, in turn,
// empty past the end: after those of a step, 2 kStages - 1 more are under way at any time.
template <int kDim, int kEights>
__device__ void attend(WarpAttention<kDim, kEights>& warp, const Storage<kDim>& storage, std::byte* queue,
                       float scale, uint32_t first, uint32_t end, int64_t tokens) {
  constexpr int kStages = Tuning<kDim, kEights>::kStages;
  constexpr int kBytes = Layout<kDim>::kStageBytes;
  Walk<kDim> ahead(storage, first, end, tokens);
  for (int i = 0; i < kStages; ++i, ahead.advance()) {
    if (ahead.more()) warp.copy_keys(queue + i * kBytes, ahead.group(), ahead.last());
    commit_copies();
    if (ahead.more()) warp.copy_values(queue + i * kBytes, ahead.group(), ahead.last());
    commit_copies();
  }
  std::byte* stage = queue;
  for (uint32_t group = first; group < end; group += kWarps, ahead.advance()) {
    const bool more = ahead.more();
    const Group next = more ? ahead.group() : Group{};
    const int last = ahead.last_of(group);
    wait_for_copies<2 * kStages - 1>();
    __syncwarp();
    warp.score(stage, scale, last);
    __syncwarp();  // scales were read by other lanes
    if (more) warp.copy_keys(stage, next, ahead.last());
    commit_copies();
    warp.soften();
    wait_for_copies<2 * kStages - 1>();
    __syncwarp();
    warp.add_values(stage, last);
    __syncwarp();
    if (more) warp.copy_values(stage, next, ahead.last());
    commit_copies();
    stage = stage + kBytes == queue + kStages * kBytes ? queue : stage + kBytes;
  }
}

template <int kDim, int kEights>
__device__ void leave(const WarpAttention<kDim, kEights>& warp, const Shared<kDim>& shared, int heads) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2 * kEights; ++i) {
    const int e = i / 2, column = i % 2;
    const float total = warp.over_keys(warp.total[e][column], Sum{});
    const int head = kEight * e + 2 * t + column;
    if (head >= heads) continue;
    const int row = static_cast<int>(threadIdx.x) / kWarp * heads + head;
    if (g == 0) {
      shared.most[row] = warp.most[e][column];
      shared.total[row] = total;
    }
#pragma unroll
    for (int tile = 0; tile < kDim / 8; ++tile) {
      shared.sums[row * kDim + Layout<kDim>::value_number(tile, g)] =
          warp.sums[tile / 2][e][2 * (tile % 2) + column];
    }
  }
}

template <int kDim, int kEights>
__global__ void __launch_bounds__(kThreads, (Tuning<kDim, kEights>::kBlocks))
    part_kernel(const PartParams p) {
  extern __shared__ uint4 memory[];  // the warps' queues, then their results
  const int64_t kv_head = blockIdx.x, sequence = blockIdx.y, part = blockIdx.z;
  const int64_t all_heads = int64_t{gridDim.x} * p.heads;
  const int64_t out = p.results.index(sequence, kv_head * p.heads, all_heads, part);
  const int64_t first = p.plan.first(part);
  const int64_t end = min(p.plan.first(part + 1), int64_t{p.batch.tokens[sequence]});
  if (first >= end) {
    if (threadIdx.x < p.heads) p.results.total[out + threadIdx.x * p.results.parts] = 0.0f;
    return;
  }
  WarpAttention<kDim, kEights> warp;
  warp.load_queries(p.q + (sequence * all_heads + kv_head * p.heads) * kDim, p.heads);
  const Storage<kDim> storage(p, p.batch.rows[sequence], kv_head);
  const uint32_t own = threadIdx.x / kWarp;
  constexpr int kQueueBytes = Tuning<kDim, kEights>::kStages * Layout<kDim>::kStageBytes;
  attend(warp, storage, reinterpret_cast<std::byte*>(memory) + own * kQueueBytes, p.scale,
         static_cast<uint32_t>(first / kKeys) + own, static_cast<uint32_t>(ceil_div<int64_t>(end, kKeys)),
         end);
  __syncthreads();  // results take the place of other warps' queues
  const Shared<kDim> shared(reinterpret_cast<float*>(memory), p.heads);
  leave(warp, shared, p.heads);
  __syncthreads();
  merge_warps(shared, p.heads, p.results, out, p.results.parts);
}

// ---- launching --------------------------------------------------------------------------------------------

// Blocks of keys, values and scales hold the same tokens, and scales are aligned for copies of two.
bool has_layout(const PagedAttentionParams& params) {
  if (!has_whole_groups(params, DType::i8)) return false;
  const int64_t block_tokens = params.keys.data.block_tokens;
  if (params.values.data.block_tokens != block_tokens) return false;
  for (const QuantizedView* view : {&params.keys, &params.values}) {
    const PagedView& scales = view->scales;
    if (scales.block_tokens != block_tokens || scales.token_bytes != 2) return false;
    if (scales.offset % 4 != 0 || scales.head_offset % 4 != 0) return false;
  }
  return true;
}

template <int kDim, int kEights>
PartKernel prepare(int64_t heads) {
  using T = Tuning<kDim, kEights>;
  PartKernel found{
      part_kernel<kDim, kEights>,
      std::max<int64_t>(T::kStages * T::kBlockStageBytes, Shared<kDim>::bytes(static_cast<int>(heads)))};
  allow_shared(found.kernel, found.shared_bytes, "paged_attention");
  // L1 keeps nothing of streams: without this the device may leave too little shared memory for kBlocks.
  check_cuda(
      cudaFuncSetAttribute(reinterpret_cast<const void*>(found.kernel),
                           cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
      "paged_attention");
  int blocks = 0;
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, found.kernel, kThreads,
                                                           static_cast<size_t>(found.shared_bytes)),
             "paged_attention");
  found.blocks_at_once = std::max(1, blocks);
  return found;
}

template <int kDim>
PartKernel prepare_for(int64_t heads) {
  return heads <= kEight ? prepare<kDim, 1>(heads) : prepare<kDim, 2>(heads);
}

}  // namespace

PartKernel find_queue_kernel(const PagedAttentionParams& params) {
  if (!has_layout(params)) return {};
  const int64_t heads = params.q.shape[1] / params.kv_heads;
  switch (params.q.shape[2]) {
    case 32:
      return prepare_for<32>(heads);
    case 64:
      return prepare_for<64>(heads);
    case 96:
      return prepare_for<96>(heads);
    case 128:
      return prepare_for<128>(heads);
    case 256:
      return prepare_for<256>(heads);
    default:
      return {};
  }
}

}  // namespace shadowkv::cuda
