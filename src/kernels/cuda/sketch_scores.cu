// Scores chunks by the sketch on the tensor cores' bit products (tiles as in sketch.cuh). The m-th product
// takes token m of all 16 rows against the bit planes of four query heads, six columns a head, so ordered
// that lane t of a row gets all six of head t. A lane thus ends with the 8 tokens of two rows for one head,
// and the log-sum-exp over chunks of up to 8 tokens is its own affair. Bound: bytes of words and scales.
#include "kernels/cuda/sketch.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kTileTokens = static_cast<int>(kSketchTileTokens);
constexpr int kRowTokens = 8;
constexpr int kQuadHeads = 4;    // query heads of one group of products
constexpr int kQuadColumns = 3;  // column tiles of 8: kQuadHeads * kQueryBits / 8

// ---- queries ----------------------------------------------------------------------------------------------

// What scoring needs of every query head, in scratch. Scores are in base 2 until they are written.
struct Queries {
  uint32_t* planes;  // [B, H][kQueryBits][plane words] of the rounded numbers
  float* steps;      // [B, H] size of one step, times scale and log2(e)
  int32_t* sums;     // [B, H] of the rounded numbers
  float* bases;      // [B, H][segments] q . centre, times scale and log2(e)
  int64_t segments;
};

struct ScoreParams {
  const Bf16* q;  // [B, H, D]
  DecodeBatch batch;
  SketchView sketch;
  SketchLayout layout;
  int64_t kv_heads;
  int group;  // query heads of a KV head
  int head_dim;
  int64_t chunk;
  int64_t local_window;
  float scale;
  float* scores;  // [B, H, C]
  int64_t chunks;
  Queries queries;
  uint32_t block_tiles;    // of a block of words, and of scales
  uint32_t segment_tiles;  // of a segment
  uint32_t warp_tiles;     // of a warp

  // No more than there is room for: what a sequence holds is not known when an op is launched.
  __device__ int64_t sealed(int64_t b) const {
    const int64_t count = sealed_chunks(batch.tokens[b], chunk, local_window);
    return count < chunks ? count : chunks;
  }
  __device__ int64_t head(int64_t b, int64_t g, int h) const { return (b * kv_heads + g) * group + h; }
};

constexpr int kCentreWarps = 8;

// What a head's scores have in common by segment, of every kCentreWarps-th segment from `first` on.
template <int kNumbers>
__device__ void multiply_centres(const ScoreParams& p, const float (&y)[kNumbers], int64_t head, int first) {
  const int64_t heads = p.kv_heads * p.group, b = head / heads, g = head % heads / p.group;
  const int64_t row = p.batch.rows[b], used = p.sealed(b) * p.chunk, each = p.sketch.centre.block_tokens;
  const int lane = threadIdx.x % kWarp;
  for (int64_t s = first; s < p.queries.segments && s * each < used; s += kCentreWarps) {
    const auto* centre = reinterpret_cast<const float*>(p.sketch.centre.at(row, g, s * each));
    float product = 0.0f;
#pragma unroll
    for (int j = 0; j < kNumbers; ++j) {
      if (lane + j * kWarp < p.head_dim) product += y[j] * centre[lane + j * kWarp];
    }
    product = warp_reduce(product, Sum());
    if (lane == 0) p.queries.bases[head * p.queries.segments + s] = p.scale * kLog2e * product;
  }
}

// One block a query head: the first warp turns and rounds it, the others multiply it with the centres of the
// segments in use, which lie behind a table each.
template <int kNumbers>
__global__ void __launch_bounds__((1 + kCentreWarps) * kWarp) round_queries_kernel(ScoreParams p) {
  const int64_t i = blockIdx.x;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float y[kNumbers];
#pragma unroll
  for (int j = 0; j < kNumbers; ++j) {
    const int d = lane + j * kWarp;
    y[j] = d < p.head_dim ? to_float(p.q[i * p.head_dim + d]) : 0.0f;
  }
  if (warp > 0) return multiply_centres(p, y, i, warp - 1);
  turn_sketch(y, p.head_dim);
  float largest = 0.0f;
#pragma unroll
  for (float x : y) largest = fmaxf(largest, fabsf(x));
  const float delta = warp_reduce(largest, Max()) / kQueryMax;
  const int plane = static_cast<int>(sketch_plane_words(p.head_dim));
  int sum = 0;
#pragma unroll
  for (int j = 0; j < kNumbers; ++j) {
    if (j >= plane) break;
    const float steps = delta > 0.0f ? nearbyintf(y[j] / delta) : 0.0f;
    const int number = static_cast<int>(fminf(fmaxf(steps, -kQueryMax), kQueryMax));
    sum += number;
#pragma unroll
    for (int bit = 0; bit < kQueryBits; ++bit) {
      const uint32_t word = __ballot_sync(kAllLanes, ((static_cast<uint32_t>(number) >> bit) & 1u) != 0);
      if (lane == 0) p.queries.planes[(i * kQueryBits + bit) * plane + j] = word;
    }
  }
  sum = warp_reduce(sum, Sum());
  if (lane != 0) return;
  p.queries.steps[i] = p.scale * kLog2e * delta;
  p.queries.sums[i] = sum;
}

// ---- scoring tiles ----------------------------------------------------------------------------------------

constexpr int kTileWarps = 4;
// Blocks of a multiprocessor, as many as the registers of tiles of kPlanes steps allow.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kFewerBlocks = 1;
#else
constexpr int kFewerBlocks = 0;
#endif
template <int kPlanes>
constexpr int kTileBlocks = (kPlanes == 1   ? 5
                             : kPlanes == 2 ? 4
                                            : 2) -
                            kFewerBlocks;
constexpr uint32_t kMostWarpTiles = 8;  // tiles of one warp, one after the other
constexpr int64_t kFullDevice = 4096;   // warps that keep any device busy

// out = start + a b, a [16, 128] and b [128, 8] bits, sums of counts of common ones: m16n8k128. With lane =
// 4 g + t: a[0] word t of row g, a[1] of row g + 8, b word t of column g; out as in mma_16x8x16.
__device__ inline void count_common(int (&out)[4], const uint32_t (&a)[2], uint32_t b,
                                    const int (&start)[4]) {
  asm volatile(  // kept in order: hoisting the products of all tokens takes registers
      "mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%7,%8,%9,%10};\n"
      : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
      : "r"(a[0]), "r"(a[1]), "r"(b), "r"(start[0]), "r"(start[1]), "r"(start[2]), "r"(start[3]));
}

// Words and scales of one tile as a lane holds them.
template <int kSteps>  // 128-bit steps of a token, all planes
struct Tile {
  uint32_t words[kSteps][16];  // e = 2 m + (row / 8)
  uint4 scales[2];             // of rows g and g + 8

  __device__ void load(const std::byte* tile_words, const std::byte* tile_scales) {
    const int lane = threadIdx.x % kWarp;
    const auto* from = reinterpret_cast<const uint4*>(tile_words);
    const auto* scale = reinterpret_cast<const uint4*>(tile_scales);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        const uint4 x = __ldcs(from + (s * 4 + v) * kWarp + lane);
        words[s][4 * v] = x.x, words[s][4 * v + 1] = x.y, words[s][4 * v + 2] = x.z,
                     words[s][4 * v + 3] = x.w;
      }
    }
    scales[0] = __ldcs(scale + lane / 4);
    scales[1] = __ldcs(scale + lane / 4 + 8);
  }
  __device__ float scale(int half, int m) const {
    const uint4& x = scales[half];
    const uint32_t pair = m / 2 == 0 ? x.x : m / 2 == 1 ? x.y : m / 2 == 2 ? x.z : x.w;
    return m % 2 == 0 ? low_of(pair) : high_of(pair);
  }
};

// Common ones of token m of rows g (first two) and g + 8 with the bit planes 2 c and 2 c + 1 of head t.
template <int kSteps>
__device__ void count_planes(const uint32_t (*words)[16], const uint32_t (&query)[kSteps][kQuadColumns],
                             int m, int (&counts)[kQuadColumns][4]) {
  constexpr int kZero[4] = {0, 0, 0, 0};
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const uint32_t a[2] = {words[s][2 * m], words[s][2 * m + 1]};
#pragma unroll
    for (int c = 0; c < kQuadColumns; ++c) {
      if (s == 0) {
        count_common(counts[c], a, query[s][c], kZero);
      } else {
        count_common(counts[c], a, query[s][c], counts[c]);
      }
    }
  }
}

// Sum of the query's numbers at the set bits, of row g (0) or g + 8 (1): the weights of the bit planes are 1,
// 2, .. and -32 for the sign.
__device__ int weigh_planes(const int (&counts)[kQuadColumns][4], int half) {
  const int low = counts[0][2 * half] + 2 * counts[0][2 * half + 1];
  const int middle = counts[1][2 * half] + 2 * counts[1][2 * half + 1];
  const int high = counts[2][2 * half] - 2 * counts[2][2 * half + 1];
  return low + 4 * middle + 16 * high;
}

// Integers of less than 2^22 become floats by being added to the bits of 1.5 * 2^23.
constexpr int kMagicBits = 0x4b400000;
constexpr float kMagic = 12582912.0f;

// A head's estimate of a token is base + step * scale * (2 sum - lowest), sum over the codes' bit planes.
struct HeadFactors {
  float step;  // of the rounded numbers; not negative
  float base;  // q . centre
  int start;   // kMagicBits less `lowest`: (2^bits - 1) times the sum of the rounded numbers, as levels are
               // 2 code - (2^bits - 1)
};

// products[half][m]: scale * (2 sum - lowest) of the tokens of rows g and g + 8. A token's counts are weighed
// while those of the next are under way.
template <int kSteps, int kBits>
__device__ void multiply_tile(const Tile<kSteps * kBits>& tile, const uint32_t (&query)[kSteps][kQuadColumns],
                              int start, float (&products)[2][kRowTokens]) {
  constexpr int kSets = kSteps * kBits < 4 ? 2 : 1;  // as registers allow
  int counts[kSets][kBits][kQuadColumns][4];
  const auto count = [&](int m) {
#pragma unroll
    for (int plane = 0; plane < kBits; ++plane)
      count_planes<kSteps>(tile.words + plane * kSteps, query, m, counts[m % kSets][plane]);
  };
  if (kSets == 2) count(0);
#pragma unroll
  for (int m = 0; m < kRowTokens; ++m) {
    if (m + kSets - 1 < kRowTokens) count(m + kSets - 1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int sum = weigh_planes(counts[m % kSets][0], half);
      if constexpr (kBits == 2) sum += 2 * weigh_planes(counts[m % kSets][1], half);
      products[half][m] = tile.scale(half, m) * (__int_as_float(2 * sum + start) - kMagic);
    }
  }
}

// log2(x) of a normal number.
__device__ inline float fast_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Log-sum-exps of a lane's row by chunks of kChunk: 8 / kChunk of them; with 16 tokens a chunk the
// neighbouring row's lane, 4 lanes away, has the other half and both get the whole.
template <int kChunk>
__device__ void reduce_row(const float (&products)[kRowTokens], const HeadFactors& head,
                           float (&scores)[kChunk < kRowTokens ? kRowTokens / kChunk : 1]) {
  constexpr int kOwn = kChunk < kRowTokens ? kChunk : kRowTokens;
#pragma unroll
  for (int c = 0; c < kRowTokens / kOwn; ++c) {
    float most = products[c * kOwn];
#pragma unroll
    for (int i = 1; i < kOwn; ++i) most = fmaxf(most, products[c * kOwn + i]);
    if constexpr (kChunk > kRowTokens) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 4));
    const float largest = head.step * most;
    float sum = fast_exp2(fmaf(products[c * kOwn], head.step, -largest));
#pragma unroll
    for (int i = 1; i < kOwn; ++i) sum += fast_exp2(fmaf(products[c * kOwn + i], head.step, -largest));
    if constexpr (kChunk > kRowTokens) sum += __shfl_xor_sync(kAllLanes, sum, 4);
    scores[c] = (largest + head.base + fast_log2(sum)) * kLn2;  // sum is about 1 at least
  }
}

// Scores of the chunks of rows g and g + 8 of a tile; closed ones become -infinity.
template <int kChunk>
__device__ void write_tile(const float (&products)[2][kRowTokens], const HeadFactors& head, uint32_t token,
                           uint32_t sealed, uint32_t chunks, float* scores) {
  constexpr int kEach = kChunk < kRowTokens ? kRowTokens / kChunk : 1;  // chunks of a row
  const uint32_t g = threadIdx.x % kWarp / 4;
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    float row[kEach];
    reduce_row<kChunk>(products[half], head, row);
    if (kChunk > kRowTokens && g % 2 != 0) continue;
    const uint32_t first = (token + (g + 8 * half) * kRowTokens) / kChunk;
#pragma unroll
    for (uint32_t c = 0; c < kEach; ++c) {
      const uint32_t chunk = first + c;
      if (chunk < chunks) scores[chunk] = chunk >= 1 && chunk < sealed ? row[c] : kMinusInfinity;
    }
  }
}

// Address of tile `nth` of a view's block.
__device__ const std::byte* tile_at(const PagedView& view, int64_t row, int64_t head, uint32_t block,
                                    uint32_t nth) {
  const std::byte* start = view.table[row * view.seq_stride + head * view.head_stride + block];
  return start + view.offset + head * view.head_offset + nth * (kTileTokens * view.token_bytes);
}

// Marks all chunks of a tile as closed, of all heads.
template <int kChunk>
__device__ void close_tile(const ScoreParams& p, int64_t first_head, int64_t token) {
  for (int h = 0; h < p.group; ++h) {
    for (int i = threadIdx.x % kWarp; i < kTileTokens / kChunk; i += kWarp) {
      const int64_t chunk = token / kChunk + i;
      if (chunk < p.chunks) p.scores[(first_head + h) * p.chunks + chunk] = kMinusInfinity;
    }
  }
}

// The bit planes of the query heads of one KV head as operands: [quads][steps][columns][lanes] words.
template <int kSteps>
__device__ void load_queries(const ScoreParams& p, int64_t first_head, int quads, uint32_t* shared) {
  constexpr int kPlane = 4 * kSteps;
  for (int i = threadIdx.x; i < quads * kSteps * kQuadColumns * kWarp; i += kTileWarps * kWarp) {
    const int lane = i % kWarp, c = i / kWarp % kQuadColumns, s = i / kWarp / kQuadColumns % kSteps;
    const int quad = i / kWarp / kQuadColumns / kSteps, g = lane / 4, t = lane % 4;
    const int h = quad * kQuadHeads + g / 2, bit = 2 * c + g % 2;
    const int64_t from = ((first_head + h) * kQueryBits + bit) * kPlane + 4 * s + t;
    shared[i] = h < p.group ? p.queries.planes[from] : 0u;
  }
}

// What scoring needs of head t of four, as a lane holds it.
template <int kSteps>
struct QuadQuery {
  uint32_t planes[kSteps][kQuadColumns];
  HeadFactors factors;
  float* scores;    // of chunk 0
  uint32_t chunks;  // that have a score: none where there is no such head

  __device__ void load(const ScoreParams& p, const uint32_t* shared, int quad, uint32_t tile) {
    const int lane = threadIdx.x % kWarp, h = quad * kQuadHeads + lane % 4;
    const bool held = h < p.group;
    const uint32_t segment = tile / p.segment_tiles;
    chunks = held ? static_cast<uint32_t>(p.chunks) : 0;
    const int64_t head = p.head(blockIdx.z, blockIdx.y, held ? h : 0);
    const int levels = (1 << p.sketch.bits) - 1;
    factors = {p.queries.steps[head], p.queries.bases[head * p.queries.segments + segment],
               kMagicBits - levels * p.queries.sums[head]};
    scores = p.scores + head * p.chunks;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int c = 0; c < kQuadColumns; ++c)
        planes[s][c] = shared[((quad * kSteps + s) * kQuadColumns + c) * kWarp + lane];
    }
  }
};

// Where a warp's tile lies. The table is read and sizes are divided once a stretch of tiles of one block and
// one segment, not once a tile.
struct TileCursor {
  const std::byte* words;
  const std::byte* scales;
  uint32_t until;  // first tile beyond the stretch

  __device__ void find(const ScoreParams& p, uint32_t tile) {
    const int64_t row = p.batch.rows[blockIdx.z], g = blockIdx.y;
    const uint32_t block = tile / p.block_tiles, nth = tile - block * p.block_tiles;
    words = tile_at(p.sketch.words, row, g, block, nth);
    scales = tile_at(p.sketch.scales, row, g, block, nth);
    until = tile + min(p.block_tiles - nth, p.segment_tiles - tile % p.segment_tiles);
  }
  __device__ void step(const ScoreParams& p) {
    words += kTileTokens * p.sketch.words.token_bytes;
    scales += kTileTokens * p.sketch.scales.token_bytes;
  }
};

// Grid: stretches of tiles, KV heads, sequences. A warp walks warp_tiles tiles.
template <int kSteps, int kBits, int kChunk>
__global__ void __launch_bounds__(kTileWarps* kWarp, kTileBlocks<kSteps * kBits>)
    score_tiles_kernel(ScoreParams p) {
  extern __shared__ uint32_t shared[];
  const int64_t b = blockIdx.z, g = blockIdx.y;
  const int quads = (p.group + kQuadHeads - 1) / kQuadHeads;
  const int64_t first_head = p.head(b, g, 0);
  const uint32_t sealed = static_cast<uint32_t>(p.sealed(b)), all = static_cast<uint32_t>(p.chunks);
  const uint32_t tiles = ceil_div<uint32_t>(all * kChunk, kTileTokens);
  const uint32_t open = sealed > 1 ? ceil_div<uint32_t>(sealed * kChunk, kTileTokens) : 0;  // tiles
  load_queries<kSteps>(p, first_head, quads, shared);
  __syncthreads();
  const uint32_t first = (blockIdx.x * kTileWarps + threadIdx.x / kWarp) * p.warp_tiles;
  const uint32_t end = min(first + p.warp_tiles, tiles), end_open = min(end, open);
  TileCursor cursor;
  QuadQuery<kSteps> query;
  cursor.until = first;
#pragma unroll 1
  for (uint32_t i = first; i < end_open; ++i) {
    const bool turns = i == cursor.until;
    if (turns) cursor.find(p, i);
    Tile<kSteps * kBits> tile;
    tile.load(cursor.words, cursor.scales);
    cursor.step(p);
#pragma unroll 1
    for (int quad = 0; quad < quads; ++quad) {
      if (quads > 1 || turns) query.load(p, shared, quad, i);
      float products[2][kRowTokens];
      multiply_tile<kSteps, kBits>(tile, query.planes, query.factors.start, products);
      write_tile<kChunk>(products, query.factors, i * kTileTokens, sealed, query.chunks, query.scores);
    }
  }
#pragma unroll 1
  for (uint32_t i = max(first, end_open); i < end; ++i)
    close_tile<kChunk>(p, first_head, i * int64_t{kTileTokens});
}

// ---- scoring any shape ------------------------------------------------------------------------------------

constexpr int kChunkThreads = 128;

// Sum of a query's numbers at the set bits of one plane.
__device__ int count_plane(uint32_t* block, const SketchLayout& layout, int64_t token, int first, int plane,
                           const uint32_t* query) {
  int sum = 0;
  for (int w = 0; w < plane; ++w) {
    const uint32_t word = *sketch_word_at(block, layout, token, first + w);
#pragma unroll
    for (int bit = 0; bit < kQueryBits; ++bit) {
      const int count = __popc(word & query[bit * plane + w]);
      sum += bit == kQueryBits - 1 ? -(count << bit) : count << bit;
    }
  }
  return sum;
}

// One thread a chunk and query head.
__global__ void __launch_bounds__(kChunkThreads) score_chunks_kernel(ScoreParams p) {
  const int64_t b = blockIdx.z, head = b * p.kv_heads * p.group + blockIdx.y, g = blockIdx.y / p.group;
  const int64_t chunk = blockIdx.x * static_cast<int64_t>(kChunkThreads) + threadIdx.x, row = p.batch.rows[b];
  if (chunk >= p.chunks) return;
  float* score = p.scores + head * p.chunks + chunk;
  if (chunk < 1 || chunk >= p.sealed(b)) {
    *score = kMinusInfinity;
    return;
  }
  const int plane = static_cast<int>(sketch_plane_words(p.head_dim)), bits = static_cast<int>(p.sketch.bits);
  const uint32_t* query = p.queries.planes + head * kQueryBits * plane;
  const float step = p.queries.steps[head];
  const int lowest = ((1 << bits) - 1) * p.queries.sums[head];
  const int64_t first = chunk * p.chunk, in_block = first % p.sketch.words.block_tokens;
  uint32_t* block = sketch_block_of(p.sketch.words, row, g, first);
  const int64_t segment = first / p.sketch.centre.block_tokens;
  const float base = p.queries.bases[head * p.queries.segments + segment];
  float most = kMinusInfinity, sum = 0.0f;
  for (int64_t t = 0; t < p.chunk; ++t) {
    int code_sum = count_plane(block, p.layout, in_block + t, 0, plane, query);
    if (bits == 2) code_sum += 2 * count_plane(block, p.layout, in_block + t, plane, plane, query);
    const float scale = to_float(*reinterpret_cast<const Bf16*>(p.sketch.scales.at(row, g, first + t)));
    const float estimate = base + scale * step * static_cast<float>(2 * code_sum - lowest);
    const float larger = fmaxf(most, estimate);
    sum = sum * exp2f(most - larger) + exp2f(estimate - larger);
    most = larger;
  }
  *score = (most + log2f(sum)) * kLn2;
}

// ---- launchers --------------------------------------------------------------------------------------------

Queries queries_in(std::byte* scratch, int64_t heads, int64_t plane, int64_t segments) {
  Queries queries;
  queries.planes = reinterpret_cast<uint32_t*>(scratch);
  queries.steps = reinterpret_cast<float*>(queries.planes + heads * kQueryBits * plane);
  queries.sums = reinterpret_cast<int32_t*>(queries.steps + heads);
  queries.bases = reinterpret_cast<float*>(queries.sums + heads);
  queries.segments = segments;
  return queries;
}

uint32_t tiles_of(const PagedView& view) {
  constexpr int64_t kMost = 0x7fffffff;
  const int64_t tiles = view.block_tokens / kTileTokens;
  return static_cast<uint32_t>(tiles < 1 ? 1 : tiles < kMost ? tiles : kMost);
}

template <int kSteps, int kBits>
void score_tiles(Queue& queue, ScoreParams p, const char* op) {
  const int64_t tiles = ceil_div<int64_t>(p.chunks * p.chunk, kTileTokens);
  const int64_t share = tiles * p.kv_heads * p.batch.size / kFullDevice;  // small batches spread out
  p.warp_tiles = share < 1 ? 1 : share < kMostWarpTiles ? static_cast<uint32_t>(share) : kMostWarpTiles;
  const dim3 grid(grid_x(ceil_div<int64_t>(tiles, kTileWarps * p.warp_tiles), op), grid_yz(p.kv_heads, op),
                  grid_yz(p.batch.size, op));
  const int quads = (p.group + kQuadHeads - 1) / kQuadHeads;
  const int64_t shared = quads * kSteps * kQuadColumns * kWarp * 4;
  const auto launch = [&](auto* kernel) {
    allow_shared(kernel, shared, op);
    kernel<<<grid, kTileWarps * kWarp, shared, stream_of(queue)>>>(p);
  };
  if (p.chunk == 4) return launch(score_tiles_kernel<kSteps, kBits, 4>);
  if (p.chunk == 8) return launch(score_tiles_kernel<kSteps, kBits, 8>);
  launch(score_tiles_kernel<kSteps, kBits, 16>);
}

// Whether tiles can be scored whole: their scales lie together and one segment holds them.
bool scores_by_tiles(const ScoreParams& p) {
  const PagedView& scales = p.sketch.scales;
  return p.layout.tiled && (p.chunk == 4 || p.chunk == 8 || p.chunk == 16) &&
         (p.head_dim == 128 || p.head_dim == 256) && scales.token_bytes == 2 &&
         scales.block_tokens == p.sketch.words.block_tokens && is_sketch_aligned(scales) &&
         p.sketch.centre.block_tokens % kTileTokens == 0 && p.chunks * p.chunk < (int64_t{1} << 31);
}

}  // namespace

void sketch_scores(Queue& queue, const SketchScoresParams& p) {
  constexpr const char* kOp = "sketch_scores";
  demand_activations(p.q, kOp);
  const int64_t sequences = p.batch.size, heads = p.q.shape[1], head_dim = p.q.shape[2];
  const int64_t chunks = p.scores.shape[2], plane = sketch_plane_words(head_dim);
  demand_head_dim(head_dim, kOp);
  demand(p.scale >= 0.0f, kOp, "a negative scale has no kernel");
  if (chunks == 0) return;
  const int64_t segments = ceil_div<int64_t>(chunks * p.chunk, p.sketch.centre.block_tokens);
  const int64_t bytes = sequences * heads * (kQueryBits * plane + 2 + segments) * 4;
  ScoreParams params{device_ptr<Bf16>(p.q),
                     p.batch,
                     p.sketch,
                     sketch_layout(p.sketch, head_dim),
                     p.kv_heads,
                     static_cast<int>(heads / p.kv_heads),
                     static_cast<int>(head_dim),
                     p.chunk,
                     p.local_window,
                     p.scale,
                     device_ptr<float>(p.scores),
                     chunks,
                     queries_in(scratch_of(queue, bytes, kOp), sequences * heads, plane, segments),
                     tiles_of(p.sketch.words),
                     tiles_of(p.sketch.centre),
                     kMostWarpTiles};
  const unsigned rows = grid_x(sequences * heads, kOp);
  with_lane_numbers(head_dim, [&](auto numbers) {
    round_queries_kernel<decltype(numbers)::value>
        <<<rows, (1 + kCentreWarps) * kWarp, 0, stream_of(queue)>>>(params);
  });
  check_launch(kOp);
  if (scores_by_tiles(params)) {
    if (head_dim == 128 && p.sketch.bits == 1) score_tiles<1, 1>(queue, params, kOp);
    if (head_dim == 128 && p.sketch.bits == 2) score_tiles<1, 2>(queue, params, kOp);
    if (head_dim == 256 && p.sketch.bits == 1) score_tiles<2, 1>(queue, params, kOp);
    if (head_dim == 256 && p.sketch.bits == 2) score_tiles<2, 2>(queue, params, kOp);
  } else {
    const dim3 grid(grid_x(ceil_div<int64_t>(chunks, kChunkThreads), kOp), grid_yz(heads, kOp),
                    grid_yz(sequences, kOp));
    score_chunks_kernel<<<grid, kChunkThreads, 0, stream_of(queue)>>>(params);
  }
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
