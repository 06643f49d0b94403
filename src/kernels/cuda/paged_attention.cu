// Each sequence's context is cut into parts; a block of four warps attends to one part of one KV head, and a
// second kernel merges the parts. Bound: bytes of keys and values, each read once.
//
// A warp takes sixteen keys at a time, straight from memory to the registers of mma.m16n8k16: which number of
// a row a lane loads is free as long as queries (for keys) and sums (for values) are permuted alike, so every
// lane loads 16 bytes at a time and nothing passes through shared memory. The next keys are asked for as soon
// as the last ones are used up, and so are the next values. Query heads of the KV head are the 16 rows of the
// product.
#include <algorithm>

#include "kernels/cuda/paged_parts.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kKeys = 16;  // of a warp's step
constexpr int kMostHeads = 16;

// ---- which lane holds what --------------------------------------------------------------------------------

constexpr int widest(int row_bytes, int lanes, int least) {
  int bytes = 16;
  while (bytes > least && row_bytes % (lanes * bytes) != 0) bytes /= 2;
  return bytes;
}

// With lane = 4 g + t, a lane holds of the keys g and g + 8, and of the values of keys 2 t, 2 t + 1, 2 t + 8
// and 2 t + 9, the bytes [load * lanes * width + part * width, ... + width) of the row, part = t for keys (4
// lanes a row) and g for values (8 lanes a row).
template <int kDim, bool kInt8>
struct Layout {
  static constexpr int kNumberBytes = kInt8 ? 1 : 2;
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
  static_assert(kInt8 || kKeyWidth >= 8);

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

// bfloat16 pair of the signed bytes in bits 0-7 and 16-23; other bits are ignored. 128 + low seven bits, less
// 128 or 256, all exact.
__device__ inline uint32_t widen_bytes(uint32_t pair) {
  const uint32_t number = (pair & 0x007f007fu) | 0x43004300u;
  const uint32_t sign = (pair & 0x00800080u) | 0x43004300u;
  const __nv_bfloat162 result = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&number),
                                        *reinterpret_cast<const __nv_bfloat162*>(&sign));
  return *reinterpret_cast<const uint32_t*>(&result);
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

template <int kDim, bool kInt8>
class WarpAttention {
  using L = Layout<kDim, kInt8>;

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
    if constexpr (kInt8) {
#pragma unroll
      for (int i = 0; i < 4; ++i) key_scales_[i] = scale_of(group.key_scales, min(key_of(i), last));
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
    if constexpr (kInt8) {
#pragma unroll
      for (int i = 0; i < 4; ++i) value_scales_[i] = scale_of(group.value_scales, min(key_of(i), last));
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
        uint32_t key[2];
        if constexpr (kInt8) {
          key[0] = widen_bytes(__byte_perm(keys_[n][step], 0u, 0x4140));
          key[1] = widen_bytes(__byte_perm(keys_[n][step], 0u, 0x4342));
        } else {
          key[0] = keys_[n][2 * step];
          key[1] = keys_[n][2 * step + 1];
        }
        mma_16x8x16(scores_[n], queries_[step], key);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int key = 2 * (i / 4) + i % 2;  // of this lane's four
      float factor = scale;
      if constexpr (kInt8) factor *= key_scales_[key];
      scores_[i / 4][i % 4] = key_of(key) > last ? kNothing : scores_[i / 4][i % 4] * factor;
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
      if constexpr (kInt8) weight *= value_scales_[2 * (i / 4) + i % 2];
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
        if constexpr (kInt8) {
          const int byte = tile % 4;
          pair[half] = widen_bytes(__byte_perm(values_[2 * half][tile / 4], values_[2 * half + 1][tile / 4],
                                               byte + ((4 + byte) << 8)));
        } else {
          pair[half] = __byte_perm(values_[2 * half][tile / 2], values_[2 * half + 1][tile / 2],
                                   tile % 2 == 0 ? 0x5410 : 0x7632);
        }
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
  float key_scales_[4];
  float value_scales_[4];
};

// ---- a block's part ---------------------------------------------------------------------------------------

struct PartParams {
  const Bf16* q;
  DecodeBatch batch;
  QuantizedView keys;
  QuantizedView values;
  int heads;    // query heads of a KV head
  float scale;  // to base 2
  int64_t part_tokens;
  PartResults results;
};

template <bool kInt8>
struct Storage {
  Rows keys, values, key_scales, value_scales;

  __device__ Storage(const PartParams& p, int64_t row, int64_t head)
      : keys(p.keys.data, row, head),
        values(p.values.data, row, head),
        key_scales(kInt8 ? p.keys.scales : p.keys.data, row, head),
        value_scales(kInt8 ? p.values.scales : p.values.data, row, head) {}

  __device__ Group at(uint32_t group) const {
    Group found{keys.at(group), values.at(group), nullptr, nullptr};
    if constexpr (kInt8) {
      found.key_scales = key_scales.at(group);
      found.value_scales = value_scales.at(group);
    }
    return found;
  }
};

// Groups [first, end) from this warp's own on, every kWarps-th; `tokens` exist.
template <int kDim, bool kInt8>
__device__ void attend(WarpAttention<kDim, kInt8>& warp, const Storage<kInt8>& storage, float scale,
                       uint32_t first, uint32_t end, int64_t tokens) {
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

// The warps' results in shared memory: sums [kWarps, heads, kDim], then most and total [kWarps, heads].
template <int kDim>
struct Shared {
  float* sums;
  float* most;
  float* total;

  __device__ Shared(float* memory, int heads)
      : sums(memory), most(memory + kWarps * heads * kDim), total(most + kWarps * heads) {}
  static int64_t bytes(int heads) { return int64_t{kWarps} * heads * (kDim + 2) * int64_t{sizeof(float)}; }
};

template <int kDim, bool kInt8>
__device__ void leave(const WarpAttention<kDim, kInt8>& warp, const Shared<kDim>& shared, int heads) {
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
        shared.sums[row * kDim + Layout<kDim, kInt8>::value_number(tile, 2 * t + i)] =
            warp.sums[tile][2 * half + i];
      }
    }
  }
}

// out: index of the first head's part in the results, `stride` between heads.
template <int kDim>
__device__ void merge_warps(const Shared<kDim>& shared, int heads, const PartResults& results, int64_t out,
                            int64_t stride) {
  for (int i = threadIdx.x; i < heads * kDim; i += kThreads) {
    const int head = i / kDim;
    float most = kNothing;
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, shared.most[w * heads + head]);
    float sum = 0.0f, total = 0.0f;
    for (int w = 0; w < kWarps; ++w) {
      const float weight = exp2f(shared.most[w * heads + head] - most);
      sum += weight * shared.sums[w * heads * kDim + i];
      total += weight * shared.total[w * heads + head];
    }
    const int64_t to = out + head * stride;
    results.sums[to * kDim + i % kDim] = sum;
    if (i % kDim == 0) {
      results.most[to] = most;
      results.total[to] = total;
    }
  }
}

template <int kDim, bool kInt8>
__global__ void __launch_bounds__(kThreads, 2) part_kernel(const PartParams p) {
  extern __shared__ float memory[];
  const int64_t part = blockIdx.x, kv_head = blockIdx.y, sequence = blockIdx.z;
  const int64_t all_heads = int64_t{gridDim.y} * p.heads;
  const int64_t out = p.results.index(sequence, kv_head * p.heads, all_heads, part);
  const int64_t first = part * p.part_tokens;
  const int64_t end = min(first + p.part_tokens, int64_t{p.batch.tokens[sequence]});
  if (first >= end) {
    if (threadIdx.x < p.heads) p.results.total[out + threadIdx.x * p.results.parts] = 0.0f;
    return;
  }
  WarpAttention<kDim, kInt8> warp;
  warp.load_queries(p.q + (sequence * all_heads + kv_head * p.heads) * kDim, p.heads);
  const Storage<kInt8> storage(p, p.batch.rows[sequence], kv_head);
  attend(warp, storage, p.scale, static_cast<uint32_t>(first / kKeys),
         static_cast<uint32_t>(ceil_div<int64_t>(end, kKeys)), end);
  const Shared<kDim> shared(memory, p.heads);
  leave(warp, shared, p.heads);
  __syncthreads();
  merge_warps(shared, p.heads, p.results, out, p.results.parts);
}

// ---- merging ----------------------------------------------------------------------------------------------

constexpr int kMergeThreads = 512;
constexpr int kMergeWarps = kMergeThreads / kWarp;
constexpr int kMostNumbers = 16;  // of a row a lane: head_dim up to 512

// One block a query head of a sequence; its warps share the parts, their lanes the numbers of a row.
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(PartResults results, int head_dim, Bf16* out, float* lse) {
  extern __shared__ float rows[];  // [kMergeWarps, head_dim]
  __shared__ float reduced[kMergeWarps];
  const int64_t head = blockIdx.x;
  const float* most = results.most + head * results.parts;
  const float* total = results.total + head * results.parts;
  float peak = kNothing, sum = 0.0f;
  for (int64_t i = threadIdx.x; i < results.parts; i += kMergeThreads) {
    if (total[i] > 0.0f) peak = fmaxf(peak, most[i]);
  }
  peak = block_reduce<kMergeThreads>(peak, Max{}, reduced);
  for (int64_t i = threadIdx.x; i < results.parts; i += kMergeThreads) {
    if (total[i] > 0.0f) sum += exp2f(most[i] - peak) * total[i];
  }
  sum = block_reduce<kMergeThreads>(sum, Sum{}, reduced);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float numbers[kMostNumbers] = {};
  for (int64_t i = warp; i < results.parts; i += kMergeWarps) {
    if (!(total[i] > 0.0f)) continue;  // its sums were not written
    const float weight = exp2f(most[i] - peak);
    const float* from = results.sums + (head * results.parts + i) * head_dim + lane;
#pragma unroll
    for (int j = 0; j < kMostNumbers; ++j) {
      if (j * kWarp + lane < head_dim) numbers[j] += weight * from[j * kWarp];
    }
  }
#pragma unroll
  for (int j = 0; j < kMostNumbers; ++j) {
    if (j * kWarp + lane < head_dim) rows[warp * head_dim + j * kWarp + lane] = numbers[j];
  }
  __syncthreads();
  for (int d = threadIdx.x; d < head_dim; d += kMergeThreads) {
    float number = 0.0f;
    for (int w = 0; w < kMergeWarps; ++w) number += rows[w * head_dim + d];
    out[head * head_dim + d] = from_float<Bf16>(sum > 0.0f ? number / sum : 0.0f);
  }
  if (threadIdx.x == 0) lse[head] = sum > 0.0f ? (peak + log2f(sum)) * kLn2 : kNothing;
}

void launch_merge(Queue& queue, const PagedAttentionParams& params, const PartResults& results) {
  const char* op = "paged_attention";
  const auto head_dim = static_cast<int>(params.q.shape[2]);
  demand(head_dim <= kMostNumbers * kWarp, op, "head_dim may be at most 512 on a GPU");
  const auto shared = static_cast<size_t>(kMergeWarps * head_dim) * sizeof(float);
  merge_kernel<<<grid_x(params.batch.size * params.q.shape[1], op), kMergeThreads, shared,
                 stream_of(queue)>>>(results, head_dim, device_ptr<Bf16>(params.out),
                                     device_ptr<float>(params.lse));
  check_launch(op);
}

// ---- launching --------------------------------------------------------------------------------------------

// Parts that fill four or more waves of blocks best: a last wave with idle multiprocessors is time lost.
int64_t parts_that_fill(int64_t blocks_at_once, int64_t pairs) {
  constexpr int64_t kLeastWaves = 4, kMostWaves = 8;
  int64_t best = 1;
  double best_fill = 0.0;
  for (int64_t waves = kLeastWaves; waves <= kMostWaves; ++waves) {
    const int64_t parts = waves * blocks_at_once / pairs;
    const double fill = static_cast<double>(parts * pairs) / static_cast<double>(waves * blocks_at_once);
    if (parts > 0 && fill > best_fill + 0.01) best = parts, best_fill = fill;
  }
  return best;
}

// From host values alone, so that a recorded step keeps its grid.
PartPlan plan_parts(const CudaDevice& device, const PagedAttentionParams& params) {
  constexpr int64_t kBlocksAtOnce = 2;               // on a multiprocessor
  constexpr int64_t kLeastTokens = 256, kStep = 64;  // of a part
  const int64_t heads = params.q.shape[1], most = std::max<int64_t>(1, params.batch.max_tokens);
  const int64_t row_bytes = params.batch.size * heads * (params.q.shape[2] + 2) * int64_t{sizeof(float)};
  const int64_t wanted =
      parts_that_fill(kBlocksAtOnce * device.multiprocessors(), params.batch.size * params.kv_heads);
  const int64_t parts =
      std::max<int64_t>(1, std::min({wanted, ceil_div(most, kLeastTokens),
                                     CudaDevice::kScratchBytes / std::max<int64_t>(1, row_bytes)}));
  PartPlan plan;
  plan.tokens = round_up(ceil_div(most, parts), kStep);
  plan.parts = ceil_div(most, plan.tokens);
  return plan;
}

PartResults results_in(const CudaDevice& device, const PagedAttentionParams& params, const PartPlan& plan) {
  const int64_t rows = params.batch.size * params.q.shape[1] * plan.parts, head_dim = params.q.shape[2];
  auto* memory = reinterpret_cast<float*>(
      device.scratch(rows * (head_dim + 2) * int64_t{sizeof(float)}, "paged_attention"));
  return {memory, memory + rows * head_dim, memory + rows * (head_dim + 1), plan.parts};
}

// Rows of a group must be contiguous, and their loads aligned.
bool has_fast_layout(const PagedAttentionParams& params) {
  const int64_t head_dim = params.q.shape[2];
  if (params.keys.data.dtype != params.values.data.dtype || params.keys.data.dtype == DType::f32)
    return false;
  if (params.q.shape[1] / params.kv_heads > kMostHeads) return false;
  for (const QuantizedView* view : {&params.keys, &params.values}) {
    const PagedView& data = view->data;
    if (data.block_tokens % kKeys != 0 || data.token_bytes != head_dim * size_of(data.dtype)) return false;
    if (data.offset % 16 != 0 || data.head_offset % 16 != 0) return false;
    const PagedView& scales = view->scales;
    if (data.dtype == DType::i8 && (scales.block_tokens % kKeys != 0 || scales.token_bytes != 2))
      return false;
  }
  return true;
}

template <int kDim, bool kInt8>
bool launch_parts(Queue& queue, const PagedAttentionParams& params, const PartPlan& plan,
                  const PartResults& results) {
  const auto heads = static_cast<int>(params.q.shape[1] / params.kv_heads);
  const PartParams p{device_ptr<const Bf16>(params.q),
                     params.batch,
                     params.keys,
                     params.values,
                     heads,
                     params.scale * kLog2E,
                     plan.tokens,
                     results};
  const dim3 grid(grid_x(plan.parts, "paged_attention"), grid_yz(params.kv_heads, "paged_attention"),
                  grid_yz(params.batch.size, "paged_attention"));
  const int64_t shared = Shared<kDim>::bytes(heads);
  allow_shared(part_kernel<kDim, kInt8>, shared, "paged_attention");
  part_kernel<kDim, kInt8><<<grid, kThreads, static_cast<size_t>(shared), stream_of(queue)>>>(p);
  check_launch("paged_attention");
  return true;
}

// False where no fast kernel takes the shapes.
bool launch_fast(Queue& queue, const PagedAttentionParams& params, const PartPlan& plan,
                 const PartResults& results) {
  if (!has_fast_layout(params)) return false;
  const bool int8 = params.keys.data.dtype == DType::i8;
  switch (params.q.shape[2]) {
    case 16:
      return !int8 && launch_parts<16, false>(queue, params, plan, results);
    case 32:
      return (int8 ? launch_parts<32, true> : launch_parts<32, false>)(queue, params, plan, results);
    case 64:
      return (int8 ? launch_parts<64, true> : launch_parts<64, false>)(queue, params, plan, results);
    case 80:
      return !int8 && launch_parts<80, false>(queue, params, plan, results);
    case 96:
      return (int8 ? launch_parts<96, true> : launch_parts<96, false>)(queue, params, plan, results);
    case 128:
      return (int8 ? launch_parts<128, true> : launch_parts<128, false>)(queue, params, plan, results);
    case 256:
      return (int8 ? launch_parts<256, true> : launch_parts<256, false>)(queue, params, plan, results);
    default:
      return false;
  }
}

}  // namespace

void paged_attention(Queue& queue, const PagedAttentionParams& params) {
  if (params.batch.size == 0) return;
  const CudaDevice& device = device_of(queue);
  const PartPlan plan = plan_parts(device, params);
  const PartResults results = results_in(device, params, plan);
  if (!launch_fast(queue, params, plan, results)) launch_any_paged_attention(queue, params, plan, results);
  launch_merge(queue, params, results);
}

}  // namespace shadowkv::cuda
