// Scores chunks by the sketch on the tensor cores' bit products (tiles as in sketch.cuh). The m-th product
// takes token m of all 16 rows against the bit planes of four query heads, a column for each bit of a head's
// numbers, so ordered that lane t of a row gets all of head t. Four words of a token that belong to two of
// its bit planes are multiplied once for each, with zeros for the words of the other. A lane thus ends with
// the 8 tokens of two rows for one head, and the log-sum-exp over chunks of up to 8 tokens is its own affair.
// Bound: bytes of words and scales.
#include "kernels/cuda/bulk_copies.cuh"
#include "kernels/cuda/selection.cuh"
#include "kernels/cuda/sketch_queries.cuh"
#include "kernels/cuda/tile_stream.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kTileTokens = static_cast<int>(kSketchTileTokens);
constexpr int kRowTokens = 8;
constexpr int kQuadHeads = 4;                 // query heads of one group of products
constexpr int kQuadColumns = kQueryBits / 2;  // column tiles of 8: kQuadHeads * kQueryBits / 8
static_assert(kQueryBits % 2 == 0);

// ---- scoring tiles ----------------------------------------------------------------------------------------

constexpr int kTileWarps = 4;

// A token's code, kBits planes of kPlaneWords words, as steps of products: four words each and, where two
// words are left, one for the two of two neighbouring tokens, whose operand has zeros for the other token.
// Operands: the words of a query's bit plane as a step wants them.
template <int kPlaneWords, int kBits>
struct SketchCode {
  static constexpr int kWords = kPlaneWords * kBits;
  static constexpr int kWhole = kWords / 4;                     // steps of one token
  static constexpr int kSteps = kWhole + (kWords % 4 ? 1 : 0);  // and of two
  static constexpr bool kAlignedPlanes = kPlaneWords % 4 == 0;
  static_assert(kWords % 2 == 0 && (kAlignedPlanes || kPlaneWords == 2 || kPlaneWords == 3));
  static constexpr int kOperands = kAlignedPlanes ? kPlaneWords / 4 : kBits + kSteps + (kSteps - kWhole) - 1;

  // Whether a step has words of a plane, and whether they are the plane's first.
  __host__ __device__ static constexpr bool has(int step, int plane) {
    return 4 * step < (plane + 1) * kPlaneWords && 4 * step + 4 > plane * kPlaneWords;
  }
  __host__ __device__ static constexpr bool starts(int step, int plane) {
    return 4 * step <= plane * kPlaneWords;
  }
  // The operand of a step and a plane; odd: of the second token, where a step has two.
  __host__ __device__ static constexpr int operand(int step, int plane, int odd) {
    return kAlignedPlanes ? step - plane * kPlaneWords / 4 : step + plane + (step == kWhole ? odd : 0);
  }
};

// Blocks of a multiprocessor, as many as the registers and the shared memory of a code allow.
template <typename Code>
constexpr int kTileBlocks = Code::kWords <= 4   ? (Code::kAlignedPlanes ? 7 : 6)
                            : Code::kWords <= 6 ? 5
                            : Code::kWords <= 8 ? 4
                                                : 2;

template <typename Code>
using SketchStream = TileStream<2, kTileTokens * 4 * Code::kWords, kTileTokens * 2>;

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

// Counts are at most 256: read as floats they are denormal, count * 2^-149, and full-speed operands. A unit
// of weight 2^119 turns them into count * 2^-30; the multiplication by `step` takes 2^-30 away again.
constexpr float kCountUnit = 0x1p119f;
constexpr float kWeighedUnit = 0x1p-30f;

// A head's estimate of a token is base + step * scale * (2 sum - lowest), sum over the codes' bit planes.
struct HeadFactors {
  float step;   // of the rounded numbers, over kWeighedUnit; not negative
  float start;  // kWeighedUnit times -lowest: (2^bits - 1) times the sum of the rounded numbers, as levels
                // are 2 code - (2^bits - 1)
  float base;   // q . centre
};

// start + kWeighedUnit * 2 * sum of the query's numbers at the set bits, of row g (half 0) or g + 8 (1): the
// weights of the bit planes are 1, 2, .. and negative for the sign.
__device__ inline float weigh_planes(const int (&counts)[kQuadColumns][4], int half, float unit,
                                     float start) {
#pragma unroll
  for (int bit = 0; bit < kQueryBits; ++bit) {
    const float weight = (bit == kQueryBits - 1 ? -2.0f : 2.0f) * static_cast<float>(1 << bit);
    start = fmaf(__int_as_float(counts[bit / 2][2 * half + bit % 2]), weight * unit, start);
  }
  return start;
}

// Counts of one token of rows g and g + 8: its step's words a against the operands of every plane in them.
template <typename Code, int kBits>
__device__ inline void count_step(int (&counts)[kBits][kQuadColumns][4], const uint32_t (&a)[2], int step,
                                  int odd, const uint32_t (&query)[Code::kOperands][kQuadColumns]) {
  constexpr int kZero[4] = {0, 0, 0, 0};
#pragma unroll
  for (int plane = 0; plane < kBits; ++plane) {
    if (!Code::has(step, plane)) continue;
#pragma unroll
    for (int c = 0; c < kQuadColumns; ++c) {
      int(&out)[4] = counts[plane][c];
      const uint32_t b = query[Code::operand(step, plane, odd)][c];
      if (Code::starts(step, plane))
        count_common(out, a, b, kZero);
      else
        count_common(out, a, b, out);
    }
  }
}

// products[half][m]: scale * (2 sum - lowest) of the tokens of rows g and g + 8.
template <typename Code, int kBits>
__device__ void multiply_tile(const std::byte* tile, const uint32_t (&query)[Code::kOperands][kQuadColumns],
                              float start, float (&products)[2][kRowTokens]) {
  const int lane = threadIdx.x % kWarp;
  const auto* words = reinterpret_cast<const uint4*>(tile) + lane;
  const auto* scales =
      reinterpret_cast<const uint32_t*>(tile + kTileTokens * 4 * Code::kWords + lane / 4 * 16);
  uint4 shared = {};  // the words that are left of tokens 2 pair to 2 pair + 3, pair even
#pragma unroll
  for (int pair = 0; pair < kRowTokens / 2; ++pair) {
    uint4 two[Code::kWhole + 1];  // tokens 2 pair and 2 pair + 1 of rows g and g + 8
#pragma unroll
    for (int s = 0; s < Code::kWhole; ++s) two[s] = words[(s * 4 + pair) * kWarp];
    if (Code::kSteps > Code::kWhole && pair % 2 == 0) shared = words[(Code::kWhole * 4 + pair / 2) * kWarp];
    const uint32_t left[2] = {pair % 2 ? shared.z : shared.x, pair % 2 ? shared.w : shared.y};
    const uint32_t scale[2] = {scales[pair], scales[pair + 32]};
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      int counts[kBits][kQuadColumns][4];
#pragma unroll
      for (int s = 0; s < Code::kWhole; ++s) {
        const uint32_t a[2] = {odd ? two[s].z : two[s].x, odd ? two[s].w : two[s].y};
        count_step<Code>(counts, a, s, odd, query);
      }
      if constexpr (Code::kSteps > Code::kWhole) count_step<Code>(counts, left, Code::kWhole, odd, query);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = weigh_planes(counts[0], half, kCountUnit, start);
        if constexpr (kBits == 2) sum = weigh_planes(counts[1], half, 2 * kCountUnit, sum);
        products[half][2 * pair + odd] = (odd ? high_of(scale[half]) : low_of(scale[half])) * sum;
      }
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

// Whether a tile is a whole number of spans, which score_tiles_kernel then writes.
template <int kChunk>
constexpr bool kWritesSpans = kTileTokens % (kChunk * kSpan) == 0;

// Writes the spans of a tile from the scores of a lane's two rows. token: the tile's first; spans: of chunk
// 0.
template <int kChunk, int kEach>
__device__ void write_spans(const float (&rows)[2][kEach], uint32_t token, uint32_t chunks, float2* spans) {
  constexpr int kCount = kTileTokens / (kChunk * kSpan);
  static_assert(kCount == kEach);  // a span is both rows of all lanes, or one row
  const uint32_t first = token / (kChunk * kSpan);
#pragma unroll
  for (uint32_t i = 0; i < kCount; ++i) {
    const float2 span = kCount == 1 ? span_of_lanes<4, kWarp>(rows[0][0], rows[1][0])
                                    : span_of_lanes<4, kWarp>(rows[i][0], rows[i][kEach - 1]);
    if (threadIdx.x % kWarp < 4 && (first + i) * kSpan < chunks) spans[first + i] = span;
  }
}

// Scores of the chunks of rows g and g + 8 of a tile, and spans of them unless `spans`, of chunk 0, is null;
// closed ones become -infinity.
template <int kChunk>
__device__ void write_tile(const float (&products)[2][kRowTokens], const HeadFactors& head, uint32_t token,
                           uint32_t sealed, uint32_t chunks, float* scores, float2* spans) {
  constexpr int kEach = kChunk < kRowTokens ? kRowTokens / kChunk : 1;  // chunks of a row
  const uint32_t g = threadIdx.x % kWarp / 4;
  float rows[2][kEach];
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    float(&row)[kEach] = rows[half];
    reduce_row<kChunk>(products[half], head, row);
    if (kChunk > kRowTokens && g % 2 != 0) continue;
    const uint32_t first = (token + (g + 8 * half) * kRowTokens) / kChunk;
#pragma unroll
    for (uint32_t c = 0; c < kEach; ++c) {
      const uint32_t chunk = first + c;
      if (chunk < 1 || chunk >= sealed) row[c] = kMinusInfinity;
      if (chunk < chunks) scores[chunk] = row[c];
    }
  }
  if constexpr (kWritesSpans<kChunk>) {
    if (spans != nullptr) write_spans<kChunk>(rows, token, chunks, spans);
  }
}

// Marks all chunks of a tile as closed, of all heads.
template <int kChunk>
__device__ void close_tile(const SketchScoreParams& p, int64_t first_head, int64_t token) {
  for (int h = 0; h < p.group; ++h) {
    for (int i = threadIdx.x % kWarp; i < kTileTokens / kChunk; i += kWarp) {
      const int64_t chunk = token / kChunk + i;
      if (chunk < p.chunks) p.scores[(first_head + h) * p.chunks + chunk] = kMinusInfinity;
    }
    if constexpr (kWritesSpans<kChunk>) {
      const int64_t spans = ceil_div<int64_t>(p.chunks, kSpan),
                    span = token / (kChunk * kSpan) + threadIdx.x % kWarp;
      const bool own = p.spans != nullptr && threadIdx.x % kWarp < kTileTokens / (kChunk * kSpan);
      if (own && span < spans) p.spans[(first_head + h) * spans + span] = make_float2(kMinusInfinity, 0.0f);
    }
  }
}

// What a block knows of the query heads of its KV head, in shared memory; their number is rounded up to whole
// groups of kQuadHeads, those beyond are zeros.
template <int kPlaneWords, int kBits>
struct BlockQueries {
  using Code = SketchCode<kPlaneWords, kBits>;

  uint32_t*
      operands;  // [quads][kOperands][kQuadColumns][lanes] words of bit planes as the products take them
  HeadFactors* heads;  // [quads * kQuadHeads], `base` not set
  float* bases;  // [segments][quads * kQuadHeads] q . centre of each segment that the block walks through
  int quads;

  __host__ __device__ static int64_t bytes(int quads, int64_t segments) {
    return quads * (Code::kOperands * kQuadColumns * kWarp * 4 +
                    kQuadHeads * (int64_t{sizeof(HeadFactors)} + segments * 4));
  }
  __device__ BlockQueries(std::byte* shared, int quad_count)
      : operands(reinterpret_cast<uint32_t*>(shared)),
        heads(reinterpret_cast<HeadFactors*>(operands + quad_count * Code::kOperands * kQuadColumns * kWarp)),
        bases(reinterpret_cast<float*>(heads + quad_count * kQuadHeads)),
        quads(quad_count) {}

  // Turns and rounds all heads and multiplies them with the centres of segments [first, last]; the block must
  // meet before it reads them. One warp a head.
  __device__ void prepare(const SketchScoreParams& p, int64_t first_head, int64_t row, uint32_t first,
                          uint32_t last) const {
    static_assert(kTileWarps % kQuadHeads == 0);
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll 1
    for (int quad = warp / kQuadHeads; quad < quads; quad += kTileWarps / kQuadHeads) {
      const int h = quad * kQuadHeads + warp % kQuadHeads;
      float y[kPlaneWords];
      read_query(p, first_head + h, h < p.group, y);
#pragma unroll 1
      for (uint32_t segment = first; segment <= last; ++segment) {
        float centre[kPlaneWords];
        read_centre(p, row, blockIdx.y, segment, centre);
        bases[(segment - first) * quads * kQuadHeads + h] = multiply_centre(p, y, centre);
      }
      const int head_dim = Code::kAlignedPlanes ? kWarp * kPlaneWords : p.head_dim;
      uint32_t* own = operands + quad * Code::kOperands * kQuadColumns * kWarp + h % kQuadHeads * 8;
      if (!Code::kAlignedPlanes) clear_operands(own);
      const RoundedQuery rounded = round_query(
          p, head_dim, y, [&](int bit, int word, uint32_t plane) { place_word(own, bit, word, plane); });
      const int levels = (1 << kBits) - 1;
      if (lane == 0) {
        heads[h].step = rounded.step / kWeighedUnit;
        heads[h].start = kWeighedUnit * -static_cast<float>(levels * rounded.sum);
      }
    }
  }

 private:
  // A head's word t of one bit of operand i; own: the head's first.
  __device__ static uint32_t& operand_word(uint32_t* own, int i, int bit, int t) {
    return own[(i * kQuadColumns + bit / 2) * kWarp + bit % 2 * 4 + t];
  }
  __device__ static void clear_operands(uint32_t* own) {
    for (int i = threadIdx.x % kWarp; i < Code::kOperands * kQueryBits * 4; i += kWarp)
      operand_word(own, i / (kQueryBits * 4), i / 4 % kQueryBits, i % 4) = 0;
    __syncwarp();
  }
  // Puts word `word` of one bit plane of a query where a token's planes have that word.
  __device__ static void place_word(uint32_t* own, int bit, int word, uint32_t plane_bits) {
#pragma unroll
    for (int plane = 0; plane < (Code::kAlignedPlanes ? 1 : kBits); ++plane) {
      const int at = plane * kPlaneWords + word, step = at / 4;
      if (step < Code::kWhole) {
        operand_word(own, Code::operand(step, plane, 0), bit, at % 4) = plane_bits;
      } else {
        operand_word(own, Code::operand(step, plane, 0), bit, at % 4) = plane_bits;
        operand_word(own, Code::operand(step, plane, 1), bit, at % 4 + 2) = plane_bits;
      }
    }
  }
};

// What scoring needs of head t of four, as a lane holds it.
template <int kPlaneWords, int kBits>
struct QuadQuery {
  using Code = SketchCode<kPlaneWords, kBits>;

  uint32_t planes[Code::kOperands][kQuadColumns];
  HeadFactors factors;
  float* scores;    // of chunk 0
  float2* spans;    // likewise, or null
  uint32_t chunks;  // that have a score: none where there is no such head

  // segment: counted from the block's first.
  __device__ void load(const SketchScoreParams& p, const BlockQueries<kPlaneWords, kBits>& block, int quad,
                       uint32_t segment, int64_t first_head) {
    const int lane = threadIdx.x % kWarp, h = quad * kQuadHeads + lane % 4;
    const bool held = h < p.group;
    chunks = held ? static_cast<uint32_t>(p.chunks) : 0;
    const int64_t head = first_head + (held ? h : 0);
    scores = p.scores + head * p.chunks;
    spans = p.spans == nullptr ? nullptr : p.spans + head * ceil_div<int64_t>(p.chunks, kSpan);
    factors = block.heads[h];
    factors.base = block.bases[segment * block.quads * kQuadHeads + h];
#pragma unroll
    for (int i = 0; i < Code::kOperands; ++i) {
#pragma unroll
      for (int c = 0; c < kQuadColumns; ++c)
        planes[i][c] = block.operands[((quad * Code::kOperands + i) * kQuadColumns + c) * kWarp + lane];
    }
  }
};

// Grid: stretches of grid_tiles tiles, KV heads, sequences; the warps of a block take turns. Queries are made
// ready while the first tiles are on their way.
template <int kPlaneWords, int kBits, int kChunk>
__global__ void __launch_bounds__(kTileWarps* kWarp, kTileBlocks<SketchCode<kPlaneWords, kBits>>)
    score_tiles_kernel(SketchScoreParams p) {
  using Code = SketchCode<kPlaneWords, kBits>;
  using Stream = SketchStream<Code>;
  extern __shared__ __align__(16) std::byte shared[];
  wait_for_earlier_kernel();
  const int64_t b = blockIdx.z, first_head = p.head(b, blockIdx.y, 0), row = p.batch.rows[b];
  const uint32_t warp = threadIdx.x / kWarp;
  const uint32_t sealed = static_cast<uint32_t>(p.sealed(b, kChunk)), all = static_cast<uint32_t>(p.chunks);
  const uint32_t open = sealed > 1 ? ceil_div<uint32_t>(sealed * kChunk, kTileTokens) : 0;  // tiles
  const uint32_t start = blockIdx.x * p.grid_tiles, first = start + warp;
  const uint32_t end = min(start + p.grid_tiles, ceil_div<uint32_t>(all * kChunk, kTileTokens));
  const TileWalk walk{row, blockIdx.y, first, min(end, open), kTileWarps, p.block_tiles};
  Stream stream;
  const std::byte* ring = shared + warp * Stream::kRingBytes;
  stream.start(p.sketch.words, p.sketch.scales, walk, shared + warp * Stream::kRingBytes);
  const BlockQueries<kPlaneWords, kBits> queries(shared + kTileWarps * Stream::kRingBytes,
                                                 (p.group + kQuadHeads - 1) / kQuadHeads);
  const uint32_t first_segment = start / p.segment_tiles;
  if (start < walk.end) queries.prepare(p, first_head, row, first_segment, (walk.end - 1) / p.segment_tiles);
  __syncthreads();
  QuadQuery<kPlaneWords, kBits> query;
#pragma unroll 1
  for (uint32_t i = first; i < walk.end;) {
    const uint32_t segment = i / p.segment_tiles, turn = min(walk.end, (segment + 1) * p.segment_tiles);
    query.load(p, queries, 0, segment - first_segment, first_head);
#pragma unroll 1
    for (; i < turn; i += kTileWarps) {
      const std::byte* tile = ring + stream.take();
#pragma unroll 1
      for (int quad = 0; quad < queries.quads; ++quad) {
        if (queries.quads > 1) query.load(p, queries, quad, segment - first_segment, first_head);
        float products[2][kRowTokens];
        multiply_tile<Code, kBits>(tile, query.planes, query.factors.start, products);
        write_tile<kChunk>(products, query.factors, i * kTileTokens, sealed, query.chunks, query.scores,
                           query.spans);
      }
      stream.release(p.sketch.words, p.sketch.scales, walk);
    }
  }
#pragma unroll 1
  for (uint32_t i = first; i < end; i += kTileWarps) {
    if (i >= walk.end) close_tile<kChunk>(p, first_head, i * int64_t{kTileTokens});
  }
}

// ---- scoring any shape ------------------------------------------------------------------------------------

constexpr int kChunkThreads = 128;

// What scoring needs of every query head, in scratch.
struct Queries {
  uint32_t* planes;  // [B, H][kQueryBits][plane words] of the rounded numbers
  float* steps;      // [B, H] RoundedQuery
  int32_t* sums;     // [B, H]
  float* bases;      // [B, H][segments] q . centre, times scale and log2(e)
  int64_t segments;
};

constexpr int kCentreWarps = 8;

// One block a query head: the first warp turns and rounds it, the others multiply it with the centres of the
// segments in use, which lie behind a table each.
template <int kNumbers>
__global__ void __launch_bounds__((1 + kCentreWarps) * kWarp)
    round_queries_kernel(SketchScoreParams p, Queries queries) {
  const int64_t i = blockIdx.x;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float y[kNumbers];
  read_query(p, i, true, y);
  if (warp == 0) {
    uint32_t* planes = queries.planes + i * kQueryBits * sketch_plane_words(p.head_dim);
    const RoundedQuery rounded = round_query(p, p.head_dim, y, [&](int bit, int word, uint32_t plane) {
      if (lane == 0) planes[bit * sketch_plane_words(p.head_dim) + word] = plane;
    });
    if (lane == 0) queries.steps[i] = rounded.step, queries.sums[i] = rounded.sum;
    return;
  }
  const int64_t heads = p.kv_heads * p.group, b = i / heads, g = i % heads / p.group;
  const int64_t row = p.batch.rows[b], used = p.sealed(b, p.chunk) * p.chunk,
                each = p.sketch.centre.block_tokens;
  for (int64_t s = warp - 1; s < queries.segments && s * each < used; s += kCentreWarps) {
    float centre[kNumbers];
    read_centre(p, row, g, s, centre);
    const float base = multiply_centre(p, y, centre);
    if (lane == 0) queries.bases[i * queries.segments + s] = base;
  }
}

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
__global__ void __launch_bounds__(kChunkThreads) score_chunks_kernel(SketchScoreParams p, Queries queries) {
  const int64_t b = blockIdx.z, head = b * p.kv_heads * p.group + blockIdx.y, g = blockIdx.y / p.group;
  const int64_t chunk = blockIdx.x * static_cast<int64_t>(kChunkThreads) + threadIdx.x, row = p.batch.rows[b];
  if (chunk >= p.chunks) return;
  float* score = p.scores + head * p.chunks + chunk;
  if (chunk < 1 || chunk >= p.sealed(b, p.chunk)) {
    *score = kMinusInfinity;
    return;
  }
  const int plane = static_cast<int>(sketch_plane_words(p.head_dim)), bits = static_cast<int>(p.sketch.bits);
  const uint32_t* query = queries.planes + head * kQueryBits * plane;
  const float step = queries.steps[head];
  const int lowest = ((1 << bits) - 1) * queries.sums[head];
  const int64_t first = chunk * p.chunk, in_block = first % p.sketch.words.block_tokens;
  uint32_t* block = sketch_block_of(p.sketch.words, row, g, first);
  const int64_t segment = first / p.sketch.centre.block_tokens;
  const float base = queries.bases[head * queries.segments + segment];
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

template <int kPlaneWords, int kBits>
void score_tiles(Queue& queue, SketchScoreParams p, const char* op) {
  using Code = SketchCode<kPlaneWords, kBits>;
  const int64_t tiles = ceil_div<int64_t>(p.chunks * p.chunk, kTileTokens);
  constexpr int64_t kSegments = 64;  // whose bases a block has room for
  const int64_t most = round_up<int64_t>((kSegments - 2) * p.segment_tiles, kTileWarps);
  const WalkPlan plan = plan_walks(tiles, p.kv_heads * p.batch.size,
                                   kTileBlocks<Code> * device_of(queue).multiprocessors(), kTileWarps, most);
  p.grid_tiles = static_cast<uint32_t>(plan.tiles);
  const dim3 grid(grid_x(plan.blocks, op), grid_yz(p.kv_heads, op), grid_yz(p.batch.size, op));
  const int64_t segments = ceil_div<int64_t>(plan.tiles - 1, p.segment_tiles) + 1;
  const int64_t shared =
      kTileWarps * SketchStream<Code>::kRingBytes +
      BlockQueries<kPlaneWords, kBits>::bytes((p.group + kQuadHeads - 1) / kQuadHeads, segments);
  const auto launch = [&](auto* kernel) {
    allow_shared(kernel, shared, op);
    launch_early({queue, grid, kTileWarps * kWarp, op, shared}, kernel, p);
  };
  if (p.chunk == 4) return launch(score_tiles_kernel<kPlaneWords, kBits, 4>);
  if (p.chunk == 8) return launch(score_tiles_kernel<kPlaneWords, kBits, 8>);
  launch(score_tiles_kernel<kPlaneWords, kBits, 16>);
}

using TileScorer = void (*)(Queue& queue, SketchScoreParams p, const char* op);

// Of heads of up to 96 numbers and of 128 and 256; null where there is none.
TileScorer tile_scorer(int64_t head_dim, int64_t bits) {
  if (head_dim == 128) return bits == 1 ? score_tiles<4, 1> : score_tiles<4, 2>;
  if (head_dim == 256) return bits == 1 ? score_tiles<8, 1> : score_tiles<8, 2>;
  if (sketch_plane_words(head_dim) == 2) return bits == 1 ? score_tiles<2, 1> : score_tiles<2, 2>;
  return sketch_plane_words(head_dim) == 3 && bits == 2 ? score_tiles<3, 2> : nullptr;
}

// Whether tiles can be scored whole: their scales lie together and one segment holds them.
bool scores_by_tiles(const SketchScoreParams& p) {
  const PagedView& scales = p.sketch.scales;
  return p.layout.tiled && (p.chunk == 4 || p.chunk == 8 || p.chunk == 16) && scales.token_bytes == 2 &&
         scales.block_tokens == p.sketch.words.block_tokens && is_aligned_16(scales) &&
         p.sketch.centre.block_tokens % kTileTokens == 0 && p.chunks * p.chunk < (int64_t{1} << 31);
}

void score_any(Queue& queue, const SketchScoreParams& p, const char* op) {
  const int64_t heads = p.kv_heads * p.group, rows = p.batch.size * heads;
  const int64_t plane = sketch_plane_words(p.head_dim);
  const int64_t segments = ceil_div<int64_t>(p.chunks * p.chunk, p.sketch.centre.block_tokens);
  const int64_t bytes = rows * (kQueryBits * plane + 2 + segments) * 4;
  const Queries queries = queries_in(scratch_of(queue, bytes, op), rows, plane, segments);
  with_lane_numbers(p.head_dim, [&](auto numbers) {
    round_queries_kernel<decltype(numbers)::value>
        <<<grid_x(rows, op), (1 + kCentreWarps) * kWarp, 0, stream_of(queue)>>>(p, queries);
  });
  check_launch(op);
  const dim3 grid(grid_x(ceil_div<int64_t>(p.chunks, kChunkThreads), op), grid_yz(heads, op),
                  grid_yz(p.batch.size, op));
  score_chunks_kernel<<<grid, kChunkThreads, 0, stream_of(queue)>>>(p, queries);
}

}  // namespace

void sketch_scores(Queue& queue, const SketchScoresParams& p) {
  constexpr const char* kOp = "sketch_scores";
  demand_activations(p.q, kOp);
  const int64_t heads = p.q.shape[1], head_dim = p.q.shape[2];
  demand_head_dim(head_dim, kOp);
  demand(p.scale >= 0.0f, kOp, "a negative scale has no kernel");
  if (p.scores.shape[2] == 0) return;
  const SketchScoreParams params{device_ptr<Bf16>(p.q),
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
                                 p.scores.shape[2],
                                 p.spans.empty() ? nullptr : device_ptr<float2>(p.spans),
                                 tiles_of(p.sketch.words),
                                 tiles_of(p.sketch.centre),
                                 0};
  const TileScorer scorer = tile_scorer(head_dim, p.sketch.bits);
  const bool by_tiles = scorer != nullptr && scores_by_tiles(params);
  if (by_tiles) {
    scorer(queue, params, kOp);
  } else {
    score_any(queue, params, kOp);
  }
  check_launch(kOp);
  const bool has_spans = by_tiles && kTileTokens % (p.chunk * kSpanScores) == 0;
  if (params.spans != nullptr && !has_spans) sum_spans(queue, p.scores, params.spans, kOp);
}

}  // namespace shadowkv::cuda
