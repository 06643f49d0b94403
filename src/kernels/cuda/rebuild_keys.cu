// Keys of missing chunks from their factors, on tensor cores. A sequence's and KV head's missing candidates
// are sorted by segment and cut into items of up to 128 tokens of one segment. A block takes an item: the
// segment's basis for that head comes to shared memory once, then each warp rebuilds tiles of 16 tokens by
// itself: their factors come by asynchronous copies, int8 codes as they are, and are multiplied as bfloat16
// (codes exactly, their scale afterwards), summed in float32, turned in float32 and rounded once. A warp
// holds whole keys, so that whole heads are turned in registers. Bound: bytes of the bases, of the factors
// and of the keys written, which it reaches to 40 % on an H200: what counts is waiting for loads and about
// 2,200 instructions a tile at a head_dim of 128 and rank 160, a third of them for finding and loading.
#include "kernels/cuda/query_tile.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTile = 16;                // tokens
constexpr int kItemTokens = 128;         // two tiles a warp
constexpr int kFewItemTokens = 64;       // where items are too few for all multiprocessors
constexpr int kSharers = kWarp / kTile;  // lanes that load a row of factors

template <int kDim>
struct Shape {
  static constexpr int kTiles = kDim / 8;  // of 8 columns
  static constexpr int kHalf = kDim / 2;
  static constexpr int kStride = round_up(kDim, 64);  // numbers between rows of the basis
  static constexpr int kKeyStride = kDim + 8;         // float32 numbers between keys that turn in memory
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
  int basis;        // bfloat16 [panel, stride], eights of a row swapped about (swizzle())
  int factors;      // int8 or bfloat16 [warps, 16, factor_stride bytes]
  int keys;         // float32 [warps, 16, head_dim + 8], for turning in memory
  int mean;         // float32 [head_dim]
  int frequencies;  // uint2 [head_dim / 2]: Frequency
  int list;         // int2 [share]: candidate and chunk
  int counts;       // int32 [segments]
  int listed;       // int32 [warps]
  int bytes;
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
  int segments;             // that a sequence of the batch may have
  Divider by_segment;       // tokens of one
  Divider by_chunk;         // likewise
  Divider by_factor_block;  // likewise
  Divider by_share;         // candidates
  int factor_block;
  int share;           // candidates of an item
  int panel;           // numbers of a factor held at a time, a multiple of 16
  int factor_stride;   // bytes
  bool vectors;        // whether factors can be read 16 bytes at a time and need no conversion
  bool basis_vectors;  // likewise the basis
  Turning turning;
  SharedPlan plan;

  __device__ int segment_of(int position) const {
    const int segment = by_segment(position);
    return segment < segments ? segment : segments - 1;
  }
  // The chunk of candidate i if it is to be rebuilt, else -1.
  __device__ int missing_chunk(int64_t bg, int i) const {
    const int chunk = chunks[bg * candidates + i];
    const int slot = slots == nullptr ? -1 : slots[bg * candidates + i];
    return slot < 0 ? chunk : -1;
  }
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

// Turns a position as a binary fraction of 64 bits; whole turns do not count.
struct Frequency {
  uint32_t high, low;

  __device__ static Frequency of(float radians) {
    constexpr double kTurns = 0.15915494309189533577, kHigh = 4294967296.0;
    double turns = static_cast<double>(radians) * kTurns;
    turns = (turns - floor(turns)) * kHigh;
    const double whole = floor(turns);
    return {static_cast<uint32_t>(whole), static_cast<uint32_t>((turns - whole) * kHigh)};
  }
  // Cosine and sine to about 7e-7, for keys that are then rounded to bfloat16: the angle is exact to 2^-31
  // turns before it becomes a float.
  __device__ float2 turn(uint32_t position) const {
    constexpr float kRadians = 1.4629180792671596e-9f;  // 2 pi / 2^32
    const uint32_t angle = position * high + __umulhi(position, low);
    const float x = static_cast<float>(static_cast<int>(angle)) * kRadians;
    return make_float2(__cosf(x), __sinf(x));
  }
};

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
    const int items = p.by_share(count + p.share - 1);
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

// One of a tile's rows, in the lanes that load it; out_row -1: none.
struct Row {
  int position;
  int out_row;  // of [M, chunk]
  float scale;
  const std::byte* factors;
};

// Row i of the item. Its scale is on its way when this returns.
__device__ inline Row find_row(const RebuildParams& p, int64_t row, const Item& item, const int2* list,
                               int i) {
  const int nth = p.by_chunk(i);
  if (nth >= item.count) return {0, -1, 0.0f, nullptr};
  const int2 entry = list[nth];
  const int t = i - nth * p.chunk, position = entry.y * p.chunk + t;
  if (p.segment_of(position) != item.segment) return {0, -1, 0.0f, nullptr};
  Row found{position, entry.x * p.chunk + t, 1.0f, p.of_token(p.factors.data, row, position)};
  if (p.factors.data.dtype == DType::i8) {
    found.scale =
        __bfloat162float(*reinterpret_cast<const Bf16*>(p.of_token(p.factors.scales, row, position)));
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
__device__ void read_factors(const std::byte* row, int stride, uint32_t (&a)[4]) {
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
using Sums = float[Shape<kDim>::kTiles][4];

// sums += factors basis for a tile.
template <int kDim, bool kCodes>
__device__ void multiply(const RebuildParams& p, const std::byte* tile, const Bf16* basis, Sums<kDim>& sums) {
  constexpr int kStride = Shape<kDim>::kStride;
  const int lane = threadIdx.x % kWarp;
  const std::byte* row = tile + lane / 4 * p.factor_stride + lane % 4 * (kCodes ? 4 : 8);
  // The row of the basis that this lane addresses, in the order of read_factors(); the second eight of each
  // pair in the upper lanes.
  const int r = lane % 8 / 2 * 4 + lane % 2 + lane / 8 % 2 * 2;
  const Bf16* own = basis + r * kStride;
  const int swaps = swizzle(r, lane / 16);
#pragma unroll 2
  for (int k = 0; k < p.panel; k += 16) {
    uint32_t a[4];
    read_factors<kCodes>(row + k * (kCodes ? 1 : 2), p.factor_stride, a);
#pragma unroll
    for (int i = 0; i < Shape<kDim>::kTiles; i += 2) {
      uint32_t b[4];
      load_matrices_transposed(b, own + k * kStride + (i ^ swaps) * 8);
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
      mma_16x8x16(sums[i], a, first);
      mma_16x8x16(sums[i + 1], a, second);
    }
  }
}

// ---- finishing in registers -------------------------------------------------------------------------------

// What a lane needs to know of its rows lane / 4 and lane / 4 + 8.
struct OwnRows {
  int position[2];
  int out_row[2];
  float scale[2];

  __device__ explicit OwnRows(const Row& loaded) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int from = (lane / 4 + 8 * half) * kSharers;
      position[half] = __shfl_sync(kAllLanes, loaded.position, from);
      out_row[half] = __shfl_sync(kAllLanes, loaded.out_row, from);
      scale[half] = __shfl_sync(kAllLanes, loaded.scale, from);
    }
  }
};

// One lane's keys as pairs of bfloat16, by half of the rows and eight columns.
template <int kDim>
using Words = uint32_t[2][Shape<kDim>::kTiles];

// Pairs half a head apart: eights i and i + kTiles / 2 hold both numbers of a pair.
template <int kDim>
__device__ void turn_halves(const float* mean, const Frequency* frequencies, const OwnRows& rows,
                            const Sums<kDim>& sums, Words<kDim>& words) {
  constexpr int kTurned = Shape<kDim>::kTiles / 2;
#pragma unroll
  for (int i = 0; i < kTurned; ++i) {
    const int d = i * 8 + threadIdx.x % 4 * 2;
    const float2 low = *reinterpret_cast<const float2*>(mean + d);
    const float2 high = *reinterpret_cast<const float2*>(mean + d + Shape<kDim>::kHalf);
    const uint4 both = *reinterpret_cast<const uint4*>(frequencies + d);
    const Frequency first{both.x, both.y}, second{both.z, both.w};
    const float(&a)[4] = sums[i], (&b)[4] = sums[i + kTurned];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = rows.scale[half];
      const float2 x = make_float2(fmaf(a[2 * half], scale, low.x), fmaf(b[2 * half], scale, high.x));
      const float2 y = make_float2(fmaf(a[2 * half + 1], scale, low.y), fmaf(b[2 * half + 1], scale, high.y));
      const float2 u = product(x, first.turn(rows.position[half]));
      const float2 v = product(y, second.turn(rows.position[half]));
      words[half][i] = pack_bf16(u.x, v.x);
      words[half][i + kTurned] = pack_bf16(u.y, v.y);
    }
  }
}

// Pairs side by side: each lane's two columns of an eight.
template <int kDim>
__device__ void turn_neighbours(const float* mean, const Frequency* frequencies, const OwnRows& rows,
                                const Sums<kDim>& sums, Words<kDim>& words) {
#pragma unroll
  for (int i = 0; i < Shape<kDim>::kTiles; ++i) {
    const int d = i * 8 + threadIdx.x % 4 * 2;
    const float2 centre = *reinterpret_cast<const float2*>(mean + d);
    const Frequency frequency = frequencies[d / 2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = rows.scale[half];
      const float2 x =
          make_float2(fmaf(sums[i][2 * half], scale, centre.x), fmaf(sums[i][2 * half + 1], scale, centre.y));
      const float2 u = product(x, frequency.turn(rows.position[half]));
      words[half][i] = pack_bf16(u.x, u.y);
    }
  }
}

// Neighbouring lanes swap, so that each holds four columns of one of two eights and a row's 8-byte pieces
// fill whole sectors of 32 bytes.
template <int kDim>
__device__ void write_words(std::byte* out, const OwnRows& rows, const Words<kDim>& words) {
  const int lane = threadIdx.x % kWarp, odd = lane % 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    std::byte* to = out + (int64_t{rows.out_row[half]} * kDim + odd * 8 + lane % 4 / 2 * 4) * 2;
#pragma unroll
    for (int i = 0; i < Shape<kDim>::kTiles; i += 2) {
      const uint32_t a = words[half][i], b = words[half][i + 1];
      const uint32_t other = __shfl_xor_sync(kAllLanes, odd != 0 ? a : b, 1);
      const uint2 four = odd != 0 ? make_uint2(other, b) : make_uint2(a, other);
      if (rows.out_row[half] >= 0) *reinterpret_cast<uint2*>(to + i * 16) = four;
    }
  }
}

// ---- finishing in memory ----------------------------------------------------------------------------------

// Turns and writes a tile by way of this warp's float32 keys [16, D + 8].
template <int kDim>
__device__ void finish_in_memory(const RebuildParams& p, std::byte* memory, int64_t bg, const Row& loaded,
                                 const Sums<kDim>& sums) {
  constexpr int kStride = Shape<kDim>::kKeyStride;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const auto* mean = p.shared<const float>(memory, &SharedPlan::mean);
  float* keys = p.shared<float>(memory, &SharedPlan::keys) + warp * kTile * kStride;
  const OwnRows rows(loaded);
#pragma unroll
  for (int i = 0; i < Shape<kDim>::kTiles; ++i) {
    const int d = i * 8 + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* to = keys + (lane / 4 + 8 * half) * kStride + d;
      to[0] = fmaf(sums[i][2 * half], rows.scale[half], mean[d]);
      to[1] = fmaf(sums[i][2 * half + 1], rows.scale[half], mean[d + 1]);
    }
  }
  __syncwarp();
  const int half = static_cast<int>(p.rope.rotary_dim / 2);
  const int step = p.rope.interleaved ? 2 : 1, apart = p.rope.interleaved ? 1 : half;
  for (int t = 0; t < kTile; ++t) {
    const int position = __shfl_sync(kAllLanes, loaded.position, t * kSharers);
    const int out_row = __shfl_sync(kAllLanes, loaded.out_row, t * kSharers);
    if (out_row < 0) continue;
    float* key = keys + t * kStride;
    for (int pair = lane; pair < half; pair += kWarp) {
      float* a = key + pair * step;
      const float2 turned = product(make_float2(a[0], a[apart]), turn_of(position, p.rope.inv_freq[pair]));
      a[0] = turned.x;
      a[apart] = turned.y;
    }
    __syncwarp();
    const int64_t to = (bg * p.candidates * p.chunk + out_row) * kDim;
    for (int d = lane; d < kDim; d += kWarp) write_number(p.out, p.out_dtype, to + d, key[d]);
  }
  __syncwarp();
}

// ---- kernels ----------------------------------------------------------------------------------------------

template <int kDim, Turning kTurning>
__device__ void finish(const RebuildParams& p, std::byte* memory, int64_t bg, const Row& loaded,
                       const Sums<kDim>& sums) {
  if constexpr (kTurning == Turning::in_memory) {
    finish_in_memory<kDim>(p, memory, bg, loaded, sums);
  } else {
    const OwnRows rows(loaded);
    const auto* mean = p.shared<const float>(memory, &SharedPlan::mean);
    const auto* frequencies = p.shared<const Frequency>(memory, &SharedPlan::frequencies);
    Words<kDim> words;
    if constexpr (kTurning == Turning::halves) {
      turn_halves<kDim>(mean, frequencies, rows, sums, words);
    } else {
      turn_neighbours<kDim>(mean, frequencies, rows, sums, words);
    }
    write_words<kDim>(p.out + bg * p.candidates * p.chunk * kDim * 2, rows, words);
  }
}

template <int kDim, bool kCodes, Turning kTurning>
__device__ void rebuild_item(const RebuildParams& p, std::byte* memory, int64_t b, int64_t g,
                             const Item& item) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t bg = b * p.kv_heads + g, row = p.batch.rows[b];
  const std::byte* all_basis = p.of_segment(p.basis, row, item.segment) + g * kDim * size_of(p.basis.dtype);
  const auto* all_mean = reinterpret_cast<const float*>(p.of_segment(p.mean, row, item.segment)) + g * kDim;
  auto* basis = p.shared<Bf16>(memory, &SharedPlan::basis);
  auto* mean = p.shared<float>(memory, &SharedPlan::mean);
  auto* list = p.shared<int2>(memory, &SharedPlan::list);
  std::byte* tile = p.shared<std::byte>(memory, &SharedPlan::factors) + warp * kTile * p.factor_stride;
  load_basis<kDim>(p, all_basis, 0, basis);  // first: it does not wait for the list
  list_item(p, bg, item, memory);
  const int end = item.count * p.chunk, own = warp * kTile + lane / kSharers;
  Row loaded = find_row(p, row, item, list, own);
  load_row<kCodes>(p, loaded.factors, 0, tile);
  commit_copies();
  for (int d = threadIdx.x; d < kDim; d += kThreads) mean[d] = all_mean[d];
  const bool whole = p.rank <= p.panel;  // then only the first round needs the other warps
  for (int from = 0; from < end; from += kWarps * kTile) {
    Sums<kDim> sums = {};
    const bool any = from + warp * kTile < end;
    Row next = loaded;
    for (int first = 0; first < p.rank; first += p.panel) {
      wait_for_copies<0>();
      whole&& from > 0 ? __syncwarp() : __syncthreads();
      if (any) multiply<kDim, kCodes>(p, tile, basis, sums);
      whole ? __syncwarp() : __syncthreads();
      const bool more = first + p.panel < p.rank;
      if (!more && from + kWarps * kTile >= end) break;
      if (!more) next = find_row(p, row, item, list, own + from + kWarps * kTile);
      if (!whole) load_basis<kDim>(p, all_basis, more ? first + p.panel : 0, basis);
      load_row<kCodes>(p, next.factors, more ? first + p.panel : 0, tile);
      commit_copies();
    }
    if (any) finish<kDim, kTurning>(p, memory, bg, loaded, sums);
    loaded = next;
  }
}

// Grid: KV heads, sequences, items of a head that may be many. kCodes: factors are int8, read as vectors.
template <int kDim, bool kCodes, Turning kTurning>
__global__ void __launch_bounds__(kThreads, kDim <= 128 ? 4 : 2) rebuild_keys_kernel(RebuildParams p) {
  extern __shared__ __align__(16) std::byte memory[];
  const int64_t g = blockIdx.x, b = blockIdx.y;
  int* counts = p.shared<int>(memory, &SharedPlan::counts);
  if constexpr (kTurning != Turning::in_memory) {
    auto* frequencies = p.shared<Frequency>(memory, &SharedPlan::frequencies);
    for (int i = threadIdx.x; i < kDim / 2; i += kThreads) frequencies[i] = Frequency::of(p.rope.inv_freq[i]);
  }
  count_missing(p, b * p.kv_heads + g, counts);
  for (int nth = static_cast<int>(blockIdx.z);; nth += static_cast<int>(gridDim.z)) {
    const Item item = find_item(p, counts, nth);
    if (item.segment < 0) return;
    rebuild_item<kDim, kCodes, kTurning>(p, memory, b, g, item);
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
constexpr int64_t kMostTokens = (int64_t{1} << 31) - 1;  // of a sequence

bool is_aligned(const PagedView& view) {
  return view.offset % 16 == 0 && view.token_bytes % 16 == 0;
}

int block_tokens_of(const PagedView& view) {
  return static_cast<int>(view.block_tokens < kMostTokens ? view.block_tokens : kMostTokens);
}

Turning turning_of(const RebuildKeysParams& p) {
  if (p.rope.rotary_dim != p.head_dim || p.out.dtype != DType::bf16) return Turning::in_memory;
  return p.rope.interleaved ? Turning::neighbours : Turning::halves;
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
  params.by_segment = Divider(block_tokens_of(p.mean));
  params.by_chunk = Divider(params.chunk);
  params.factor_block = block_tokens_of(p.factors.data);
  params.by_factor_block = Divider(params.factor_block);
  const bool same = p.factors.data.dtype == DType::i8 || p.factors.data.dtype == DType::bf16;
  const int64_t row_bytes = p.rank * size_of(p.factors.data.dtype);
  params.vectors = same && row_bytes % 16 == 0 && is_aligned(p.factors.data);
  params.turning = turning_of(p);
  params.basis_vectors = p.basis.dtype == DType::bf16 && is_aligned(p.basis);
  return params;
}

// The plan for items of so many tokens and panels of so many numbers.
template <int kDim>
void plan_shared(RebuildParams& params, bool codes, int tokens, int panel) {
  using S = Shape<kDim>;
  params.share = tokens > params.chunk ? tokens / params.chunk : 1;
  params.by_share = Divider(params.share);
  params.panel = panel;
  params.factor_stride = (panel / 16 | 1) * (codes ? 16 : 32);  // so that the rows of a tile meet all banks
  int end = 0;
  const auto place = [&end](int bytes) {
    const int at = end;
    end += round_up(bytes, 16);
    return at;
  };
  const bool in_memory = params.turning == Turning::in_memory;
  params.plan.basis = place(panel * S::kStride * 2);
  params.plan.factors = place(kWarps * kTile * params.factor_stride);
  params.plan.keys = place(in_memory ? kWarps * kTile * S::kKeyStride * 4 : 0);
  params.plan.mean = place(kDim * 4);
  params.plan.frequencies = place(in_memory ? 0 : S::kHalf * static_cast<int>(sizeof(Frequency)));
  params.plan.list = place(params.share * static_cast<int>(sizeof(int2)));
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
  if (!choose_plan<kDim>(queue, params, kCodes, p.batch.size)) return false;
  const dim3 grid(grid_x(params.kv_heads, kOp), grid_yz(p.batch.size, kOp), grid_yz(blocks_of(params), kOp));
  if (params.turning == Turning::halves) {
    launch<kDim, kCodes, Turning::halves>(queue, params, grid);
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
