// Which tokens a block of rebuild_keys rebuilds, and how their factors and their basis come to shared memory.
// A sequence's and KV head's list of missing candidates is in order of chunks, so those of one segment lie
// side by side in it.
#pragma once

#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = kWarps * kWarp;
inline constexpr int kTile = 16;                // tokens
inline constexpr int kTileQueries = 8;          // query heads that are scored
inline constexpr int kSharers = kWarp / kTile;  // lanes that load a row of factors

template <int kDim>
struct Shape {
  static constexpr int kTiles = kDim / 8;  // of 8 columns
  static constexpr int kHalf = kDim / 2;
  static constexpr int kStride = kDim + 8;                    // numbers between rows of the basis
  static constexpr int kRowThreads = round_up(kDim, 64) / 8;  // that load one, a power of two
  static constexpr int kKeyStride = kDim + 8;  // float32 numbers between keys that turn in memory
};

// How a key's pairs are turned.
enum class Turning : uint8_t {
  halves,      // in registers: whole heads, pairs half a head apart
  neighbours,  // in registers: whole heads, pairs side by side
  in_memory,   // in shared memory as float32: all others
};

// Divides numbers below 2^31.
struct Divider {
  uint32_t factor = 0, shift = 0;

  Divider() = default;
  explicit Divider(int divisor) {
    while ((int64_t{1} << shift) < divisor) ++shift;
    factor = static_cast<uint32_t>((uint64_t{1} << (31 + shift)) / static_cast<uint64_t>(divisor) + 1);
  }
  __device__ int operator()(int number) const {
    return static_cast<int>(__umulhi(static_cast<uint32_t>(2 * number), factor) >> shift);
  }
};

// Where things lie in shared memory, in bytes.
struct SharedPlan {
  int queries;      // uint2 [head_dim / 16, lanes]: up to 8 query heads as an operand
  int basis;        // bfloat16 [panel, stride], rows in the order of place_of()
  int factors;      // int8 or bfloat16 [warps, 16, factor_stride bytes]
  int keys;         // float32 [warps, 16, head_dim + 8], for turning in memory
  int mean;         // float32 [head_dim]
  int frequencies;  // uint2 [head_dim / 2]: Frequency
  int bytes;
};

// Exact scores besides, of chunks that divide a tile and lie in one segment each; out null: none.
struct TileScores {
  const Bf16* q = nullptr;          // [B, H, D]
  float scale = 0.0f;               // of products as powers of two
  float* out = nullptr;             // [B, H, M]
  int group = 0;                    // query heads of a KV head, at most kTileQueries
  int blocks = 0;                   // of a KV head, for candidates that are not missing
  const int32_t* chunks = nullptr;  // [B, G, M], -1: none
  const int32_t* found = nullptr;   // [B, G, M] their slots, -1: missing
  SlotView slots;                   // that hold those
};

struct RebuildParams {
  DecodeBatch batch;
  const int2* missing;  // [B, G, M] candidate and chunk, those that are missing; then -1
  QuantizedView factors;
  PagedView mean;
  PagedView basis;
  int rank;
  RopeView rope;
  std::byte* out;  // [B, G, M, chunk * D]
  TileScores scores;
  DType out_dtype;
  int64_t kv_heads;
  int candidates;
  int chunk;
  int head_dim;
  int segments;             // that a sequence of the batch may have
  int segment_chunks;       // of one
  Divider by_chunk;         // likewise
  Divider by_factor_block;  // likewise
  int factor_block;
  int sharers;  // blocks that share the tokens of a segment
  Divider by_sharer;
  int panel;           // numbers of a factor held at a time, a multiple of 16
  int factor_stride;   // bytes
  bool vectors;        // whether factors can be read 16 bytes at a time and need no conversion
  bool basis_vectors;  // likewise the basis
  Turning turning;
  SharedPlan plan;

  // What all tokens of a row's segment share.
  __device__ const std::byte* of_segment(const PagedView& view, int64_t row, int segment) const {
    return view.table[row * view.seq_stride + segment] + view.offset;
  }
  // PagedView::at() of factors or their scales.
  __device__ const std::byte* of_token(const PagedView& view, int64_t row, int position) const {
    const int block = by_factor_block(position);
    return view.table[row * view.seq_stride + block] + view.offset +
           (position - block * factor_block) * view.token_bytes;
  }
  template <typename T>
  __device__ T* shared(std::byte* memory, int SharedPlan::*place) const {
    return reinterpret_cast<T*>(memory + plan.*place);
  }
};
// ---- which tokens -----------------------------------------------------------------------------------------

// Entries [first, first + count) of a head's list.
struct Item {
  int first;
  int count;
};

// The entries whose chunks lie in a segment; every warp finds them for itself.
__device__ inline Item find_item(const RebuildParams& p, const int2* list, int segment) {
  constexpr int kAhead = 4;  // rounds whose loads are under way at once
  const int lane = threadIdx.x % kWarp, chunks = p.segment_chunks, low = segment * chunks;
  Item item{0, 0};
  for (int base = 0; base < p.candidates; base += kAhead * kWarp) {
    int listed[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int i = base + j * kWarp + lane;
      listed[j] = i < p.candidates ? list[i].y : -1;
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      item.first += __popc(__ballot_sync(kAllLanes, listed[j] >= 0 && listed[j] < low));
      item.count += __popc(__ballot_sync(kAllLanes, listed[j] >= low && listed[j] - low < chunks));
    }
  }
  return item;
}

// ---- loading ----------------------------------------------------------------------------------------------

// Where row r of the basis lies in shared memory: rows 0, 1, 4, 5, 8, 9, 12, 13 of 16 are read together and
// so come first, then the others. Rows are 16 bytes longer than they need be, so that eight meet all banks.
__device__ inline int place_of(int r) {
  return r / 16 * 16 + r / 2 % 2 * 8 + r / 4 % 4 * 2 + r % 2;
}

// Rows [first, first + panel) of the basis, columns of one KV head; zeros beyond the rank.
template <int kDim>
__device__ void load_basis(const RebuildParams& p, const std::byte* basis, int first, Bf16* to) {
  constexpr int kEights = kDim / 8, kStride = Shape<kDim>::kStride;
  const int64_t width = p.kv_heads * kDim;
  if (p.basis_vectors) {
    constexpr int kLanes = Shape<kDim>::kRowThreads;
    constexpr int kStep = kThreads / kLanes;
    const int eight = threadIdx.x % kLanes, own = threadIdx.x / kLanes;
    if (eight >= kEights) return;
    const std::byte* from = basis + ((first + own) * width + eight * 8) * 2;
#pragma unroll 4
    for (int r = own; r < p.panel; r += kStep, from += kStep * width * 2) {
      copy_async_16(to + place_of(r) * kStride + eight * 8, from, first + r < p.rank);
    }
    return;
  }
  for (int i = threadIdx.x; i < p.panel * kDim; i += kThreads) {
    const int r = i / kDim, d = i % kDim;
    const float x = first + r < p.rank ? read_number(basis, p.basis.dtype, (first + r) * width + d) : 0.0f;
    to[place_of(r) * kStride + d] = __float2bfloat16_rn(x);
  }
}

// One of a tile's rows, in the lanes that load it; out_row -1: none.
struct Row {
  int position;
  int out_row;     // of [M, chunk]
  uint16_t scale;  // bfloat16, not looked at before it is needed: it may be on its way
  const std::byte* factors;
};

inline constexpr uint16_t kUnitScale = 0x3f80;  // 1 in bfloat16

// Row i of the item. Its scale is on its way when this returns.
__device__ inline Row find_row(const RebuildParams& p, int64_t row, const int2* list, const Item& item,
                               int i) {
  const int nth = p.by_chunk(i);
  if (nth >= item.count) return {0, -1, 0, nullptr};
  const int2 entry = list[item.first + nth];
  const int t = i - nth * p.chunk, position = entry.y * p.chunk + t;
  Row found{position, entry.x * p.chunk + t, kUnitScale, p.of_token(p.factors.data, row, position)};
  if (p.factors.data.dtype == DType::i8) {
    found.scale = *reinterpret_cast<const uint16_t*>(p.of_token(p.factors.scales, row, position));
  }
  return found;
}

// Numbers [first, first + panel) of a lane's row; zeros beyond the rank. What rows that are none hold does
// not matter.
template <bool kCodes>
__device__ void load_row(const RebuildParams& p, const std::byte* from, int first, std::byte* tile) {
  if (from == nullptr) return;
  const int lane = threadIdx.x % kWarp, own = lane % kSharers;
  std::byte* to = tile + lane / kSharers * p.factor_stride;
  if (kCodes || p.vectors) {
    constexpr int kEach = kCodes ? 16 : 8;  // numbers of 16 bytes
    const int held = (p.rank - first) / kEach;
    from += first * (kCodes ? 1 : 2);
    for (int v = own; v < p.panel / kEach; v += kSharers) copy_async_16(to + 16 * v, from + 16 * v, v < held);
  } else {
    for (int d = own; d < p.panel; d += kSharers) {
      const float x = first + d < p.rank ? read_stored(from, p.factors.data.dtype, 1.0f, first + d) : 0.0f;
      reinterpret_cast<Bf16*>(to)[d] = __float2bfloat16_rn(x);
    }
  }
}

}  // namespace shadowkv::cuda
