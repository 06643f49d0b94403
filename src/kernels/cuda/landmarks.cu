// Chunk means: made by a warp a chunk and KV head, scored sixteen chunks a product on tensor cores. Bound:
// bytes of the means, read once for eight query heads of their KV head.
#include <cfloat>

#include "kernels/cuda/query_tile.cuh"
#include "kernels/cuda/selection.cuh"
#include "kernels/cuda/tile_stream.cuh"
#include "kernels/quantize_math.h"

namespace shadowkv::cuda {
namespace {

constexpr int kWarps = 8;  // of a block

// ---- making -----------------------------------------------------------------------------------------------

// Mean of `count` keys by one warp, number lane + 32 j in mean[j], added up in order.
template <typename Key>
__device__ void mean_of(int count, int head_dim, const Key& key, float (&mean)[kLaneNumbers]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int j = 0; j < kLaneNumbers; ++j) mean[j] = 0.0f;
#pragma unroll 4  // so many tokens' loads are under way at once
  for (int t = 0; t < count; ++t) {
#pragma unroll
    for (int j = 0; j < kLaneNumbers; ++j) {
      if (lane + j * kWarp < head_dim) mean[j] += key(t, lane + j * kWarp);
    }
  }
  const float share = 1.0f / static_cast<float>(count);
#pragma unroll
  for (float& x : mean) x *= share;
}

// Writes a mean as store_rows would.
__device__ void store_mean(const float (&mean)[kLaneNumbers], int head_dim, const QuantizedView& to,
                           int64_t row, int64_t head, int64_t chunk) {
  const int lane = threadIdx.x % kWarp;
  std::byte* data = to.data.at(row, head, chunk);
  float inverse = 0.0f;
  if (to.data.dtype == DType::i8) {
    float most = 0.0f;
#pragma unroll
    for (float x : mean) most = fmaxf(most, fabsf(x));
    float step = quantize_scale(warp_reduce(most, Max()));
    if (step < FLT_MIN) step = 0.0f;
    if (step > 0.0f) inverse = 1.0f / step;
    if (lane == 0) *reinterpret_cast<Bf16*>(to.scales.at(row, head, chunk)) = from_float<Bf16>(step);
  }
#pragma unroll
  for (int j = 0; j < kLaneNumbers; ++j) {
    const int d = lane + j * kWarp;
    if (d >= head_dim) continue;
    if (to.data.dtype == DType::i8)
      reinterpret_cast<int8_t*>(data)[d] = quantize_code(mean[j], inverse);
    else
      write_number(data, to.data.dtype, d, mean[j]);
  }
}

// Least cosine of the angle between the mean and a key; 1 where either is zero, which no angle describes.
template <typename Key>
__device__ float least_cosine(int count, int head_dim, const Key& key, const float (&mean)[kLaneNumbers]) {
  const int lane = threadIdx.x % kWarp;
  float own = 0.0f, least = 1.0f;
#pragma unroll
  for (float x : mean) own += x * x;
  own = warp_reduce(own, Sum());
  for (int t = 0; t < count; ++t) {
    float product = 0.0f, squares = 0.0f;
#pragma unroll
    for (int j = 0; j < kLaneNumbers; ++j) {
      const float x = lane + j * kWarp < head_dim ? key(t, lane + j * kWarp) : 0.0f;
      product += x * mean[j];
      squares += x * x;
    }
    const float lengths = sqrtf(warp_reduce(squares, Sum())) * sqrtf(own);
    product = warp_reduce(product, Sum());
    least = fminf(least, lengths > 0.0f ? product / lengths : 1.0f);
  }
  return least;
}

struct MakeParams {
  int64_t heads;
  int head_dim;
  int chunk;
  int64_t chunks;
  int64_t row;
  int64_t first_chunk;
  QuantizedView means;
  float* min_cosine;  // [G, chunks], or null
};

template <typename T>
__global__ void __launch_bounds__(kWarps* kWarp) chunk_means_kernel(const T* k, MakeParams p) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp;
  if (i >= p.chunks * p.heads) return;
  const int64_t c = i / p.heads, g = i % p.heads, stride = p.heads * p.head_dim;
  const T* keys = k + c * p.chunk * stride + g * p.head_dim;
  const auto key = [=](int t, int d) { return to_float(keys[t * stride + d]); };
  float mean[kLaneNumbers];
  mean_of(p.chunk, p.head_dim, key, mean);
  store_mean(mean, p.head_dim, p.means, p.row, g, p.first_chunk + c);
  if (p.min_cosine == nullptr) return;
  const float least = least_cosine(p.chunk, p.head_dim, key, mean);
  if (threadIdx.x % kWarp == 0) p.min_cosine[g * p.chunks + c] = least;
}

// One warp a sequence and KV head.
__global__ void __launch_bounds__(kWarps* kWarp)
    update_means_kernel(DecodeBatch batch, ResidentView resident, QuantizedView means) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp,
                heads = resident.kv_heads;
  if (i >= batch.size * heads) return;
  const int64_t row = batch.rows[i / heads], g = i % heads, tokens = batch.tokens[i / heads];
  if (tokens <= 0) return;
  const int64_t chunk = (tokens - 1) / resident.chunk, first = chunk * resident.chunk;
  const int head_dim = static_cast<int>(resident.head_dim);
  float mean[kLaneNumbers];
  // Of the chunk's first token, and of the tokens beyond the ring's end, which are at its start again.
  const int64_t start = chunk == 0 ? first : resident.ring_entry(row, first);
  const int64_t whole = chunk == 0 ? resident.chunk : resident.ring_tokens - first % resident.ring_tokens;
  const std::byte* keys = resident.keys(row, g, start);
  const std::byte* beyond = keys - resident.ring_tokens * resident.token_bytes();
  const auto key = [&](int t, int d) {
    return read_number((t < whole ? keys : beyond) + t * resident.token_bytes(), resident.dtype, d);
  };
  mean_of(static_cast<int>(tokens - first), head_dim, key, mean);
  store_mean(mean, head_dim, means, row, g, chunk);
}

// ---- scoring ----------------------------------------------------------------------------------------------

struct ScoreParams {
  const Bf16* q;  // [B, H, D]
  DecodeBatch batch;
  QuantizedView means;
  int64_t kv_heads;
  int64_t group;
  int head_dim;
  int64_t chunk;
  int64_t local_window;
  float scale;
  float* scores;  // [B, H, C]
  int64_t chunks;
  float2* spans;        // [B, H, spans_of(C)], or null
  uint32_t grid_tiles;  // of a block of threads, where scored by tiles

  __device__ int64_t sealed(int64_t b) const {
    const int64_t count = sealed_chunks(batch.tokens[b], chunk, local_window);
    return count < chunks ? count : chunks;
  }
};

constexpr int kTileChunks = 16;   // rows of a product
constexpr int kProductHeads = 8;  // columns of a product
constexpr int kTileWarps = 4;     // of a block
constexpr int kStages = 2;        // tiles of a warp on their way at once
constexpr int kTileBlocks = 6;    // of a multiprocessor, as shared memory allows at 256 bytes a row

// How the numbers of a row are dealt out among the four lanes of a row of a product: a dot product does not
// mind the order of its terms. Each 64 bytes of a row give each lane 16 that lie together, what is left 4
// numbers a lane of each 16. A product takes 16 numbers of a row, four a lane.
template <typename Stored, int kDim>
struct MeanRow {
  static constexpr int kBytes = kDim * static_cast<int>(sizeof(Stored));
  static constexpr int kTogether = 16 / static_cast<int>(sizeof(Stored));  // numbers of a lane
  static constexpr int kWide = kBytes / 64;
  static constexpr int kSteps = kDim / 16, kWideSteps = kWide * kTogether / 4;
  static_assert(kDim % 16 == 0);

  // First of the four numbers that lane t has in a step.
  __device__ static int number(int step, int t) {
    if (step >= kWideSteps) return 16 * step + 4 * t;
    constexpr int kEach = kTogether / 4;
    return step / kEach * 4 * kTogether + t * kTogether + step % kEach * 4;
  }
};

// c += a b as mma_16x8x16, in float16.
__device__ inline void mma_16x8x16_half(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four int8 codes as float16, exactly: as bytes behind 0x64 they are 1152 more.
__device__ inline void widen_codes(uint32_t codes, uint32_t& first, uint32_t& second) {
  codes ^= 0x80808080u;
  const __half2 bias = __floats2half2_rn(1152.0f, 1152.0f);
  const auto less = [&](uint32_t pair) {
    const __half2 x = __hsub2(*reinterpret_cast<const __half2*>(&pair), bias);
    return *reinterpret_cast<const uint32_t*>(&x);
  };
  first = less(__byte_perm(codes, 0x64646464u, 0x4140));
  second = less(__byte_perm(codes, 0x64646464u, 0x4342));
}

// Up to 8 query heads as the products' columns: bfloat16 against bfloat16 means; against int8 codes float16,
// scaled by a power of two such that nothing of note is lost.
template <typename Stored, int kDim>
class MeanQueries {
  using Row = MeanRow<Stored, kDim>;
  static constexpr bool kCodes = sizeof(Stored) == 1;

 public:
  // q: [heads, kDim] of one KV head. All lanes of a warp take part.
  __device__ void load(const Bf16* q, int heads, float scale) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < Row::kSteps; ++j) {
      const auto* from = reinterpret_cast<const uint2*>(q + g * kDim + Row::number(j, t));
      const uint2 x = g < heads ? *from : make_uint2(0, 0);
      b_[j][0] = x.x, b_[j][1] = x.y;
    }
    scales_[0] = scales_[1] = scale;
    if constexpr (kCodes) {
      const float unit = to_half();  // of head g
      scales_[0] *= __shfl_sync(kAllLanes, unit, 2 * t * 4);
      scales_[1] *= __shfl_sync(kAllLanes, unit, (2 * t + 1) * 4);
    }
  }

  // products[i]: chunk g (i < 2) or g + 8 of the tile with head 2 t + i % 2.
  __device__ void multiply(const std::byte* tile, float (&products)[4]) const {
    const int lane = threadIdx.x % kWarp, t = lane % 4;
    const std::byte* low = tile + lane / 4 * Row::kBytes;
    const std::byte* high = low + 8 * Row::kBytes;
#pragma unroll
    for (float& x : products) x = 0.0f;
#pragma unroll
    for (int i = 0; i < Row::kWide; ++i) {
      const uint4 x = *reinterpret_cast<const uint4*>(low + 64 * i + 16 * t);
      const uint4 y = *reinterpret_cast<const uint4*>(high + 64 * i + 16 * t);
      if constexpr (kCodes) {
        multiply_codes(4 * i, x.x, y.x, products);
        multiply_codes(4 * i + 1, x.y, y.y, products);
        multiply_codes(4 * i + 2, x.z, y.z, products);
        multiply_codes(4 * i + 3, x.w, y.w, products);
      } else {
        mma_16x8x16(products, {x.x, y.x, x.y, y.y}, b_[2 * i]);
        mma_16x8x16(products, {x.z, y.z, x.w, y.w}, b_[2 * i + 1]);
      }
    }
#pragma unroll
    for (int j = Row::kWideSteps; j < Row::kSteps; ++j) {
      const int at = Row::number(j, t) * static_cast<int>(sizeof(Stored));
      if constexpr (kCodes) {
        multiply_codes(j, *reinterpret_cast<const uint32_t*>(low + at),
                       *reinterpret_cast<const uint32_t*>(high + at), products);
      } else {
        const uint2 x = *reinterpret_cast<const uint2*>(low + at),
                    y = *reinterpret_cast<const uint2*>(high + at);
        mma_16x8x16(products, {x.x, y.x, x.y, y.y}, b_[j]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) products[i] *= scales_[i % 2];
  }

 private:
  __device__ void multiply_codes(int step, uint32_t low, uint32_t high, float (&products)[4]) const {
    uint32_t a[4];
    widen_codes(low, a[0], a[2]);
    widen_codes(high, a[1], a[3]);
    mma_16x8x16_half(products, a, b_[step]);
  }

  // Turns b_ to float16 such that the head's largest number lies in [2^14, 2^15); what one unit of that is.
  __device__ float to_half() {
    uint32_t largest = 0x0d800000u;  // 2^-100, in whose place zeros come out as zeros too
#pragma unroll
    for (const auto& pairs : b_) {
#pragma unroll
      for (uint32_t pair : pairs) largest = max(largest, max(pair << 16 & 0x7fff0000u, pair & 0x7fff0000u));
    }
    largest = warp_reduce<4>(largest, Max()) & 0x7f800000u;  // 2^e
    const float factor = __uint_as_float((254u << 23) + (14u << 23) - largest);
#pragma unroll
    for (auto& pairs : b_) {
#pragma unroll
      for (uint32_t& pair : pairs) {
        const __half2 x = __floats2half2_rn(low_of(pair) * factor, high_of(pair) * factor);
        pair = *reinterpret_cast<const uint32_t*>(&x);
      }
    }
    return __uint_as_float(largest - (14u << 23));
  }

  uint32_t b_[Row::kSteps][2];
  float scales_[2];  // of heads 2 t and 2 t + 1
};

// kCut: whether blocks hold a number of chunks that is no multiple of a tile's.
template <typename Stored, int kDim, bool kCut>
using MeanStream =
    TileStream<kStages, kTileChunks * MeanRow<Stored, kDim>::kBytes,
               sizeof(Stored) == 1 ? kTileChunks * 2 : 0, kCut ? MeanRow<Stored, kDim>::kBytes : 0>;

// Tiles that hold the first `chunks` chunks.
SHADOWKV_HD inline uint32_t tiles_of(uint32_t chunks, uint32_t block_chunks) {
  const uint32_t rest = chunks % block_chunks;
  return chunks / block_chunks * ceil_div<uint32_t>(block_chunks, kTileChunks) +
         ceil_div<uint32_t>(rest, kTileChunks);
}

// Writes span i of the query heads [head, head + heads) from the scores of a tile, which is one.
__device__ void write_spans(const ScoreParams& p, int64_t head, int heads, const float (&scores)[4],
                            uint32_t i) {
  static_assert(kTileChunks == kSpan);
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float2 span = span_of_lanes<4, kWarp>(scores[j], scores[2 + j]);
    const int h = 2 * (lane % 4) + j;
    if (lane < 4 && h < heads) p.spans[(head + h) * ceil_div<int64_t>(p.chunks, kSpan) + i] = span;
  }
}

// Grid: stretches of grid_tiles tiles, groups of 8 query heads of every KV head, sequences; the warps of a
// block take turns.
template <typename Stored, int kDim, bool kCut>
__global__ void __launch_bounds__(kTileWarps* kWarp) score_tiles_kernel(ScoreParams p) {
  using Stream = MeanStream<Stored, kDim, kCut>;
  constexpr int kBytes = kTileChunks * MeanRow<Stored, kDim>::kBytes;
  extern __shared__ __align__(16) std::byte shared[];
  const int64_t b = blockIdx.z, groups = ceil_div<int64_t>(p.group, kProductHeads);
  const int64_t g = blockIdx.y / groups, first_head = blockIdx.y % groups * kProductHeads;
  const int heads = static_cast<int>(min(p.group - first_head, int64_t{kProductHeads}));
  const uint32_t warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp, t = lane % 4;
  const auto sealed = static_cast<uint32_t>(p.sealed(b)), all = static_cast<uint32_t>(p.chunks);
  const auto block_chunks = static_cast<uint32_t>(p.means.data.block_tokens);
  const uint32_t block_tiles = ceil_div<uint32_t>(block_chunks, kTileChunks);
  const uint32_t first = blockIdx.x * p.grid_tiles + warp;
  const uint32_t end = min((blockIdx.x + 1) * p.grid_tiles, tiles_of(all, block_chunks));
  const uint32_t open = sealed > 1 ? min(end, tiles_of(sealed, block_chunks)) : 0;
  const TileWalk walk{p.batch.rows[b], g, first, open, kTileWarps, block_tiles};
  Stream stream;
  const std::byte* ring = shared + warp * Stream::kRingBytes;
  stream.start(p.means.data, p.means.scales, walk, shared + warp * Stream::kRingBytes);
  const int64_t head = (b * p.kv_heads + g) * p.group + first_head;
  MeanQueries<Stored, kDim> queries;
  queries.load(p.q + head * kDim, heads, p.scale);
  float* scores = p.scores + (head + 2 * t) * p.chunks;
#pragma unroll 1
  for (uint32_t i = first; i < end; i += kTileWarps) {
    float products[4] = {kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity};
    if (i < open) {
      const std::byte* tile = ring + stream.take();
      queries.multiply(tile, products);
      if constexpr (sizeof(Stored) == 1) {
        const auto* scales = reinterpret_cast<const Bf16*>(tile + kBytes) + lane / 4;
        products[0] *= to_float(scales[0]), products[1] *= to_float(scales[0]);
        products[2] *= to_float(scales[8]), products[3] *= to_float(scales[8]);
      }
      stream.release(p.means.data, p.means.scales, walk);
    }
    uint32_t chunk = i * kTileChunks + lane / 4, beyond = all;
    if constexpr (kCut) {
      const uint32_t nth = i % block_tiles * kTileChunks;
      chunk = i / block_tiles * block_chunks + nth + lane / 4;
      beyond = min(all, (i / block_tiles + 1) * block_chunks);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half, chunk += 8) {
      const bool closed = chunk == 0 || chunk >= sealed;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& score = products[2 * half + j];
        if (closed) score = kMinusInfinity;
        if (2 * t + j < heads && chunk < beyond) scores[j * p.chunks + chunk] = score;
      }
    }
    if constexpr (!kCut) {
      if (p.spans != nullptr) write_spans(p, head, heads, products, i);
    }
  }
}

// One warp a chunk and KV head, number by number.
__global__ void __launch_bounds__(kWarps* kWarp) score_plainly_kernel(ScoreParams p) {
  const int64_t b = blockIdx.z, g = blockIdx.y, row = p.batch.rows[b];
  const int64_t c = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp;
  if (c >= p.chunks) return;
  const bool open = c >= 1 && c < p.sealed(b);
  const std::byte* mean = open ? p.means.data.at(row, g, c) : nullptr;
  const float scale = open ? row_scale(p.means, row, g, c) : 0.0f;
  for (int64_t h = 0; h < p.group; ++h) {
    const int64_t head = (b * p.kv_heads + g) * p.group + h;
    const Bf16* q = p.q + head * p.head_dim;
    float score = kMinusInfinity;
    if (open) {
      score = p.scale * warp_dot(
                            p.head_dim, [&](int d) { return to_float(q[d]); },
                            [&](int d) { return read_stored(mean, p.means.data.dtype, scale, d); });
    }
    if (threadIdx.x % kWarp == 0) p.scores[head * p.chunks + c] = score;
  }
}

// The span that holds entry i of a row.
__device__ float2 span_around(const float* scores, int64_t chunks, int64_t i) {
  const int64_t first = i / kSpan * kSpan;
  RunningSum span;
  for (int64_t j = first; j < first + kSpan && j < chunks; ++j) span.add(scores[j]);
  return make_float2(span.largest, span.sum);
}

// One block a sequence and KV head. Outliers of one span write the same span, once all are masked. spans: may
// be null.
__global__ void mask_outliers_kernel(DecodeBatch batch, ResidentView resident, float* scores, int64_t group,
                                     int64_t chunks, float2* spans) {
  const int64_t b = blockIdx.x / resident.kv_heads, g = blockIdx.x % resident.kv_heads, row = batch.rows[b];
  const int32_t* outliers = resident.outlier_chunks(row, g);
  const int64_t count = resident.outliers[row];
  for (int64_t i = threadIdx.x; i < count * group; i += blockDim.x) {
    const int64_t chunk = outliers[i / group], head = blockIdx.x * group + i % group;
    if (chunk >= 0 && chunk < chunks) scores[head * chunks + chunk] = kMinusInfinity;
  }
  if (spans == nullptr) return;
  __syncthreads();
  const int64_t each = ceil_div<int64_t>(chunks, kSpan);
  for (int64_t i = threadIdx.x; i < count * group; i += blockDim.x) {
    const int64_t chunk = outliers[i / group], head = blockIdx.x * group + i % group;
    if (chunk >= 0 && chunk < chunks)
      spans[head * each + chunk / kSpan] = span_around(scores + head * chunks, chunks, chunk);
  }
}

template <typename Stored, int kDim, bool kCut>
void launch_tiles(Queue& queue, ScoreParams p, const char* op) {
  const int64_t groups = ceil_div<int64_t>(p.group, kProductHeads);
  const int64_t tiles =
      tiles_of(static_cast<uint32_t>(p.chunks), static_cast<uint32_t>(p.means.data.block_tokens));
  const WalkPlan plan = plan_walks(tiles, p.kv_heads * groups * p.batch.size,
                                   kTileBlocks * device_of(queue).multiprocessors(), kTileWarps);
  p.grid_tiles = static_cast<uint32_t>(plan.tiles);
  const dim3 grid(grid_x(plan.blocks, op), grid_yz(p.kv_heads * groups, op), grid_yz(p.batch.size, op));
  constexpr int64_t kShared = kTileWarps * MeanStream<Stored, kDim, kCut>::kRingBytes;
  auto* kernel = score_tiles_kernel<Stored, kDim, kCut>;
  allow_shared(kernel, kShared, op);
  kernel<<<grid, kTileWarps * kWarp, kShared, stream_of(queue)>>>(p);
}

bool is_aligned(const PagedView& view, int64_t row_bytes) {
  return view.offset % 16 == 0 && view.head_offset % 16 == 0 && view.token_bytes == row_bytes;
}

// Whether tiles are spans, which score_tiles_kernel then writes.
bool tiles_are_spans(const ScoreParams& p) {
  return p.means.data.block_tokens % kTileChunks == 0;
}

// False where rows do not lie as tiles need them: together, in 16-byte units, and codes in blocks of whole
// tiles.
bool score_tiles(Queue& queue, const ScoreParams& p, const char* op) {
  const PagedView &data = p.means.data, &scales = p.means.scales;
  const bool codes = data.dtype == DType::i8;
  if (data.dtype == DType::f32 || !is_aligned(data, p.head_dim * size_of(data.dtype))) return false;
  if (p.chunks >= int64_t{1} << 31 || data.block_tokens >= int64_t{1} << 22) return false;
  if (codes && (!is_aligned(scales, 2) || data.block_tokens % kTileChunks != 0 ||
                scales.block_tokens != data.block_tokens)) {
    return false;
  }
  return with_head_dim(p.head_dim, [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    if (codes) {
      launch_tiles<int8_t, kDim, false>(queue, p, op);
    } else if (tiles_are_spans(p)) {
      launch_tiles<Bf16, kDim, false>(queue, p, op);
    } else {
      launch_tiles<Bf16, kDim, true>(queue, p, op);
    }
  });
}

}  // namespace

void chunk_means(Queue& queue, const ChunkMeansParams& p) {
  constexpr const char* kOp = "chunk_means";
  const int64_t heads = p.k.shape[1], head_dim = p.k.shape[2], chunks = p.k.shape[0] / p.chunk;
  demand_head_dim(head_dim, kOp);
  if (chunks * heads == 0) return;
  const MakeParams params{heads,
                          static_cast<int>(head_dim),
                          static_cast<int>(p.chunk),
                          chunks,
                          p.row,
                          p.first_chunk,
                          p.means,
                          p.min_cosine.empty() ? nullptr : device_ptr<float>(p.min_cosine)};
  const unsigned blocks = grid_x(ceil_div<int64_t>(chunks * heads, kWarps), kOp);
  with_number_type(p.k.dtype, kOp, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    chunk_means_kernel<T><<<blocks, kWarps * kWarp, 0, stream_of(queue)>>>(device_ptr<T>(p.k), params);
  });
  check_launch(kOp);
}

void update_means(Queue& queue, const UpdateMeansParams& p) {
  constexpr const char* kOp = "update_means";
  demand_head_dim(p.resident.head_dim, kOp);
  const unsigned blocks = grid_x(ceil_div<int64_t>(p.batch.size * p.resident.kv_heads, kWarps), kOp);
  update_means_kernel<<<blocks, kWarps * kWarp, 0, stream_of(queue)>>>(p.batch, p.resident, p.means);
  check_launch(kOp);
}

void landmark_scores(Queue& queue, const LandmarkScoresParams& p) {
  constexpr const char* kOp = "landmark_scores";
  demand_activations(p.q, kOp);
  const int64_t group = p.q.shape[1] / p.kv_heads, head_dim = p.q.shape[2], chunks = p.scores.shape[2];
  if (chunks == 0) return;
  const ScoreParams params{device_ptr<Bf16>(p.q),
                           p.batch,
                           p.means,
                           p.kv_heads,
                           group,
                           static_cast<int>(head_dim),
                           p.chunk,
                           p.local_window,
                           p.scale,
                           device_ptr<float>(p.scores),
                           chunks,
                           p.spans.empty() ? nullptr : device_ptr<float2>(p.spans)};
  const bool by_tiles = score_tiles(queue, params, kOp);
  if (!by_tiles) {
    const dim3 grid(grid_x(ceil_div<int64_t>(chunks, kWarps), kOp), grid_yz(p.kv_heads, kOp),
                    grid_yz(p.batch.size, kOp));
    score_plainly_kernel<<<grid, kWarps * kWarp, 0, stream_of(queue)>>>(params);
  }
  check_launch(kOp);
  if (params.spans != nullptr && !(by_tiles && tiles_are_spans(params)))
    sum_spans(queue, p.scores, params.spans, kOp);
}

void mask_outliers(Queue& queue, const MaskOutliersParams& p) {
  constexpr const char* kOp = "mask_outliers";
  const int64_t kv_heads = p.resident.kv_heads;
  mask_outliers_kernel<<<grid_x(p.batch.size * kv_heads, kOp), 256, 0, stream_of(queue)>>>(
      p.batch, p.resident, device_ptr<float>(p.scores), p.scores.shape[1] / kv_heads, p.scores.shape[2],
      p.spans.empty() ? nullptr : device_ptr<float2>(p.spans));
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
