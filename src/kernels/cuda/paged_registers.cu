// bfloat16 keys and values. A warp takes sixteen keys at a time, straight from memory to the registers of
// mma.m16n8k16: which number of a row a lane loads is free as long as queries (for keys) and sums (for
// values) are permuted alike, so every lane loads 16 bytes at a time and nothing passes through shared
// memory. The next keys are asked for as soon as the last ones are used up, and so are the next values. Query
// heads of the KV head are the 16 rows of the product. Bound: bytes of keys and values, each read once.
#include "kernels/cuda/paged_block.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kBlocksAtOnce = 2;  // on a multiprocessor

// ---- which lane holds what --------------------------------------------------------------------------------

// With lane = 4 g + t, a lane holds of the keys g and g + 8, and of the values of keys 2 t, 2 t + 1, 2 t + 8
// and 2 t + 9, the bytes [load * lanes * width + part * width, ... + width) of the row, part = t for keys (4
// lanes a row) and g for values (8 lanes a row).
template <int kDim>
struct Layout {
  static constexpr int kNumberBytes = sizeof(Bf16);
  static constexpr int kRowBytes = kDim * kNumberBytes;
  static constexpr int kKeyWidth = widest(kRowBytes, 4, 4);
  static constexpr int kKeyLoads = kRowBytes / (4 * kKeyWidth);
  static constexpr int kKeyWords = kRowBytes / 16;
  static constexpr int kValueWidth = widest(kRowBytes, 8, 4);
  static constexpr int kValueLoads = kRowBytes / (8 * kValueWidth);
  static constexpr int kValueWords = kRowBytes / 32;
  static constexpr int kSteps = kDim / 16;  // products of 16 numbers along a key
  static constexpr int kTiles = kDim / 8;   // eights of sums
  static_assert(kKeyLoads * 4 * kKeyWidth == kRowBytes && kValueLoads * 8 * kValueWidth == kRowBytes);
  static_assert(kKeyWidth >= 8);

  // First of the four numbers that a lane brings to step s: its first two are k = 2 t.., the others k = 2 t
  // + 8...
  static __device__ int key_number(int step, int t) {
    const int byte = step * 4 * kNumberBytes;  // within what the lane holds
    return (byte / kKeyWidth * 4 * kKeyWidth + t * kKeyWidth + byte % kKeyWidth) / kNumberBytes;
  }
  // Number that column g of tile `tile` sums up.
  static __device__ int value_number(int tile, int g) {
    constexpr int kNumbers = kValueWidth / kNumberBytes;  // of one load
    return tile / kNumbers * 8 * kNumbers + g * kNumbers + tile % kNumbers;
  }
};

template <int kBytes>
__device__ void load_stream(uint32_t* to, const std::byte* from) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16) {
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "l"(from));
  } else if constexpr (kBytes == 8) {
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];\n"
                 : "=r"(to[0]), "=r"(to[1])
                 : "l"(from));
  } else {
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];\n" : "=r"(to[0]) : "l"(from));
  }
}

// ---- one component of the storage -------------------------------------------------------------------------

// Rows of one KV head of one sequence in groups of kKeys, each contiguous. 32-bit division: it is on the way
// to every load.
struct Rows {
  std::byte* const* table;
  int64_t offset;
  uint32_t groups_a_block;
  int64_t group_bytes;

  __device__ Rows(const PagedView& view, int64_t row, int64_t head)
      : table(view.table + row * view.seq_stride + head * view.head_stride),
        offset(view.offset + head * view.head_offset),
        groups_a_block(static_cast<uint32_t>(view.block_tokens / kKeys)),
        group_bytes(kKeys * view.token_bytes) {}

  __device__ const std::byte* at(uint32_t group) const {
    const uint32_t block = group / groups_a_block;
    return table[block] + offset + (group - block * groups_a_block) * group_bytes;
  }
};

// ---- a warp's attention -----------------------------------------------------------------------------------

// What a warp is at: addresses of a group's rows.
struct Group {
  const std::byte* keys;
  const std::byte* values;
};

template <int kDim>
class WarpAttention {
  using L = Layout<kDim>;

 public:
  float sums[L::kTiles][4] = {};         // [tile]: rows g, g, g + 8, g + 8; columns 2 t, 2 t + 1, likewise
  float most[2] = {kNothing, kNothing};  // of rows g and g + 8
  float total[2] = {0.0f, 0.0f};         // this lane's part

  // queries: [heads, kDim] of the KV head.
  __device__ void load_queries(const Bf16* queries, int heads) {
#pragma unroll
    for (int step = 0; step < L::kSteps; ++step) {
      const Bf16* from = queries + L::key_number(step, t_);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int head = g_ + 8 * half;
        const auto* pairs = reinterpret_cast<const uint32_t*>(from + head * kDim);
        queries_[step][half] = head < heads ? pairs[0] : 0u;
        queries_[step][half + 2] = head < heads ? pairs[1] : 0u;
      }
    }
  }

  // last: the last key of the group that exists; rows past it are read as that one and weigh nothing.
  __device__ void load_keys(const Group& group, int last) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const std::byte* row = group.keys + min(g_ + 8 * n, last) * L::kRowBytes + t_ * L::kKeyWidth;
#pragma unroll
      for (int i = 0; i < L::kKeyLoads; ++i)
        load_stream<L::kKeyWidth>(keys_[n] + i * (L::kKeyWidth / 4), row + i * 4 * L::kKeyWidth);
    }
  }

  __device__ void load_values(const Group& group, int last) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::byte* row = group.values + min(key_of(i), last) * L::kRowBytes + g_ * L::kValueWidth;
#pragma unroll
      for (int j = 0; j < L::kValueLoads; ++j)
        load_stream<L::kValueWidth>(values_[i] + j * (L::kValueWidth / 4), row + j * 8 * L::kValueWidth);
    }
  }

  // scores_[n]: keys 8 n + 2 t, + 1 of rows g and g + 8; -infinity past the last key.
  __device__ void score(float scale, int last) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores_[n][i] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < L::kSteps; ++step) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const uint32_t key[2] = {keys_[n][2 * step], keys_[n][2 * step + 1]};
        mma_16x8x16(scores_[n], queries_[step], key);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int key = 2 * (i / 4) + i % 2;  // of this lane's four
      scores_[i / 4][i % 4] = key_of(key) > last ? kNothing : scores_[i / 4][i % 4] * scale;
    }
  }

  // Scores to weights, with the running softmax of each row.
  __device__ void soften() {
    float peak[2] = {most[0], most[1]};
#pragma unroll
    for (int i = 0; i < 8; ++i) peak[i % 4 / 2] = fmaxf(peak[i % 4 / 2], scores_[i / 4][i % 4]);
    bool grew = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      peak[half] = warp_reduce<4>(peak[half], Max{});
      grew = grew || peak[half] > most[half];
    }
    if (__any_sync(kAllLanes, grew)) shrink(peak);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& weight = scores_[i / 4][i % 4];
      weight = exp2f(weight - most[i % 4 / 2]);
      total[i % 4 / 2] += weight;
    }
  }

  __device__ void add_values() {
    const uint32_t weights[4] = {
        pack_bf16(scores_[0][0], scores_[0][1]), pack_bf16(scores_[0][2], scores_[0][3]),
        pack_bf16(scores_[1][0], scores_[1][1]), pack_bf16(scores_[1][2], scores_[1][3])};
#pragma unroll
    for (int tile = 0; tile < L::kTiles; ++tile) {
      uint32_t pair[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        pair[half] = __byte_perm(values_[2 * half][tile / 2], values_[2 * half + 1][tile / 2],
                                 tile % 2 == 0 ? 0x5410 : 0x7632);
      }
      mma_16x8x16(sums[tile], weights, pair);
    }
  }

 private:
  // Key of the group that number i of this lane's four belongs to.
  [[nodiscard]] __device__ int key_of(int i) const { return 2 * t_ + i % 2 + i / 2 * 8; }

  __device__ void shrink(const float (&peak)[2]) {
    const float factor[2] = {exp2f(most[0] - peak[0]), exp2f(most[1] - peak[1])};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      most[half] = peak[half];
      total[half] *= factor[half];
    }
#pragma unroll
    for (int tile = 0; tile < L::kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[tile][i] *= factor[i / 2];
    }
  }

  const int g_ = static_cast<int>(threadIdx.x) % kWarp / 4;
  const int t_ = static_cast<int>(threadIdx.x) % 4;
  uint32_t queries_[L::kSteps][4];
  uint32_t keys_[2][L::kKeyWords];
  uint32_t values_[4][L::kValueWords];
  float scores_[2][4];
};

// ---- a block's part ---------------------------------------------------------------------------------------

struct Storage {
  Rows keys, values;

  __device__ Storage(const PartParams& p, int64_t row, int64_t head)
      : keys(p.keys.data, row, head), values(p.values.data, row, head) {}

  __device__ Group at(uint32_t group) const { return {keys.at(group), values.at(group)}; }
};

// Groups [first, end) from this warp's own on, every kWarps-th; `tokens` exist.
template <int kDim>
__device__ void attend(WarpAttention<kDim>& warp, const Storage& storage, float scale, uint32_t first,
                       uint32_t end, int64_t tokens) {
  uint32_t group = first + threadIdx.x / kWarp;
  if (group >= end) return;
  const auto last_of = [tokens](uint32_t g) {
    return static_cast<int>(min(tokens - int64_t{g} * kKeys, int64_t{kKeys}) - 1);
  };
  Group next = storage.at(group);
  int last = last_of(group);
  warp.load_keys(next, last);
  warp.load_values(next, last);
  while (true) {
    const uint32_t upcoming = group + kWarps;
    const bool more = upcoming < end;
    next = storage.at(more ? upcoming : group);
    warp.score(scale, last);
    if (more) {
      last = last_of(upcoming);
      warp.load_keys(next, last);
    }
    warp.soften();
    warp.add_values();
    if (!more) return;
    warp.load_values(next, last);
    group = upcoming;
  }
}

template <int kDim>
__device__ void leave(const WarpAttention<kDim>& warp, const Shared<kDim>& shared, int heads) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = warp_reduce<4>(warp.total[half], Sum{});
    const int head = g + 8 * half;
    if (head >= heads) continue;
    const int row = static_cast<int>(threadIdx.x) / kWarp * heads + head;
    if (t == 0) {
      shared.most[row] = warp.most[half];
      shared.total[row] = total;
    }
#pragma unroll
    for (int tile = 0; tile < kDim / 8; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        shared.sums[row * kDim + Layout<kDim>::value_number(tile, 2 * t + i)] = warp.sums[tile][2 * half + i];
      }
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) part_kernel(const PartParams p) {
  extern __shared__ float memory[];
  const int64_t kv_head = blockIdx.x, sequence = blockIdx.y, part = blockIdx.z;
  const int64_t all_heads = int64_t{gridDim.x} * p.heads;
  const int64_t out = p.results.index(sequence, kv_head * p.heads, all_heads, part);
  const int64_t first = p.plan.first(part);
  const int64_t end = min(p.plan.first(part + 1), int64_t{p.batch.tokens[sequence]});
  if (first >= end) {
    if (threadIdx.x < p.heads) p.results.total[out + threadIdx.x * p.results.parts] = 0.0f;
    return;
  }
  WarpAttention<kDim> warp;
  warp.load_queries(p.q + (sequence * all_heads + kv_head * p.heads) * kDim, p.heads);
  const Storage storage(p, p.batch.rows[sequence], kv_head);
  attend(warp, storage, p.scale, static_cast<uint32_t>(first / kKeys),
         static_cast<uint32_t>(ceil_div<int64_t>(end, kKeys)), end);
  const Shared<kDim> shared(memory, p.heads);
  leave(warp, shared, p.heads);
  __syncthreads();
  merge_warps(shared, p.heads, p.results, out, p.results.parts);
}

// ---- launching --------------------------------------------------------------------------------------------

template <int kDim>
PartKernel prepare(int64_t heads) {
  const PartKernel found{part_kernel<kDim>, Shared<kDim>::bytes(static_cast<int>(heads)), kBlocksAtOnce};
  allow_shared(found.kernel, found.shared_bytes, "paged_attention");
  return found;
}

}  // namespace

PartKernel find_register_kernel(const PagedAttentionParams& params) {
  if (!has_whole_groups(params, DType::bf16)) return {};
  const int64_t heads = params.q.shape[1] / params.kv_heads;
  switch (params.q.shape[2]) {
    case 16:
      return prepare<16>(heads);
    case 32:
      return prepare<32>(heads);
    case 64:
      return prepare<64>(heads);
    case 80:
      return prepare<80>(heads);
    case 96:
      return prepare<96>(heads);
    case 128:
      return prepare<128>(heads);
    case 256:
      return prepare<256>(heads);
    default:
      return {};
  }
}

}  // namespace shadowkv::cuda
