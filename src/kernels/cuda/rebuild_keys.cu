// Keys of missing chunks from their factors, on tensor cores. A sequence's and KV head's missing candidates
// are sorted by segment and cut into items of up to 128 tokens of one segment; a block takes an item: the
// segment's basis for that head and the factors come to shared memory by asynchronous copies, int8 codes as
// they are, while cosines and sines are computed. Factors are multiplied as bfloat16 (codes exactly, their
// scale afterwards), summed in float32, turned in float32 and rounded once. A warp's columns hold both
// numbers of every pair, so that whole heads are turned in registers. Bound: bytes of the bases, of the
// factors and of the keys written.
#include "kernels/cuda/query_tile.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kWarps = 4;  // two groups of rows, each by two halves of the columns
constexpr int kThreads = kWarps * kWarp;
constexpr int kItemTokens = 128;
constexpr int kFewItemTokens = 64;  // where items are too few for all multiprocessors
constexpr int kMostRunBits = 3;     // up to 8 tokens share a computed turn,
constexpr int kLeastRunBits = 2;    // or 4; for fewer it is not worth its place

template <int kDim>
struct Shape {
  static constexpr int kParts = kDim <= 128 ? 2 : 1;  // of 16 rows a warp and round
  static constexpr int kRows = 2 * 16 * kParts;       // a round
  static constexpr int kTiles = kDim / 16;            // of 8 columns a warp
  static constexpr int kHalf = kDim / 2;
  static constexpr int kStride = round_up(kDim, 64);  // numbers between rows of the basis
  static constexpr int kPad = 8;                      // float32 keys likewise: kDim + kPad
  static constexpr int kSharers = kThreads / kRows;   // threads that load a row of factors
  // Where 8 columns fit into a quarter of the head, a warp takes a quarter of either half of it, in tiles
  // [0, kTiles / 2) and those after them; else half of the head.
  static constexpr bool kPaired = kDim % 32 == 0;

  // Where the 8 columns of a warp's tile begin.
  __device__ static int column_of(int tile) {
    const int side = threadIdx.x / kWarp % 2;
    if constexpr (kPaired) {
      return side * (kDim / 4) + tile % (kTiles / 2) * 8 + tile / (kTiles / 2) * kHalf;
    } else {
      return side * kHalf + tile * 8;
    }
  }
  // The first of a warp's rows of a round.
  __device__ static int first_row() { return static_cast<int>(threadIdx.x) / kWarp / 2 * 16 * kParts; }
};

// How a key's pairs are turned.
enum class Turning : uint8_t {
  halves,      // in registers: whole heads in runs of tokens, pairs half a head apart
  neighbours,  // in registers: whole heads in runs of tokens, pairs side by side
  in_memory,   // in shared memory as float32: all others
};

// Where things lie in shared memory, in bytes.
struct SharedPlan {
  int basis;    // bfloat16 [panel, stride], eights of a row swapped about (swizzle())
  int factors;  // int8 or bfloat16 [rows of a round, factor_stride bytes]
  int bases;    // float2 [runs of an item, head_dim / 2]: cosine and sine of each run's first position
  int offsets;  // float2 [run, head_dim / 2 + 8]: of 0, 1, ..
  int keys;     // float32 [rows of a round, head_dim + pad], for turning in memory
  int mean;     // float32 [head_dim]
  int list;     // int2 [share]: candidate and chunk
  int rows;     // Row [share * chunk]
  int counts;   // int32 [segments]
  int listed;   // int32 [warps]
  int bytes;
};

struct Row {
  int position;
  int out_row;  // of [M, chunk]; -1: none
  float scale;
};

struct RebuildParams {
  DecodeBatch batch;
  const int32_t* chunks;  // [B, G, M]
  const int32_t* slots;   // [B, G, M], or null
  QuantizedView factors;
  PagedView mean;
  PagedView basis;
  int rank;
  RopeView rope;
  std::byte* out;  // [B, G, M, chunk * D]
  DType out_dtype;
  int64_t kv_heads;
  int candidates;
  int chunk;
  int head_dim;
  int segments;                  // that a sequence of the batch may have
  uint32_t segment_tokens;       // positions are below 2^31, so a longer segment is the only one
  uint32_t factor_block_tokens;  // likewise
  int share;                     // candidates of an item
  int run_bits;                  // log2 of `run`
  int run;                       // tokens in a row that share a computed turn
  int panel;                     // numbers of a factor held at a time, a multiple of 16
  int factor_stride;             // bytes
  bool vectors;                  // whether factors can be read 16 bytes at a time and need no conversion
  bool basis_vectors;            // likewise the basis
  Turning turning;
  SharedPlan plan;

  __device__ int segment_of(int position) const {
    const int segment = static_cast<int>(static_cast<uint32_t>(position) / segment_tokens);
    return segment < segments ? segment : segments - 1;
  }
  // The chunk of candidate i if it is to be rebuilt, else -1.
  __device__ int missing_chunk(int64_t bg, int i) const {
    const int chunk = chunks[bg * candidates + i];
    const int slot = slots == nullptr ? -1 : slots[bg * candidates + i];
    return slot < 0 ? chunk : -1;
  }
  template <typename T>
  __device__ T* shared(std::byte* memory, int SharedPlan::*place) const {
    return reinterpret_cast<T*>(memory + plan.*place);
  }
};

// ---- turning ----------------------------------------------------------------------------------------------

// Cosine and sine of position * frequency to about 2e-7. The product is held as a pair of floats, exactly for
// positions below 2^24; quarter turns are taken off in three parts of pi / 2.
__device__ inline float2 turn_of(int position, float frequency) {
  const float place = static_cast<float>(position);
  const float high = place * frequency, low = fmaf(place, frequency, -high);
  const float quarters = rintf(high * 0.636619772367581f);
  float r = fmaf(quarters, -1.57079637050628662109375f, high);  // exact
  r = fmaf(quarters, 4.37113900018624283e-8f, r);
  r = fmaf(quarters, 1.71512449999999988e-15f, r) + low;
  // `quarters` is off by one where high has no fraction left; adding 1.5 * 2^23 rounds to an integer.
  constexpr float kRound = 12582912.0f;
  const float shifted = fmaf(r, 0.636619772367581f, kRound), more = shifted - kRound;
  r = fmaf(more, -1.57079637050628662109375f, r);
  r = fmaf(more, 4.37113900018624283e-8f, r);
  const float z = r * r;
  float s = fmaf(z, 2.7525562e-6f, -1.9840874e-4f);
  s = fmaf(s, z, 8.3333310e-3f);
  s = fmaf(s, z, -1.6666667e-1f);
  s = fmaf(s * z, r, r);
  float c = fmaf(z, 2.4433157e-5f, -1.3887316e-3f);
  c = fmaf(c, z, 4.1666646e-2f);
  c = fmaf(c, z, -0.5f);
  c = fmaf(c, z, 1.0f);
  const int quadrant = static_cast<int>(quarters) + __float_as_int(shifted);  // 1.5 * 2^23 has no low bits
  const bool swapped = (quadrant & 1) != 0;
  const float cosine = swapped ? s : c, sine = swapped ? c : s;
  return make_float2(((quadrant + 1) & 2) != 0 ? -cosine : cosine, (quadrant & 2) != 0 ? -sine : sine);
}

// Fills the turns of an item's runs and those within a run; their products turn every token.
template <int kDim>
__device__ void fill_turns(const RebuildParams& p, std::byte* memory, int rows) {
  constexpr int kHalf = Shape<kDim>::kHalf;
  const auto* list = p.shared<const int2>(memory, &SharedPlan::list);
  auto* bases = p.shared<float2>(memory, &SharedPlan::bases);
  auto* offsets = p.shared<float2>(memory, &SharedPlan::offsets);
  for (int i = threadIdx.x; i < p.run * kHalf; i += kThreads) {
    offsets[i / kHalf * (kHalf + 8) + i % kHalf] = turn_of(i / kHalf, p.rope.inv_freq[i % kHalf]);
  }
  for (int i = threadIdx.x; i < (rows + p.run - 1) / p.run * kHalf; i += kThreads) {
    const int row = i / kHalf * p.run;
    const int position = list[row / p.chunk].y * p.chunk + row % p.chunk;
    bases[i] = turn_of(position, p.rope.inv_freq[i % kHalf]);
  }
}

__device__ inline float2 product(float2 a, float2 b) {
  return make_float2(a.x * b.x - a.y * b.y, a.y * b.x + a.x * b.y);
}

// ---- which tokens -----------------------------------------------------------------------------------------

// Candidates [first, first + count) of a segment's missing ones.
struct Item {
  int segment;  // -1: none
  int first;
  int count;
};

// counts[s] = missing candidates that have a token in segment s.
__device__ void count_missing(const RebuildParams& p, int64_t bg, int* counts) {
  for (int s = threadIdx.x; s < p.segments; s += kThreads) counts[s] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < p.candidates; i += kThreads) {
    const int chunk = p.missing_chunk(bg, i);
    if (chunk < 0) continue;
    const int last = p.segment_of(chunk * p.chunk + p.chunk - 1);
    for (int s = p.segment_of(chunk * p.chunk); s <= last; ++s) atomicAdd(&counts[s], 1);
  }
  __syncthreads();
}

// The nth item of all segments' in turn; every warp finds it for itself.
__device__ Item find_item(const RebuildParams& p, const int* counts, int nth) {
  const int lane = threadIdx.x % kWarp;
  for (int first = 0; first < p.segments; first += kWarp) {
    const int count = first + lane < p.segments ? counts[first + lane] : 0;
    const int items = (count + p.share - 1) / p.share;
    int end = items;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int before = __shfl_up_sync(kAllLanes, end, step);
      if (lane >= step) end += before;
    }
    const unsigned past = __ballot_sync(kAllLanes, end > nth);
    if (past != 0) {
      const int at = __ffs(static_cast<int>(past)) - 1;
      const int from = (nth - __shfl_sync(kAllLanes, end - items, at)) * p.share;
      const int left = __shfl_sync(kAllLanes, count, at) - from;
      return {first + at, from, left < p.share ? left : p.share};
    }
    nth -= __shfl_sync(kAllLanes, end, kWarp - 1);
  }
  return {-1, 0, 0};
}

// The item's candidates and chunks, in order.
__device__ void list_item(const RebuildParams& p, int64_t bg, const Item& item, std::byte* memory) {
  auto* list = p.shared<int2>(memory, &SharedPlan::list);
  auto* counts = p.shared<int>(memory, &SharedPlan::listed);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int seen = 0;
  for (int first = 0; first < p.candidates && seen < item.first + item.count; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    const int chunk = i < p.candidates ? p.missing_chunk(bg, i) : -1;
    const bool here = chunk >= 0 && p.segment_of(chunk * p.chunk) <= item.segment &&
                      item.segment <= p.segment_of(chunk * p.chunk + p.chunk - 1);
    const unsigned lanes = __ballot_sync(kAllLanes, here);
    if (lane == 0) counts[warp] = __popc(lanes);
    __syncthreads();
    int at = seen + __popc(lanes & ((1u << lane) - 1)) - item.first;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      at += w < warp ? counts[w] : 0;
      seen += counts[w];
    }
    if (here && at >= 0 && at < item.count) list[at] = make_int2(i, chunk);
    __syncthreads();
  }
}

// ---- loading ----------------------------------------------------------------------------------------------

// Where eight `eight` of basis row r lies in shared memory. Rows 0, 1, 4, 5, 8, 9, 12, 13 of 16 are read
// together, likewise the others; they meet all banks.
__device__ inline int swizzle(int r, int eight) {
  return eight ^ (r % 2 + r / 4 % 4 * 2);
}

// Rows [first, first + panel) of the basis, columns of one KV head; zeros beyond the rank.
template <int kDim>
__device__ void load_basis(const RebuildParams& p, const std::byte* basis, int first, Bf16* to) {
  constexpr int kEights = kDim / 8, kStride = Shape<kDim>::kStride;
  const int64_t width = p.kv_heads * kDim;
  if (p.basis_vectors) {
    constexpr int kLanes = kStride / 8;  // threads a row, a power of two
    constexpr int kStep = kThreads / kLanes;
    const int eight = threadIdx.x % kLanes, own = threadIdx.x / kLanes;
    if (eight >= kEights) return;
    const std::byte* from = basis + ((first + own) * width + eight * 8) * 2;
#pragma unroll 4
    for (int r = own; r < p.panel; r += kStep, from += kStep * width * 2) {
      copy_async_16(to + r * kStride + swizzle(r, eight) * 8, from, first + r < p.rank);
    }
    return;
  }
  for (int i = threadIdx.x; i < p.panel * kDim; i += kThreads) {
    const int r = i / kDim, d = i % kDim;
    const float x = first + r < p.rank ? read_number(basis, p.basis.dtype, (first + r) * width + d) : 0.0f;
    to[r * kStride + swizzle(r, d / 8) * 8 + d % 8] = __float2bfloat16_rn(x);
  }
}

// PagedView::at() with divisions of 32 bits.
__device__ inline const std::byte* find(const PagedView& view, uint32_t block_tokens, int64_t row,
                                        int token) {
  const uint32_t block = static_cast<uint32_t>(token) / block_tokens;
  const int64_t within = static_cast<uint32_t>(token) - block * block_tokens;
  return view.table[row * view.seq_stride + block] + view.offset + within * view.token_bytes;
}

// Of row i of the item: where it belongs and, numbers [first, first + panel), its factor; zeros beyond the
// rank. What rows that are none hold does not matter.
template <int kDim, bool kCodes>
__device__ void load_row(const RebuildParams& p, int64_t row, const Item& item, int i, int first,
                         std::byte* memory) {
  constexpr int kSharers = Shape<kDim>::kSharers;
  const int own = static_cast<int>(threadIdx.x) % kSharers, nth = i / p.chunk;
  if (nth >= item.count) return;
  const int2 entry = p.shared<const int2>(memory, &SharedPlan::list)[nth];
  const int t = i - nth * p.chunk, position = entry.y * p.chunk + t;
  const bool here = p.segment_of(position) == item.segment;
  const DType dtype = p.factors.data.dtype;
  if (own == 0 && first == 0) {
    float scale = 1.0f;
    if (dtype == DType::i8) {
      const std::byte* from = find(p.factors.scales, p.factor_block_tokens, row, position);
      scale = __bfloat162float(*reinterpret_cast<const Bf16*>(from));
    }
    p.shared<Row>(memory, &SharedPlan::rows)[i] = {position, here ? entry.x * p.chunk + t : -1, scale};
  }
  if (!here) return;
  const std::byte* from = find(p.factors.data, p.factor_block_tokens, row, position);
  std::byte* to =
      p.shared<std::byte>(memory, &SharedPlan::factors) + i % Shape<kDim>::kRows * p.factor_stride;
  if (kCodes || p.vectors) {
    constexpr int kEach = kCodes ? 16 : 8;  // numbers of 16 bytes
    const int held = (p.rank - first) / kEach;
    from += first * (kCodes ? 1 : 2);
    for (int v = own; v < p.panel / kEach; v += kSharers) {
      copy_async_16(to + 16 * v, from + (v < held ? 16 * v : 0), v < held);
    }
  } else {
    for (int d = own; d < p.panel; d += kSharers) {
      const float x = first + d < p.rank ? read_stored(from, dtype, 1.0f, first + d) : 0.0f;
      reinterpret_cast<Bf16*>(to)[d] = __float2bfloat16_rn(x);
    }
  }
}

// ---- multiplying ------------------------------------------------------------------------------------------

// Four codes as bfloat16, exactly: 128 and the low seven bits, less 128 or, where the sign is set, 256.
__device__ inline uint32_t widen_pair(uint32_t biased) {
  const uint32_t number = biased & 0xff7fff7fu, less = biased & 0xff80ff80u;
  const __nv_bfloat162 x = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&number),
                                   *reinterpret_cast<const __nv_bfloat162*>(&less));
  return *reinterpret_cast<const uint32_t*>(&x);
}
__device__ inline void widen(uint32_t codes, uint32_t& low, uint32_t& high) {
  low = widen_pair(__byte_perm(codes, 0x43434343u, 0x4140));
  high = widen_pair(__byte_perm(codes, 0x43434343u, 0x4342));
}

// The operand of 16 rows by 16 numbers. Products do not mind the order of their terms: lane 4 g + t takes
// numbers 4 t .. 4 t + 3 of rows g and g + 8 as its columns 2 t, 2 t + 1, 2 t + 8 and 2 t + 9.
template <bool kCodes>
__device__ void load_factors(const std::byte* row, int stride, uint32_t (&a)[4]) {
  if constexpr (kCodes) {
    widen(*reinterpret_cast<const uint32_t*>(row), a[0], a[2]);
    widen(*reinterpret_cast<const uint32_t*>(row + 8 * stride), a[1], a[3]);
  } else {
    const uint2 low = *reinterpret_cast<const uint2*>(row);
    const uint2 high = *reinterpret_cast<const uint2*>(row + 8 * stride);
    a[0] = low.x, a[2] = low.y, a[1] = high.x, a[3] = high.y;
  }
}

template <int kDim>
using Sums = float[Shape<kDim>::kParts][Shape<kDim>::kTiles][4];

// sums += factors basis for `parts` parts of this warp's rows and its columns.
template <int kDim, bool kCodes>
__device__ void multiply(const RebuildParams& p, const std::byte* factors, const Bf16* basis, int parts,
                         Sums<kDim>& sums) {
  using S = Shape<kDim>;
  constexpr int kPairs = (S::kTiles + 1) / 2;
  const int lane = threadIdx.x % kWarp;
  const std::byte* row =
      factors + (S::first_row() + lane / 4) * p.factor_stride + lane % 4 * (kCodes ? 4 : 8);
  // Row of the basis that this lane addresses, in the order of load_factors(), and where its tiles lie.
  const int r = lane % 8 / 2 * 4 + lane % 2 + lane / 8 % 2 * 2;
  int at[kPairs];
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int second = 2 * i + 1 < S::kTiles ? lane / 16 : 0;
    at[i] = r * S::kStride + swizzle(r, S::column_of(2 * i + second) / 8) * 8;
  }
#pragma unroll 2
  for (int k = 0; k < p.panel; k += 16) {
    uint32_t a[S::kParts][4];
#pragma unroll
    for (int m = 0; m < S::kParts; ++m) {
      if (m < parts)
        load_factors<kCodes>(row + 16 * m * p.factor_stride + k * (kCodes ? 1 : 2), p.factor_stride, a[m]);
    }
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      uint32_t b[4];
      load_matrices_transposed(b, basis + k * S::kStride + at[i]);
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < S::kParts; ++m) {
        if (m >= parts) continue;
        mma_16x8x16(sums[m][2 * i], a[m], first);
        if constexpr (S::kTiles % 2 == 0) {
          mma_16x8x16(sums[m][2 * i + 1], a[m], second);
        } else {
          if (2 * i + 1 < S::kTiles)
            mma_16x8x16(sums[m][2 * i + 1 < S::kTiles ? 2 * i + 1 : 0], a[m], second);
        }
      }
    }
  }
}

// ---- finishing in registers -------------------------------------------------------------------------------

// One lane's keys of a round as pairs of bfloat16, by part, half of its rows, and tile.
template <int kDim>
using Words = uint32_t[Shape<kDim>::kParts][2][Shape<kDim>::kTiles];

// The turns of pairs `pair` .. `pair` + kPairs - 1 of a lane's rows: row % run is the same for all of them.
template <int kDim, int kPairs>
struct Turns {
  static constexpr int kHalf = Shape<kDim>::kHalf;
  float2 within[kPairs];  // of row % run

  __device__ static void read(const float2* from, float2 (&to)[kPairs]) {
    if constexpr (kPairs == 2) {
      const float4 both = *reinterpret_cast<const float4*>(from);
      to[0] = make_float2(both.x, both.y), to[1] = make_float2(both.z, both.w);
    } else {
      to[0] = *from;
    }
  }
  __device__ void load(const RebuildParams& p, std::byte* memory, int pair) {
    const int t = static_cast<int>(threadIdx.x) % kWarp / 4 & (p.run - 1);
    read(p.shared<const float2>(memory, &SharedPlan::offsets) + t * (kHalf + 8) + pair, within);
  }
  __device__ void of_row(const RebuildParams& p, std::byte* memory, int row, int pair,
                         float2 (&turns)[kPairs]) const {
    read(p.shared<const float2>(memory, &SharedPlan::bases) + (row >> p.run_bits) * kHalf + pair, turns);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) turns[j] = product(turns[j], within[j]);
  }
};

// Rows whose pairs are half a head apart: tiles i and i + kTiles / 2 hold both numbers of a pair.
template <int kDim>
__device__ void turn_halves(const RebuildParams& p, std::byte* memory, int from, const Sums<kDim>& sums,
                            Words<kDim>& words) {
  using S = Shape<kDim>;
  constexpr int kTurned = S::kTiles / 2;
  const int lane = threadIdx.x % kWarp;
  const auto* rows = p.shared<const Row>(memory, &SharedPlan::rows);
  const auto* mean = p.shared<const float>(memory, &SharedPlan::mean);
#pragma unroll
  for (int tile = 0; tile < kTurned; ++tile) {
    const int d = S::column_of(tile) + lane % 4 * 2;
    const float2 low = *reinterpret_cast<const float2*>(mean + d);
    const float2 high = *reinterpret_cast<const float2*>(mean + d + S::kHalf);
    Turns<kDim, 2> turns;
    turns.load(p, memory, d);
#pragma unroll
    for (int m = 0; m < S::kParts; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = from + S::first_row() + 16 * m + 8 * half + lane / 4;
        const float scale = rows[row].scale;
        const float(&a)[4] = sums[m][tile], (&b)[4] = sums[m][tile + kTurned];
        float2 turn[2];
        turns.of_row(p, memory, row, d, turn);
        const float2 x = make_float2(fmaf(a[2 * half], scale, low.x), fmaf(b[2 * half], scale, high.x));
        const float2 y =
            make_float2(fmaf(a[2 * half + 1], scale, low.y), fmaf(b[2 * half + 1], scale, high.y));
        const float2 u = product(x, turn[0]), v = product(y, turn[1]);
        words[m][half][tile] = pack_bf16(u.x, v.x);
        words[m][half][tile + kTurned] = pack_bf16(u.y, v.y);
      }
    }
  }
}

// Rows whose pairs stand side by side: each lane's two columns of a tile.
template <int kDim>
__device__ void turn_neighbours(const RebuildParams& p, std::byte* memory, int from, const Sums<kDim>& sums,
                                Words<kDim>& words) {
  using S = Shape<kDim>;
  const int lane = threadIdx.x % kWarp;
  const auto* rows = p.shared<const Row>(memory, &SharedPlan::rows);
  const auto* mean = p.shared<const float>(memory, &SharedPlan::mean);
#pragma unroll
  for (int tile = 0; tile < S::kTiles; ++tile) {
    const int d = S::column_of(tile) + lane % 4 * 2;
    const float2 centre = *reinterpret_cast<const float2*>(mean + d);
    Turns<kDim, 1> turns;
    turns.load(p, memory, d / 2);
#pragma unroll
    for (int m = 0; m < S::kParts; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = from + S::first_row() + 16 * m + 8 * half + lane / 4;
        const float scale = rows[row].scale;
        const float(&a)[4] = sums[m][tile];
        float2 turn[1];
        turns.of_row(p, memory, row, d / 2, turn);
        const float2 x =
            make_float2(fmaf(a[2 * half], scale, centre.x), fmaf(a[2 * half + 1], scale, centre.y));
        const float2 u = product(x, turn[0]);
        words[m][half][tile] = pack_bf16(u.x, u.y);
      }
    }
  }
}

// Neighbouring lanes swap, so that each holds four columns of one of two tiles and a row's 8-byte pieces fill
// whole sectors of 32 bytes.
template <int kDim>
__device__ void write_words(const RebuildParams& p, std::byte* memory, int64_t bg, int from, int end,
                            const Words<kDim>& words) {
  using S = Shape<kDim>;
  const int lane = threadIdx.x % kWarp, odd = lane % 2;
  const auto* rows = p.shared<const Row>(memory, &SharedPlan::rows);
  std::byte* out = p.out + bg * p.candidates * p.chunk * kDim * 2;
#pragma unroll
  for (int m = 0; m < S::kParts; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = from + S::first_row() + 16 * m + 8 * half + lane / 4;
      const int out_row = row < end ? rows[row].out_row : -1;
      std::byte* to = out + int64_t{out_row} * kDim * 2;
#pragma unroll
      for (int tile = 0; tile + 1 < S::kTiles; tile += 2) {
        const uint32_t a = words[m][half][tile], b = words[m][half][tile + 1];
        const uint32_t other = __shfl_xor_sync(kAllLanes, odd != 0 ? a : b, 1);
        const uint2 four = odd != 0 ? make_uint2(other, b) : make_uint2(a, other);
        const int column = S::column_of(tile + odd) + lane % 4 / 2 * 4;
        if (out_row >= 0) *reinterpret_cast<uint2*>(to + column * 2) = four;
      }
      if (S::kTiles % 2 != 0 && out_row >= 0) {
        const int column = S::column_of(S::kTiles - 1) + lane % 4 * 2;
        *reinterpret_cast<uint32_t*>(to + column * 2) = words[m][half][S::kTiles - 1];
      }
    }
  }
}

// ---- finishing in memory ----------------------------------------------------------------------------------

// Scaled sums plus mean, before rotation, to shared memory.
template <int kDim>
__device__ void write_sums(const RebuildParams& p, std::byte* memory, int from, const Sums<kDim>& sums) {
  using S = Shape<kDim>;
  const int lane = threadIdx.x % kWarp;
  const auto* rows = p.shared<const Row>(memory, &SharedPlan::rows);
  const auto* mean = p.shared<const float>(memory, &SharedPlan::mean);
  auto* keys = p.shared<float>(memory, &SharedPlan::keys);
#pragma unroll
  for (int m = 0; m < S::kParts; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = S::first_row() + 16 * m + 8 * half + lane / 4;
      const float scale = rows[from + row].scale;
#pragma unroll
      for (int tile = 0; tile < S::kTiles; ++tile) {
        const int d = S::column_of(tile) + lane % 4 * 2;
        const float2 x = make_float2(fmaf(sums[m][tile][2 * half], scale, mean[d]),
                                     fmaf(sums[m][tile][2 * half + 1], scale, mean[d + 1]));
        *reinterpret_cast<float2*>(keys + row * (kDim + S::kPad) + d) = x;
      }
    }
  }
}

// Turns `count` keys in place.
__device__ void turn_keys(const RebuildParams& p, const Row* rows, int count, int stride, float* keys) {
  const int half = static_cast<int>(p.rope.rotary_dim / 2);
  const int step = p.rope.interleaved ? 2 : 1, apart = p.rope.interleaved ? 1 : half;
  for (int i = threadIdx.x; i < count * half; i += kThreads) {
    const int t = i / half, pair = i % half;
    float* a = keys + t * stride + pair * step;
    const float2 turned =
        product(make_float2(a[0], a[apart]), turn_of(rows[t].position, p.rope.inv_freq[pair]));
    a[0] = turned.x;
    a[apart] = turned.y;
  }
}

__device__ void write_keys(const RebuildParams& p, const Row* rows, int count, int64_t bg, int stride,
                           const float* keys) {
  const int64_t base = bg * p.candidates * p.chunk;
  for (int i = threadIdx.x; i < count * p.head_dim; i += kThreads) {
    const int t = i / p.head_dim, d = i % p.head_dim;
    if (rows[t].out_row < 0) continue;
    write_number(p.out, p.out_dtype, (base + rows[t].out_row) * p.head_dim + d, keys[t * stride + d]);
  }
}

// ---- kernels ----------------------------------------------------------------------------------------------

// Finishes rows [from, from + rows of a round) of an item of `end` rows: sums to keys in `out`.
template <int kDim, Turning kTurning>
__device__ void finish(const RebuildParams& p, std::byte* memory, int64_t bg, int from, int end,
                       const Sums<kDim>& sums) {
  using S = Shape<kDim>;
  if constexpr (kTurning == Turning::in_memory) {
    const auto* rows = p.shared<const Row>(memory, &SharedPlan::rows) + from;
    auto* keys = p.shared<float>(memory, &SharedPlan::keys);
    const int count = end - from < S::kRows ? end - from : S::kRows;
    write_sums<kDim>(p, memory, from, sums);
    __syncthreads();
    turn_keys(p, rows, count, kDim + S::kPad, keys);
    __syncthreads();
    write_keys(p, rows, count, bg, kDim + S::kPad, keys);
  } else {
    if (from + S::first_row() >= end) return;  // the whole warp
    Words<kDim> words;
    if constexpr (kTurning == Turning::halves) {
      turn_halves<kDim>(p, memory, from, sums, words);
    } else {
      turn_neighbours<kDim>(p, memory, from, sums, words);
    }
    write_words<kDim>(p, memory, bg, from, end, words);
  }
}

template <int kDim, bool kCodes, Turning kTurning>
__device__ void rebuild_item(const RebuildParams& p, std::byte* memory, int64_t b, const Item& item) {
  using S = Shape<kDim>;
  const int64_t g = blockIdx.y, bg = b * p.kv_heads + g, row = p.batch.rows[b];
  const int64_t position = item.segment * p.mean.block_tokens;
  const std::byte* all_basis = p.basis.at(row, 0, position) + g * kDim * size_of(p.basis.dtype);
  const auto* all_mean = reinterpret_cast<const float*>(p.mean.at(row, 0, position)) + g * kDim;
  auto* basis = p.shared<Bf16>(memory, &SharedPlan::basis);
  auto* mean = p.shared<float>(memory, &SharedPlan::mean);
  const auto* factors = p.shared<const std::byte>(memory, &SharedPlan::factors);
  const int end = item.count * p.chunk, own = static_cast<int>(threadIdx.x) / S::kSharers;
  load_basis<kDim>(p, all_basis, 0, basis);  // first: it does not wait for the list
  list_item(p, bg, item, memory);
  load_row<kDim, kCodes>(p, row, item, own, 0, memory);
  commit_copies();
  for (int d = threadIdx.x; d < kDim; d += kThreads) mean[d] = all_mean[d];
  if constexpr (kTurning != Turning::in_memory) fill_turns<kDim>(p, memory, end);
  for (int from = 0; from < end; from += S::kRows) {
    Sums<kDim> sums = {};
    const int left = end - from - S::first_row(), parts = left > 16 ? 2 : left > 0 ? 1 : 0;
    for (int first = 0; first < p.rank; first += p.panel) {
      wait_for_copies<0>();
      __syncthreads();
      if (parts > 0) multiply<kDim, kCodes>(p, factors, basis, parts, sums);
      __syncthreads();
      const bool more = first + p.panel < p.rank;
      const int next = more ? from : from + S::kRows;
      if (next >= end) continue;
      if (p.panel < p.rank) load_basis<kDim>(p, all_basis, more ? first + p.panel : 0, basis);
      load_row<kDim, kCodes>(p, row, item, next + own, more ? first + p.panel : 0, memory);
      commit_copies();
    }
    finish<kDim, kTurning>(p, memory, bg, from, end, sums);
  }
}

// Grid: items of a head that may be many, KV heads, sequences. kCodes: factors are int8, read as vectors.
template <int kDim, bool kCodes, Turning kTurning>
__global__ void __launch_bounds__(kThreads, kDim <= 128 ? 3 : 2) rebuild_keys_kernel(RebuildParams p) {
  extern __shared__ __align__(16) std::byte memory[];
  const int64_t b = blockIdx.z;
  int* counts = p.shared<int>(memory, &SharedPlan::counts);
  count_missing(p, b * p.kv_heads + blockIdx.y, counts);
  for (int nth = static_cast<int>(blockIdx.x);; nth += static_cast<int>(gridDim.x)) {
    const Item item = find_item(p, counts, nth);
    if (item.segment < 0) return;
    rebuild_item<kDim, kCodes, kTurning>(p, memory, b, item);
    __syncthreads();
  }
}

// Any head_dim and types, one block a candidate: number by number in float32.
__global__ void rebuild_plainly_kernel(RebuildParams p) {
  extern __shared__ __align__(16) float key[];
  const int64_t b = blockIdx.z, g = blockIdx.y, bg = b * p.kv_heads + g, row = p.batch.rows[b];
  const int64_t entry = bg * p.candidates + blockIdx.x, chunk = p.chunks[entry];
  if (chunk < 0 || (p.slots != nullptr && p.slots[entry] >= 0)) return;
  const int64_t width = p.kv_heads * p.head_dim;
  const int half = static_cast<int>(p.rope.rotary_dim / 2);
  const int step = p.rope.interleaved ? 2 : 1, apart = p.rope.interleaved ? 1 : half;
  for (int t = 0; t < p.chunk; ++t) {
    const int64_t position = chunk * p.chunk + t;
    const std::byte* factors = p.factors.data.at(row, 0, position);
    const float scale = row_scale(p.factors, row, 0, position);
    const std::byte* basis = p.basis.at(row, 0, position);
    const auto* mean = reinterpret_cast<const float*>(p.mean.at(row, 0, position)) + g * p.head_dim;
    for (int d = threadIdx.x; d < p.head_dim; d += blockDim.x) {
      float sum = mean[d];
      for (int r = 0; r < p.rank; ++r)
        sum += read_number(basis, p.basis.dtype, r * width + g * p.head_dim + d) *
               read_stored(factors, p.factors.data.dtype, scale, r);
      key[d] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
      const float2 turn = turn_of(static_cast<int>(position), p.rope.inv_freq[i]);
      const float x = key[i * step], y = key[i * step + apart];
      key[i * step] = x * turn.x - y * turn.y;
      key[i * step + apart] = y * turn.x + x * turn.y;
    }
    __syncthreads();
    const int64_t to = (entry * p.chunk + t) * p.head_dim;
    for (int d = threadIdx.x; d < p.head_dim; d += blockDim.x)
      write_number(p.out, p.out_dtype, to + d, key[d]);
    __syncthreads();
  }
}

// ---- launcher ---------------------------------------------------------------------------------------------

constexpr const char* kOp = "rebuild_keys";
constexpr int64_t kMostSegments = 4096;
constexpr int64_t kMostTokens = int64_t{1} << 31;  // positions are below it

bool is_aligned(const PagedView& view) {
  return view.offset % 16 == 0 && view.token_bytes % 16 == 0;
}

uint32_t block_tokens_of(const PagedView& view) {
  return static_cast<uint32_t>(view.block_tokens < kMostTokens ? view.block_tokens : kMostTokens);
}

RebuildParams params_of(const RebuildKeysParams& p) {
  RebuildParams params{};
  params.batch = p.batch;
  params.chunks = device_ptr<int32_t>(p.chunks);
  params.slots = p.slots.empty() ? nullptr : device_ptr<int32_t>(p.slots);
  params.factors = p.factors;
  params.mean = p.mean;
  params.basis = p.basis;
  params.rank = static_cast<int>(p.rank);
  params.rope = p.rope;
  params.out = p.out.data;
  params.out_dtype = p.out.dtype;
  params.kv_heads = p.chunks.shape[1];
  params.candidates = static_cast<int>(p.chunks.shape[2]);
  params.chunk = static_cast<int>(p.chunk);
  params.head_dim = static_cast<int>(p.head_dim);
  const int64_t segments =
      ceil_div<int64_t>(p.batch.max_tokens > 0 ? p.batch.max_tokens : 1, p.mean.block_tokens);
  params.segments = static_cast<int>(segments < kMostSegments ? segments : kMostSegments + 1);
  params.segment_tokens = block_tokens_of(p.mean);
  params.factor_block_tokens = block_tokens_of(p.factors.data);
  const bool same = p.factors.data.dtype == DType::i8 || p.factors.data.dtype == DType::bf16;
  const int64_t row_bytes = p.rank * size_of(p.factors.data.dtype);
  params.vectors = same && row_bytes % 16 == 0 && is_aligned(p.factors.data);
  params.basis_vectors = p.basis.dtype == DType::bf16 && is_aligned(p.basis);
  return params;
}

// Turns in registers where a lane holds both numbers of a pair and enough tokens in a row share a turn, in
// runs that divide both chunks and the eights that a warp's rows come in.
template <int kDim>
void choose_turning(const RebuildKeysParams& p, RebuildParams& params) {
  params.turning = Turning::in_memory;
  params.run_bits = 0;
  while (params.run_bits < kMostRunBits && params.chunk % (2 << params.run_bits) == 0) ++params.run_bits;
  params.run = 1 << params.run_bits;
  const bool whole = p.rope.rotary_dim == kDim && p.out.dtype == DType::bf16;
  if (!whole || params.run_bits < kLeastRunBits) return;
  if (p.rope.interleaved) {
    params.turning = Turning::neighbours;
  } else if (Shape<kDim>::kPaired) {
    params.turning = Turning::halves;
  }
}

// The plan for items of so many tokens and panels of so many numbers.
template <int kDim>
void plan_shared(RebuildParams& params, bool codes, int tokens, int panel) {
  using S = Shape<kDim>;
  params.share = tokens > params.chunk ? tokens / params.chunk : 1;
  params.panel = panel;
  params.factor_stride = (panel / 16 | 1) * (codes ? 16 : 32);
  const int rows = round_up(params.share * params.chunk, S::kRows);
  const bool turns = params.turning != Turning::in_memory;
  int end = 0;
  const auto place = [&end](int bytes) {
    const int at = end;
    end += round_up(bytes, 16);
    return at;
  };
  constexpr int kTurn = static_cast<int>(sizeof(float2));
  params.plan.basis = place(panel * S::kStride * 2);
  params.plan.factors = place(S::kRows * params.factor_stride);
  params.plan.bases = place(turns ? rows / params.run * S::kHalf * kTurn : 0);
  params.plan.offsets = place(turns ? params.run * (S::kHalf + 8) * kTurn : 0);
  params.plan.keys = place(!turns ? S::kRows * (kDim + S::kPad) * 4 : 0);
  params.plan.mean = place(kDim * 4);
  params.plan.list = place(params.share * static_cast<int>(sizeof(int2)));
  params.plan.rows = place(rows * static_cast<int>(sizeof(Row)));
  params.plan.counts = place(params.segments * 4);
  params.plan.listed = place(kWarps * 4);
  params.plan.bytes = end;
}

// Blocks that fit on a multiprocessor whose blocks may have `most` bytes of shared memory.
constexpr int64_t kSystemShared = 1024;  // that every block takes besides
int64_t resident(const RebuildParams& params, int64_t most) {
  return (most + kSystemShared) / (params.plan.bytes + kSystemShared);
}

// The largest panel of which two blocks fit on a multiprocessor, or one if need be; 0 where none does.
template <int kDim>
int choose_panel(RebuildParams& params, bool codes, int64_t most) {
  const int rank = round_up(params.rank, 16);
  int fits = 0;
  for (int panels = 1; panels <= rank / 16; ++panels) {
    const int panel = round_up(ceil_div(rank, panels), 16);
    plan_shared<kDim>(params, codes, kFewItemTokens, panel);
    const int64_t blocks = resident(params, most);
    if (blocks >= 2) return panel;
    if (blocks == 1 && fits == 0) fits = panel;
  }
  return fits;
}

// Panels, then long items unless short ones keep more blocks resident or are needed to fill the device. False
// if nothing fits.
template <int kDim>
bool choose_plan(Queue& queue, RebuildParams& params, bool codes, int64_t sequences) {
  const CudaDevice& device = device_of(queue);
  const int64_t most = device.shared_bytes_per_block();
  const int panel = choose_panel<kDim>(params, codes, most);
  if (panel == 0) return false;
  plan_shared<kDim>(params, codes, kFewItemTokens, panel);
  const int64_t tokens = sequences * params.kv_heads * params.candidates * params.chunk;
  if (tokens < int64_t{kItemTokens} * device.multiprocessors()) return true;
  const int64_t blocks = resident(params, most);
  plan_shared<kDim>(params, codes, kItemTokens, panel);
  if (resident(params, most) < blocks) plan_shared<kDim>(params, codes, kFewItemTokens, panel);
  return true;
}

// Blocks that a head has: room for its items where half of all candidates are missing.
int64_t blocks_of(const RebuildParams& params) {
  const int64_t segments = params.segments < params.candidates ? params.segments : params.candidates;
  return segments + params.candidates / (2 * params.share);
}

template <int kDim, bool kCodes, Turning kTurning>
void launch(Queue& queue, const RebuildParams& params, const dim3& grid) {
  allow_shared(rebuild_keys_kernel<kDim, kCodes, kTurning>, params.plan.bytes, kOp);
  rebuild_keys_kernel<kDim, kCodes, kTurning>
      <<<grid, kThreads, static_cast<size_t>(params.plan.bytes), stream_of(queue)>>>(params);
}

// False where shared memory has no room.
template <int kDim, bool kCodes>
bool launch(Queue& queue, const RebuildKeysParams& p, RebuildParams& params) {
  choose_turning<kDim>(p, params);
  if (!choose_plan<kDim>(queue, params, kCodes, p.batch.size)) return false;
  const dim3 grid(grid_x(blocks_of(params), kOp), grid_yz(params.kv_heads, kOp), grid_yz(p.batch.size, kOp));
  if (params.turning == Turning::halves) {
    if constexpr (Shape<kDim>::kPaired) launch<kDim, kCodes, Turning::halves>(queue, params, grid);
  } else if (params.turning == Turning::neighbours) {
    launch<kDim, kCodes, Turning::neighbours>(queue, params, grid);
  } else {
    launch<kDim, kCodes, Turning::in_memory>(queue, params, grid);
  }
  return true;
}

}  // namespace

void rebuild_keys(Queue& queue, const RebuildKeysParams& p) {
  RebuildParams params = params_of(p);
  if (params.candidates == 0) return;
  // Items need mean and basis cut alike, factors and scales likewise, and few segments; the plain kernel
  // takes the rest.
  const bool codes = p.factors.data.dtype == DType::i8;
  bool taken = false;
  if (p.mean.block_tokens == p.basis.block_tokens && params.segments <= kMostSegments &&
      (!codes || p.factors.data.block_tokens == p.factors.scales.block_tokens)) {
    with_head_dim(p.head_dim, [&](auto dim) {
      constexpr int kDim = decltype(dim)::value;
      taken = codes && params.vectors ? launch<kDim, true>(queue, p, params)
                                      : launch<kDim, false>(queue, p, params);
    });
  }
  if (!taken) {
    const dim3 grid(grid_x(params.candidates, kOp), grid_yz(params.kv_heads, kOp),
                    grid_yz(p.batch.size, kOp));
    rebuild_plainly_kernel<<<grid, 128, static_cast<size_t>(p.head_dim * 4), stream_of(queue)>>>(params);
  }
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
