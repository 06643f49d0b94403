#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <algorithm>
#include <array>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/scores.h"
#include "kernels/cpu/spans.h"
#include "kernels/cpu/storage.h"
#include "kernels/sketch_math.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// y = H S x, in place (sketch_math.h).
SHADOWKV_INLINE void turn(float* x, int64_t head_dim) {
  for (int64_t i = 0; i < head_dim; ++i) x[i] *= sketch_sign(i);
  for (int64_t first = 0; first < head_dim;) {
    const int64_t size = hadamard_block(first, head_dim);
    float* y = x + first;
    for (int64_t half = 1; half < size; half *= 2) {
      for (int64_t i = 0; i < size; i += 2 * half) {
        for (int64_t j = i; j < i + half; ++j) {
          const float a = y[j], b = y[j + half];
          y[j] = a + b;
          y[j + half] = a - b;
        }
      }
    }
    const float norm = 1.0f / std::sqrt(static_cast<float>(size));
    for (int64_t i = 0; i < size; ++i) y[i] *= norm;
    first += size;
  }
}

// ---- encoding ---------------------------------------------------------------------------------------------

// Working memory of one thread's encoding.
struct Encoder {
  std::vector<float> y, levels;
  std::vector<uint32_t> codes, words;

  Encoder(int64_t head_dim, int64_t bits)
      : y(static_cast<std::size_t>(head_dim)),
        levels(y.size()),
        codes(y.size()),
        words(static_cast<std::size_t>(sketch_plane_words(head_dim) * bits)) {}

  // Packs the codes of key k less its centre into `words` (all planes) and returns its scale.
  SHADOWKV_INLINE float encode(const float* k, const float* centre, int64_t bits) {
    const auto n = static_cast<int64_t>(y.size());
    for (int64_t i = 0; i < n; ++i) y.data()[i] = k[i] - centre[i];
    turn(y.data(), n);
    const float squares = dot(y.data(), y.data(), n);
    const float inner = std::sqrt(squares / static_cast<float>(n));
    for (int64_t i = 0; i < n; ++i) {
      const float x = y.data()[i];
      const uint32_t positive = x >= 0.0f ? 1u : 0u, outer = bits == 2 && !(std::fabs(x) < inner) ? 1u : 0u;
      const uint32_t code = bits == 1 ? positive : (positive != 0 ? 2u + outer : 1u - outer);
      codes.data()[i] = code;
      levels.data()[i] = static_cast<float>(2 * static_cast<int32_t>(code) - ((1 << bits) - 1));
    }
    pack(n, bits);
    const float along = dot(y.data(), levels.data(), n);
    return along > 0.0f ? squares / along : 0.0f;
  }

 private:
  SHADOWKV_INLINE void pack(int64_t n, int64_t bits) {
    const int64_t plane = sketch_plane_words(n);
    for (int64_t w = 0; w < plane * bits; ++w) {
      const int64_t first = w % plane * 32, b = w / plane, end = std::min(n, first + 32);
      uint32_t word = 0;
      for (int64_t i = first; i < end; ++i) word |= ((codes.data()[i] >> b) & 1u) << (i - first);
      words.data()[w] = word;
    }
  }
};

// ---- scoring ----------------------------------------------------------------------------------------------

constexpr int64_t kTileTokens = 16;     // tokens whose words are counted side by side
constexpr int64_t kPieceTokens = 1024;  // tokens of one piece of work, about

// One query head: rounded numbers as bit planes, word by word of a token's sketch.
struct Query {
  std::vector<uint32_t> planes;  // [kQueryBits][plane words]
  float delta = 0.0f;            // size of one step
  int32_t sum = 0;               // of all rounded numbers
};

Query round_query(const float* q, int64_t head_dim) {
  std::vector<float> turned(q, q + head_dim);
  turn(turned.data(), head_dim);
  float largest = 0.0f;
  for (const float x : turned) largest = std::max(largest, std::fabs(x));
  const int64_t plane = sketch_plane_words(head_dim);
  Query query{std::vector<uint32_t>(static_cast<std::size_t>(kQueryBits * plane)), largest / kQueryMax, 0};
  if (query.delta == 0.0f) return query;
  for (int64_t i = 0; i < head_dim; ++i) {
    const float steps = std::nearbyint(turned[static_cast<std::size_t>(i)] / query.delta);
    const auto number = static_cast<int32_t>(std::clamp(steps, -kQueryMax, kQueryMax));
    query.sum += number;
    for (int64_t b = 0; b < kQueryBits; ++b) {
      query.planes[static_cast<std::size_t>(b * plane + i / 32)] |=
          ((static_cast<uint32_t>(number) >> b) & 1u) << (i % 32);
    }
  }
  return query;
}

using Words [[gnu::vector_size(64)]] = uint32_t;

// The same for 16 tokens of four words each, which is what 64 numbers of two bits and 128 of one take.
SHADOWKV_INLINE void transpose_fours(const std::byte* from, uint32_t* to) {
  Words tokens[4], halves[4];  // of four tokens each; of words 0 and 1, 2 and 3, of eight tokens each
  SHADOWKV_UNROLL
  for (int i = 0; i < 4; ++i) std::memcpy(&tokens[i], from + i * sizeof(Words), sizeof(Words));
  SHADOWKV_UNROLL
  for (int i = 0; i < 2; ++i) {
    const Words &a = tokens[2 * i], &b = tokens[2 * i + 1];
    halves[i] = __builtin_shufflevector(a, b, 0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    halves[2 + i] = __builtin_shufflevector(a, b, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
  }
  SHADOWKV_UNROLL
  for (int i = 0; i < 2; ++i) {
    const Words &a = halves[2 * i], &b = halves[2 * i + 1];
    const Words first = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    const Words second =
        __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    std::memcpy(to + 2 * i * kTileTokens, &first, sizeof(Words));
    std::memcpy(to + (2 * i + 1) * kTileTokens, &second, sizeof(Words));
  }
}

// to[w * 16 + t] = word w of token t, for `count` <= 16 tokens; the rest repeat the last.
SHADOWKV_INLINE void transpose_words(const std::byte* from, int64_t token_bytes, int64_t words, int64_t count,
                                     uint32_t* to) {
  constexpr int64_t kWord = sizeof(uint32_t);
  if (count == kTileTokens && words == 4 && token_bytes == 4 * kWord) return transpose_fours(from, to);
  if (count == kTileTokens) {
    for (int64_t w = 0; w < words; ++w, from += sizeof(uint32_t)) {
      SHADOWKV_UNROLL
      for (int64_t t = 0; t < kTileTokens; ++t) {
        std::memcpy(to + w * kTileTokens + t, from + t * token_bytes, sizeof(uint32_t));
      }
    }
    return;
  }
  for (int64_t w = 0; w < words; ++w, from += sizeof(uint32_t)) {
    for (int64_t t = 0; t < kTileTokens; ++t) {
      std::memcpy(to + w * kTileTokens + t, from + std::min(t, count - 1) * token_bytes, sizeof(uint32_t));
    }
  }
}

// Bits set in each byte of x.
SHADOWKV_INLINE void count_bytes(Words& x) {
  x -= (x >> 1) & 0x55555555u;
  x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0fu;
}

// Counts of the query's planes into sums of its numbers: two's complement, lowest plane first.
SHADOWKV_INLINE void weigh(const Words* counts, Words& sum) {
  sum = counts[0];
  SHADOWKV_UNROLL
  for (unsigned b = 1; b + 1 < kQueryBits; ++b) sum += counts[b] << b;
  sum -= counts[kQueryBits - 1] << static_cast<unsigned>(kQueryBits - 1);
}

// Lane t becomes the sum of the query's numbers at the set bits of one plane of token t's code. words: [plane
// words][16].
SHADOWKV_INLINE void count_plane(const uint32_t* words, int64_t plane, const uint32_t* query, Words& sum) {
  constexpr int64_t kWords = 31;  // as many bytes of at most 8 as a byte can sum
  Words counts[kQueryBits] = {};
  for (int64_t first = 0; first < plane; first += kWords) {
    Words bytes[kQueryBits] = {};
    for (int64_t w = first; w < std::min(plane, first + kWords); ++w) {
      Words x;
      std::memcpy(&x, words + w * kTileTokens, sizeof(x));
      SHADOWKV_UNROLL
      for (int b = 0; b < kQueryBits; ++b) {
        Words common = x & query[b * plane + w];
        count_bytes(common);
        bytes[b] += common;
      }
    }
    SHADOWKV_UNROLL
    for (int b = 0; b < kQueryBits; ++b) {
      const Words pairs = (bytes[b] & 0x00ff00ffu) + ((bytes[b] >> 8) & 0x00ff00ffu);
      counts[b] += (pairs & 0xffffu) + (pairs >> 16);
    }
  }
  weigh(counts, sum);
}

// For each of `tiles` tiles of [bits][plane words][16] words: sums of a query's numbers times the tokens'
// codes.
struct Tiles {
  const uint32_t* words;
  int64_t tiles;
  int64_t bits;
  int64_t plane;
};

SHADOWKV_INLINE void count_tiles(const Tiles& t, const uint32_t* query, int32_t* sums) {
  const int64_t words = t.plane * kTileTokens;
  for (int64_t i = 0; i < t.tiles; ++i) {
    Words total{}, sum;
    for (int64_t b = 0; b < t.bits; ++b) {
      count_plane(t.words + (i * t.bits + b) * words, t.plane, query, sum);
      total += sum << static_cast<uint32_t>(b);
    }
    std::memcpy(sums + i * kTileTokens, &total, sizeof(total));
  }
}

#ifdef __x86_64__
// The same with the instruction that counts bits.
[[gnu::target("avx512f,avx512vpopcntdq")]] void count_tiles_avx512(const Tiles& t, const uint32_t* query,
                                                                   int32_t* sums) {
  const uint32_t* words = t.words;
  for (int64_t i = 0; i < t.tiles; ++i) {
    Words total{}, sum;
    for (int64_t b = 0; b < t.bits; ++b) {
      Words counts[kQueryBits] = {};
      for (int64_t w = 0; w < t.plane; ++w, words += kTileTokens) {
        Words x;
        std::memcpy(&x, words, sizeof(x));
        SHADOWKV_UNROLL
        for (int k = 0; k < kQueryBits; ++k) {
          const Words common = x & query[k * t.plane + w];
          counts[k] += reinterpret_cast<Words>(_mm512_popcnt_epi32(reinterpret_cast<__m512i>(common)));
        }
      }
      weigh(counts, sum);
      total += sum << static_cast<uint32_t>(b);
    }
    std::memcpy(sums + i * kTileTokens, &total, sizeof(total));
  }
}
#endif

SHADOWKV_INLINE void count_best(const Tiles& t, const uint32_t* query, int32_t* sums) {
#ifdef __x86_64__
  if (best_isa() == Isa::avx512) return count_tiles_avx512(t, query, sums);
#endif
  count_tiles(t, query, sums);
}

// A stretch of one sequence's tokens whose words, scales and centre each lie in one block.
struct Stretch {
  int64_t row, head, first, count;
};

// What one piece of work needs besides the parameters: its query heads, and working memory.
struct Piece {
  const SketchScoresParams& p;
  const Query* queries;  // of the KV head's query heads
  const float* q;        // likewise, [heads, D]
  int64_t heads;
  int64_t stride;                // of estimates: tokens of the piece and room for a last tile
  std::vector<float> estimates;  // [heads][stride]
  std::vector<uint32_t> words;   // tiles of a stretch
  std::vector<float> scales;     // of its tokens
  std::vector<int32_t> sums;     // of its tokens, for one query head

  Piece(const SketchScoresParams& params, const Query* first_query, int64_t head, int64_t group,
        int64_t tokens)
      : p(params),
        queries(first_query),
        q(params.q.as<float>() + head * params.q.shape[2]),
        heads(group),
        stride(tokens + kTileTokens),
        estimates(static_cast<std::size_t>(group * stride)),
        words(
            static_cast<std::size_t>(stride * sketch_token_bytes(params.q.shape[2], params.sketch.bits) / 4)),
        scales(static_cast<std::size_t>(stride)),
        sums(static_cast<std::size_t>(stride)) {}
};

// Lays a stretch's words out in tiles, and its scales as floats. All of it before any is counted: a wide load
// right behind the narrow stores that it covers would wait for them.
SHADOWKV_INLINE void gather_stretch(const Stretch& s, Piece& piece) {
  const SketchView& sketch = piece.p.sketch;
  const int64_t words = sketch_token_bytes(piece.p.q.shape[2], sketch.bits) / 4;
  const int64_t word_step = sketch.words.token_bytes, scale_step = sketch.scales.token_bytes;
  const std::byte* from = sketch.words.at(s.row, s.head, s.first);
  const std::byte* scales = sketch.scales.at(s.row, s.head, s.first);
  for (int64_t t = 0; t < s.count; t += kTileTokens) {
    transpose_words(from + t * word_step, word_step, words, std::min(kTileTokens, s.count - t),
                    piece.words.data() + t * words);
  }
  if (scale_step == size_of(DType::bf16)) return read_row(scales, DType::bf16, s.count, piece.scales.data());
  for (int64_t t = 0; t < s.count; ++t) {
    piece.scales.data()[t] = static_cast<float>(*reinterpret_cast<const bf16*>(scales + t * scale_step));
  }
}

SHADOWKV_INLINE void estimate_stretch(const Stretch& s, int64_t at, Piece& piece) {
  const SketchView& sketch = piece.p.sketch;
  const int64_t head_dim = piece.p.q.shape[2], tiles = ceil_div(s.count, kTileTokens);
  const auto* centre = reinterpret_cast<const float*>(sketch.centre.at(s.row, s.head, s.first));
  gather_stretch(s, piece);
  for (int64_t h = 0; h < piece.heads; ++h) {
    const Query& query = piece.queries[h];
    count_best({piece.words.data(), tiles, sketch.bits, sketch_plane_words(head_dim)}, query.planes.data(),
               piece.sums.data());
    const float start = piece.p.scale * dot(piece.q + h * head_dim, centre, head_dim);
    const float step = piece.p.scale * query.delta;
    const int32_t lowest = ((1 << sketch.bits) - 1) * query.sum;
    const int32_t* sums = piece.sums.data();
    const float* scales = piece.scales.data();
    float* out = piece.estimates.data() + h * piece.stride + at;
    for (int64_t t = 0; t < tiles * kTileTokens; ++t) {
      out[t] = start + step * scales[t] * static_cast<float>(2 * sums[t] - lowest);
    }
  }
}

// Tokens from `token` to the nearest block end of any of the sketch's parts.
int64_t left_in_blocks(const SketchView& sketch, int64_t token) {
  const auto left = [token](const PagedView& view) { return view.block_tokens - token % view.block_tokens; };
  return std::min({left(sketch.words), left(sketch.scales), left(sketch.centre)});
}

// Scores chunks [first, last) of sequence b and KV head g, all open.
void score_chunks(const SketchScoresParams& p, const Query* queries, int64_t b, int64_t g, int64_t first,
                  int64_t last) {
  const int64_t heads = p.q.shape[1], group = heads / p.kv_heads, all = p.scores.shape[2];
  const int64_t head = b * heads + g * group, tokens = (last - first) * p.chunk;
  Piece piece(p, queries + head, head, group, tokens);
  std::vector<float> sums(static_cast<std::size_t>(last - first));
  run_best([&]() SHADOWKV_LAMBDA_INLINE {
    for (int64_t at = 0; at < tokens;) {
      const int64_t token = first * p.chunk + at;
      const int64_t count = std::min(tokens - at, left_in_blocks(p.sketch, token));
      estimate_stretch({p.batch.rows[b], g, token, count}, at, piece);
      at += count;
    }
    for (int64_t h = 0; h < group; ++h) {
      chunk_log_sum_exp(piece.estimates.data() + h * piece.stride, last - first, p.chunk, sums.data(),
                        p.scores.as<float>() + (head + h) * all + first);
    }
  });
}

}  // namespace

void sketch_encode(Queue& queue, const SketchEncodeParams& p) {
  constexpr int64_t kPiece = 64;  // tokens
  const int64_t heads = p.k.shape[1], head_dim = p.k.shape[2], tokens = p.tokens.count;
  for_pieces(queue, ceil_div(tokens, kPiece), kPiece * heads * head_dim * 2, [&](int64_t piece) {
    const int64_t first = piece * kPiece * heads, end = std::min(tokens, (piece + 1) * kPiece) * heads;
    Encoder encoder(head_dim, p.sketch.bits);
    run_best([&]() SHADOWKV_LAMBDA_INLINE {
      for (int64_t i = first; i < end; ++i) {
        const int64_t g = i % heads, row = p.tokens.rows[i / heads], position = p.tokens.positions[i / heads];
        const auto* centre = reinterpret_cast<const float*>(p.sketch.centre.at(row, g, position));
        const float scale = encoder.encode(p.k.as<float>() + i * head_dim, centre, p.sketch.bits);
        std::memcpy(p.sketch.words.at(row, g, position), encoder.words.data(), encoder.words.size() * 4);
        *reinterpret_cast<bf16*>(p.sketch.scales.at(row, g, position)) = bf16(scale);
      }
    });
  });
}

void sketch_scores(Queue& queue, const SketchScoresParams& p) {
  const int64_t sequences = p.batch.size, heads = p.q.shape[1], head_dim = p.q.shape[2],
                all = p.scores.shape[2];
  const int64_t piece_chunks = std::max<int64_t>(1, kPieceTokens / p.chunk);
  int64_t most = 1;
  for (int64_t b = 0; b < sequences; ++b) {
    const int64_t sealed = sealed_chunks(p.batch.tokens[b], p.chunk, p.local_window);
    require(sealed <= all || sealed == 1,
            "sketch_scores: sequence {} has {} sealed chunks, but scores are {}", b, sealed,
            p.scores.describe());
    most = std::max(most, sealed);
    for (int64_t h = 0; h < heads; ++h) {
      float* scores = p.scores.as<float>() + (b * heads + h) * all;
      std::fill(scores, scores + std::min<int64_t>(1, all), kNone);
      std::fill(scores + std::min(sealed, all), scores + all, kNone);
    }
  }
  std::vector<Query> queries(static_cast<std::size_t>(sequences * heads));
  for_pieces(queue, sequences * heads, head_dim * 16, [&](int64_t i) {
    queries[static_cast<std::size_t>(i)] = round_query(p.q.as<float>() + i * head_dim, head_dim);
  });
  const int64_t pieces = ceil_div(most, piece_chunks);
  const int64_t cost = kPieceTokens * heads / p.kv_heads * (2 + head_dim * p.sketch.bits / 64);
  for_pieces(queue, sequences * p.kv_heads * pieces, cost, [&](int64_t i) {
    const int64_t b = i / pieces / p.kv_heads, g = i / pieces % p.kv_heads;
    const int64_t sealed = sealed_chunks(p.batch.tokens[b], p.chunk, p.local_window);
    const int64_t first = std::max<int64_t>(1, i % pieces * piece_chunks);
    const int64_t last = std::min(sealed, (i % pieces + 1) * piece_chunks);
    if (first < last) score_chunks(p, queries.data(), b, g, first, last);
  });
  sum_all_spans(queue, p.scores, p.spans);
}

}  // namespace shadowkv::cpu
