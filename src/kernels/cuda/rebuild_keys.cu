// Keys of missing chunks from their factors, on tensor cores. A block takes one sequence, KV head and
// segment: it holds the segment's basis for that head in shared memory as bfloat16 and walks the missing
// candidates' tokens in full tiles of 64. Factors are multiplied as bfloat16 (int8 codes exactly, their scale
// afterwards), summed in float32, turned in float32 and rounded once. A warp's columns hold both numbers of
// every pair that is half a head apart, so that such heads are turned in registers. Bound: bytes of the basis
// (float32, once a block), of the factors and of the keys written.
#include "kernels/cuda/query_tile.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kTileTokens = 64;
constexpr int kWarps = 8;  // four groups of 16 tokens, each by two halves of the columns
constexpr int kThreads = kWarps * kWarp;
constexpr int kPad = 8;      // numbers between rows, so that matrix loads meet all banks
constexpr int kSplits = 16;  // blocks that a sequence and KV head may have at least

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
  uint32_t segment_tokens;  // positions are below 2^31, so a longer segment is the only one
  int splits;               // blocks that share a segment's tiles at most
  int share;                // tiles that are worth a block's reading of the basis
  int panel;                // numbers of a factor held at a time, a multiple of 16
  bool vectors;             // whether factors and bases can be read 16 bytes at a time
  bool in_registers;        // whether keys are turned there: whole heads, halves paired, to bfloat16

  __device__ int segment_of(int position) const {
    const int segment = static_cast<int>(static_cast<uint32_t>(position) / segment_tokens);
    return segment < segments ? segment : segments - 1;
  }
};

// ---- turning ----------------------------------------------------------------------------------------------

// Cosine and sine of position * frequency to about 2e-7. The product is held as a pair of floats, exactly for
// positions below 2^24; quarter turns are taken off in three parts of pi / 2.
__device__ inline float2 turn_of(int64_t position, float frequency) {
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

// ---- which tokens -----------------------------------------------------------------------------------------

constexpr int kLineBytes = 128;

// Asks the L2 cache for a line.
__device__ inline void fetch(const void* line) {
  asm volatile("prefetch.global.L2 [%0];\n" ::"l"(line));
}

// One tile's tokens: where each lies and goes; position -1: none.
struct TileRows {
  int position[kTileTokens];
  int out_row[kTileTokens];  // of [M, chunk]
  float scale[kTileTokens];
  const std::byte* factors[kTileTokens];
};

// Lists the candidates to rebuild that have a token in the segment, in order; returns how many.
__device__ int list_missing(const RebuildParams& p, int64_t bg, int segment, int* list, int* counts) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int listed = 0;
  for (int first = 0; first < p.candidates; first += kThreads) {
    const int i = first + threadIdx.x;
    bool missing = false;
    if (i < p.candidates) {
      const int chunk = p.chunks[bg * p.candidates + i], start = chunk * p.chunk;
      const int slot = p.slots == nullptr ? -1 : p.slots[bg * p.candidates + i];
      missing = chunk >= 0 && slot < 0 && p.segment_of(start) <= segment &&
                segment <= p.segment_of(start + p.chunk - 1);
    }
    const unsigned lanes = __ballot_sync(kAllLanes, missing);
    if (lane == 0) counts[warp] = __popc(lanes);
    __syncthreads();
    int at = listed + __popc(lanes & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      at += w < warp ? counts[w] : 0;
      listed += counts[w];
    }
    if (missing) list[at] = i;
    __syncthreads();
  }
  return listed;
}

__device__ void find_rows(const RebuildParams& p, int64_t row, int64_t bg, int segment, const int* list,
                          int listed, int tile, TileRows& rows) {
  const int i = threadIdx.x;
  if (i < kTileTokens) {
    const int nth = (tile * kTileTokens + i) / p.chunk, t = (tile * kTileTokens + i) % p.chunk;
    int position = -1, out_row = 0;
    if (nth < listed) {
      position = p.chunks[bg * p.candidates + list[nth]] * p.chunk + t;
      out_row = list[nth] * p.chunk + t;
      if (p.segment_of(position) != segment) position = -1;
    }
    rows.position[i] = position;
    rows.out_row[i] = out_row;
    rows.scale[i] = position < 0 ? 0.0f : row_scale(p.factors, row, 0, position);
    const std::byte* factors = position < 0 ? nullptr : p.factors.data.at(row, 0, position);
    rows.factors[i] = factors;
    const int bytes = factors == nullptr ? 0 : p.rank * static_cast<int>(size_of(p.factors.data.dtype));
    for (int at = 0; at < bytes; at += kLineBytes) fetch(factors + at);
  }
  __syncthreads();
}

// ---- loading ----------------------------------------------------------------------------------------------

// 16 codes as bfloat16, which holds them exactly.
__device__ void store_codes(const uint4& codes, Bf16* to) {
  const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float numbers[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      numbers[j] = static_cast<float>(static_cast<int8_t>(words[2 * half + j / 4] >> (8 * (j % 4))));
    }
    Bf16x8::from_floats(numbers).store(to + 8 * half);
  }
}

// Numbers [first, first + panel) of each token's factor, codes unscaled, as bfloat16; zeros beyond the rank.
__device__ void load_factors(const RebuildParams& p, const TileRows& rows, int first, Bf16* to) {
  const int stride = p.panel + kPad;
  const DType dtype = p.factors.data.dtype;
  if (p.vectors && dtype != DType::f32) {
    constexpr int kSharers = kThreads / kTileTokens, kAhead = 4;
    const int t = threadIdx.x / kSharers, shift = dtype == DType::i8 ? 4 : 3;  // log2 of numbers a vector
    const int vectors = p.panel >> shift;
    const std::byte* from = rows.factors[t];
    const int held_vectors = from == nullptr ? 0 : (p.rank - first) >> shift;
    const auto* source = reinterpret_cast<const uint4*>(from + first * size_of(dtype));
    for (int base = threadIdx.x % kSharers; base < vectors; base += kSharers * kAhead) {
      uint4 held[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int v = base + i * kSharers;
        held[i] = v < vectors && v < held_vectors ? __ldg(source + v) : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int v = base + i * kSharers;
        if (v >= vectors) continue;
        Bf16* at = to + t * stride + (v << shift);
        if (dtype == DType::i8) {
          store_codes(held[i], at);
        } else {
          *reinterpret_cast<uint4*>(at) = held[i];
        }
      }
    }
    return;
  }
  for (int i = threadIdx.x; i < kTileTokens * p.panel; i += kThreads) {
    const int t = i / p.panel, d = i % p.panel;
    float x = 0.0f;
    if (rows.position[t] >= 0 && first + d < p.rank) x = read_stored(rows.factors[t], dtype, 1.0f, first + d);
    to[t * stride + d] = __float2bfloat16_rn(x);
  }
}

// Asks the L2 cache for the first panel of a head's basis.
template <int kDim>
__device__ void fetch_basis(const RebuildParams& p, const float* basis, int64_t width) {
  constexpr int kLine = kLineBytes / 4, kLines = (kDim + kLine - 1) / kLine;
  const int some = p.rank < p.panel ? p.rank : p.panel;
  for (int i = threadIdx.x; i < some * kLines; i += kThreads) {
    fetch(basis + i / kLines * width + i % kLines * kLine);
  }
}

// Rows [first, first + panel) of the basis, columns of one KV head; zeros beyond the rank.
template <int kDim, int kAhead>
__device__ void load_basis(const RebuildParams& p, const float* basis, int64_t width, int first, Bf16* to) {
  constexpr int kStride = kDim + kPad, kVectors = kDim / 4;
  for (int base = threadIdx.x; base < p.panel * kVectors; base += kThreads * kAhead) {
    float4 held[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int v = base + i * kThreads, r = v / kVectors, d = v % kVectors * 4;
      const float* from = basis + (first + r) * width + d;
      held[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (r >= p.panel || first + r >= p.rank) continue;
      if (p.vectors) {
        held[i] = __ldg(reinterpret_cast<const float4*>(from));
      } else {
        held[i] = make_float4(from[0], from[1], from[2], from[3]);
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int v = base + i * kThreads, r = v / kVectors, d = v % kVectors * 4;
      if (r >= p.panel) continue;
      const uint2 packed = make_uint2(pack_bf16(held[i].x, held[i].y), pack_bf16(held[i].z, held[i].w));
      *reinterpret_cast<uint2*>(to + r * kStride + d) = packed;
    }
  }
}

// ---- multiplying ------------------------------------------------------------------------------------------

// Where the 8 columns of a warp's tile begin. Where 16 columns fit into a quarter of the head, a warp takes a
// quarter of either half of it, in tiles [0, kDim / 32) and those after them; else half of the head.
template <int kDim>
inline constexpr bool kPaired = kDim % 64 == 0;
template <int kDim>
__device__ int column_of(int warp, int tile) {
  constexpr int kTiles = kDim / 16;
  if constexpr (kPaired<kDim>) {
    return warp / 4 * (kDim / 4) + tile % (kTiles / 2) * 8 + tile / (kTiles / 2) * (kDim / 2);
  } else {
    return warp / 4 * (kDim / 2) + tile * 8;
  }
}

// sums += factors basis for this warp's 16 tokens and half of the columns.
template <int kDim>
__device__ void multiply(const Bf16* factors, const Bf16* basis, int panel, float (&sums)[kDim / 16][4]) {
  constexpr int kTiles = kDim / 16, kBasisStride = kDim + kPad;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int token = warp % 4 * 16 + lane % 16;
  const Bf16* a_row = factors + token * (panel + kPad) + lane / 16 * 8;
  const Bf16* b_row = basis + lane % 16 * kBasisStride + lane / 16 * 8;
#pragma unroll 2
  for (int k = 0; k < panel; k += 16) {
    uint32_t a[4];
    load_matrices(a, a_row + k);
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += 2) {
      uint32_t
          pair[4];  // with an odd number of tiles, the last load reaches into the next columns or the pad
      load_matrices_transposed(pair, b_row + k * kBasisStride + column_of<kDim>(warp, tile));
      const uint32_t first[2] = {pair[0], pair[1]}, second[2] = {pair[2], pair[3]};
      mma_16x8x16(sums[tile], a, first);
      if (tile + 1 < kTiles) mma_16x8x16(sums[tile + 1 < kTiles ? tile + 1 : tile], a, second);
    }
  }
}

// Scaled sums plus mean, before rotation, to shared memory.
template <int kDim>
__device__ void write_sums(const float (&sums)[kDim / 16][4], const TileRows& rows, const float* mean,
                           float* keys) {
  constexpr int kStride = kDim + kPad;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int token = warp % 4 * 16 + lane / 4;
#pragma unroll
  for (int tile = 0; tile < kDim / 16; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int t = token + 8 * half, d = column_of<kDim>(warp, tile) + lane % 4 * 2;
      const float2 x = make_float2(fmaf(sums[tile][2 * half], rows.scale[t], mean[d]),
                                   fmaf(sums[tile][2 * half + 1], rows.scale[t], mean[d + 1]));
      *reinterpret_cast<float2*>(keys + t * kStride + d) = x;
    }
  }
}

// The same turned, as bfloat16 [64, D + pad]: for whole heads whose pairs are half a head apart.
template <int kDim>
__device__ void write_turned(const float (&sums)[kDim / 16][4], const TileRows& rows, const float* mean,
                             const float* frequencies, Bf16* keys) {
  constexpr int kStride = kDim + kPad, kHalf = kDim / 2, kPairs = kDim / 32;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = warp % 4 * 16 + lane / 4 + 8 * half;
    if (rows.position[t] < 0) continue;
    const float scale = rows.scale[t];
#pragma unroll
    for (int tile = 0; tile < kPairs; ++tile) {
      const int d = column_of<kDim>(warp, tile) + lane % 4 * 2;
      float low[2], high[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float x = fmaf(sums[tile][2 * half + j], scale, mean[d + j]);
        const float y = fmaf(sums[tile + kPairs][2 * half + j], scale, mean[d + j + kHalf]);
        const float2 turn = turn_of(rows.position[t], frequencies[d + j]);
        low[j] = x * turn.x - y * turn.y;
        high[j] = y * turn.x + x * turn.y;
      }
      *reinterpret_cast<uint32_t*>(keys + t * kStride + d) = pack_bf16(low[0], low[1]);
      *reinterpret_cast<uint32_t*>(keys + t * kStride + d + kHalf) = pack_bf16(high[0], high[1]);
    }
  }
}

template <int kDim>
__device__ void copy_turned(const RebuildParams& p, const TileRows& rows, int64_t bg, const Bf16* keys) {
  constexpr int kStride = kDim + kPad, kVectors = kDim / 8;
  std::byte* out = p.out + bg * p.candidates * p.chunk * kDim * 2;
#pragma unroll 4
  for (int i = threadIdx.x; i < kTileTokens * kVectors; i += kThreads) {
    const int t = i / kVectors, d = i % kVectors * 8;
    if (rows.position[t] < 0) continue;
    Bf16x8::load(keys + t * kStride + d).store(out + (int64_t{rows.out_row[t]} * kDim + d) * 2);
  }
}

// Turns every key of the tile in place.
__device__ void turn_keys(const RebuildParams& p, const TileRows& rows, int stride, float* keys) {
  const int half = static_cast<int>(p.rope.rotary_dim / 2);
  const int step = p.rope.interleaved ? 2 : 1, apart = p.rope.interleaved ? 1 : half;
  for (int i = threadIdx.x; i < kTileTokens * half; i += kThreads) {
    const int t = i / half, pair = i % half;
    if (rows.position[t] < 0) continue;
    const float2 turn = turn_of(rows.position[t], p.rope.inv_freq[pair]);
    float* a = keys + t * stride + pair * step;
    const float x = a[0], y = a[apart];
    a[0] = x * turn.x - y * turn.y;
    a[apart] = y * turn.x + x * turn.y;
  }
}

__device__ void write_keys(const RebuildParams& p, const TileRows& rows, int64_t bg, int stride,
                           const float* keys) {
  const int64_t base = bg * p.candidates * p.chunk;
  if (p.out_dtype == DType::bf16 && p.head_dim % 8 == 0) {
    const int vectors = p.head_dim / 8;
    for (int i = threadIdx.x; i < kTileTokens * vectors; i += kThreads) {
      const int t = i / vectors, d = i % vectors * 8;
      if (rows.position[t] < 0) continue;
      float x[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) x[j] = keys[t * stride + d + j];
      Bf16x8::from_floats(x).store(p.out + ((base + rows.out_row[t]) * p.head_dim + d) * 2);
    }
    return;
  }
  for (int i = threadIdx.x; i < kTileTokens * p.head_dim; i += kThreads) {
    const int t = i / p.head_dim, d = i % p.head_dim;
    if (rows.position[t] < 0) continue;
    write_number(p.out, p.out_dtype, (base + rows.out_row[t]) * p.head_dim + d, keys[t * stride + d]);
  }
}

// ---- kernels ----------------------------------------------------------------------------------------------

// Shared memory: basis [panel, D + pad] bfloat16, then factors [64, panel + pad] bfloat16 and after them, in
// the same place, keys [64, D + pad] as bfloat16 if already turned, else float32; then mean [D], frequencies
// [D / 2] and the list of candidates.
struct SharedPlan {
  int64_t basis, work, mean, frequencies, list, bytes;
};
__host__ __device__ inline SharedPlan shared_plan(const RebuildParams& p) {
  SharedPlan plan;
  plan.basis = 0;
  plan.work = round_up<int64_t>(plan.basis + int64_t{p.panel} * (p.head_dim + kPad) * 2, 16);
  const int64_t factors = int64_t{kTileTokens} * (p.panel + kPad) * 2;
  const int64_t keys = int64_t{kTileTokens} * (p.head_dim + kPad) * (p.in_registers ? 2 : 4);
  plan.mean = round_up<int64_t>(plan.work + (factors > keys ? factors : keys), 16);
  plan.frequencies = plan.mean + int64_t{p.head_dim} * 4;
  plan.list = plan.frequencies + int64_t{p.head_dim} * 2;
  plan.bytes = plan.list + int64_t{p.candidates} * 4;
  return plan;
}

// Whether any of this warp's 16 tokens is to be rebuilt.
__device__ inline bool has_tokens(const TileRows& rows) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  return __any_sync(kAllLanes, rows.position[warp % 4 * 16 + lane % 16] >= 0);
}

// Finishes a tile: sums to keys in `out`. `work` holds nothing that is still read.
template <int kDim>
__device__ void finish_tile(const RebuildParams& p, const float (&sums)[kDim / 16][4], const TileRows& rows,
                            const float* mean, const float* frequencies, int64_t bg, std::byte* work) {
  if constexpr (kPaired<kDim>) {
    if (p.in_registers) {
      write_turned<kDim>(sums, rows, mean, frequencies, reinterpret_cast<Bf16*>(work));
      __syncthreads();
      copy_turned<kDim>(p, rows, bg, reinterpret_cast<const Bf16*>(work));
      __syncthreads();
      return;
    }
  }
  auto* keys = reinterpret_cast<float*>(work);
  write_sums<kDim>(sums, rows, mean, keys);
  __syncthreads();
  turn_keys(p, rows, kDim + kPad, keys);
  __syncthreads();
  write_keys(p, rows, bg, kDim + kPad, keys);
  __syncthreads();
}

// Blocks a multiprocessor, by its shared memory at a head_dim of 128 and rank 160.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kResident = 2;
#else
constexpr int kResident = 3;
#endif

// Grid: splits times segments, KV heads, sequences.
template <int kDim>
__global__ void __launch_bounds__(kThreads, kDim <= 128 ? kResident : 1)
    rebuild_keys_kernel(RebuildParams p) {
  extern __shared__ __align__(16) std::byte shared[];
  __shared__ TileRows rows;
  __shared__ int counts[kWarps];
  const SharedPlan plan = shared_plan(p);
  auto* basis = reinterpret_cast<Bf16*>(shared + plan.basis);
  auto* factors = reinterpret_cast<Bf16*>(shared + plan.work);
  auto* mean = reinterpret_cast<float*>(shared + plan.mean);
  auto* frequencies = reinterpret_cast<float*>(shared + plan.frequencies);
  auto* list = reinterpret_cast<int*>(shared + plan.list);
  const int64_t b = blockIdx.z, g = blockIdx.y, bg = b * p.kv_heads + g, row = p.batch.rows[b];
  const int segment = static_cast<int>(blockIdx.x) % p.segments;
  const int split = static_cast<int>(blockIdx.x) / p.segments;
  const int listed = list_missing(p, bg, segment, list, counts);
  const int tiles = (listed * p.chunk + kTileTokens - 1) / kTileTokens;
  const int shares = (tiles + p.share - 1) / p.share, step = shares < p.splits ? shares : p.splits;
  if (split >= step) return;
  const int64_t position = segment * p.mean.block_tokens, width = p.kv_heads * kDim;
  const auto* all_basis = reinterpret_cast<const float*>(p.basis.at(row, 0, position)) + g * kDim;
  const auto* all_mean = reinterpret_cast<const float*>(p.mean.at(row, 0, position)) + g * kDim;
  fetch_basis<kDim>(p, all_basis, width);
  for (int d = threadIdx.x; d < kDim; d += kThreads) mean[d] = all_mean[d];
  for (int i = threadIdx.x; i < p.rope.rotary_dim / 2; i += kThreads) frequencies[i] = p.rope.inv_freq[i];
  for (int tile = split; tile < tiles; tile += step) {
    find_rows(p, row, bg, segment, list, listed, tile, rows);
    if (p.rank <= p.panel && tile == split)
      load_basis<kDim, kDim == 128 ? 8 : 4>(p, all_basis, width, 0, basis);
    float sums[kDim / 16][4] = {};
    for (int first = 0; first < p.rank; first += p.panel) {
      if (p.rank > p.panel) load_basis<kDim, 2>(p, all_basis, width, first, basis);
      load_factors(p, rows, first, factors);
      __syncthreads();
      if (has_tokens(rows)) multiply<kDim>(factors, basis, p.panel, sums);
      __syncthreads();
    }
    finish_tile<kDim>(p, sums, rows, mean, frequencies, bg, shared + plan.work);
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
    const auto* basis = reinterpret_cast<const float*>(p.basis.at(row, 0, position)) + g * p.head_dim;
    const auto* mean = reinterpret_cast<const float*>(p.mean.at(row, 0, position)) + g * p.head_dim;
    for (int d = threadIdx.x; d < p.head_dim; d += blockDim.x) {
      float sum = mean[d];
      for (int r = 0; r < p.rank; ++r)
        sum += basis[r * width + d] * read_stored(factors, p.factors.data.dtype, scale, r);
      key[d] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
      const float2 turn = turn_of(position, p.rope.inv_freq[i]);
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

bool is_aligned(const PagedView& view) {
  return view.offset % 16 == 0 && view.token_bytes % 16 == 0;
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
  constexpr int64_t kMostSegments = 4096;
  const int64_t segments =
      ceil_div<int64_t>(p.batch.max_tokens > 0 ? p.batch.max_tokens : 1, p.mean.block_tokens);
  params.segments = static_cast<int>(segments < kMostSegments ? segments : kMostSegments + 1);
  const int64_t tiles = ceil_div<int64_t>(int64_t{params.candidates} * params.chunk, kTileTokens);
  const int64_t blocks = p.batch.size * params.kv_heads * params.segments;
  const int64_t splits = ceil_div<int64_t>(kSplits, params.segments);
  constexpr int64_t kFull = 264;  // blocks from which on reading a basis twice costs more than waiting
  params.share = blocks < kFull ? 1 : 2;
  constexpr int64_t kMostTokens = int64_t{1} << 31;
  params.segment_tokens =
      static_cast<uint32_t>(p.mean.block_tokens < kMostTokens ? p.mean.block_tokens : kMostTokens);
  params.splits = static_cast<int>(splits < tiles ? splits : tiles);
  const int64_t most = p.head_dim <= 128 ? 256 : 128;
  const int64_t rank = round_up<int64_t>(p.rank, 16);
  params.panel = static_cast<int>(rank < most ? rank : most);
  const int64_t row_bytes = p.rank * size_of(p.factors.data.dtype);
  params.vectors = row_bytes % 16 == 0 && is_aligned(p.factors.data) && p.basis.offset % 16 == 0;
  params.in_registers = p.head_dim % 64 == 0 && p.rope.rotary_dim == p.head_dim && !p.rope.interleaved &&
                        p.out.dtype == DType::bf16;
  return params;
}

}  // namespace

void rebuild_keys(Queue& queue, const RebuildKeysParams& p) {
  constexpr const char* kOp = "rebuild_keys";
  const RebuildParams params = params_of(p);
  if (params.candidates == 0) return;
  const unsigned heads = grid_yz(params.kv_heads, kOp), sequences = grid_yz(p.batch.size, kOp);
  // Tiles need mean and basis cut alike, and few segments; the plain kernel takes the rest.
  const bool tiles = p.mean.block_tokens == p.basis.block_tokens && params.segments <= 4096;
  const int64_t shared = shared_plan(params).bytes;
  const bool taken =
      tiles && shared + 2048 <= device_of(queue).shared_bytes_per_block() &&
      with_head_dim(p.head_dim, [&](auto dim) {
        constexpr int kDim = decltype(dim)::value;
        allow_shared(rebuild_keys_kernel<kDim>, shared, kOp);
        const dim3 grid(grid_x(int64_t{params.segments} * params.splits, kOp), heads, sequences);
        rebuild_keys_kernel<kDim><<<grid, kThreads, shared, stream_of(queue)>>>(params);
      });
  if (!taken) {
    const dim3 grid(grid_x(params.candidates, kOp), heads, sequences);
    rebuild_plainly_kernel<<<grid, 128, p.head_dim * 4, stream_of(queue)>>>(params);
  }
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
