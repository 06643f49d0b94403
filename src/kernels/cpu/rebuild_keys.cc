#include <algorithm>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/storage.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

constexpr int64_t kGroup = 4;        // tokens that share each read of the basis
constexpr int64_t kCandidates = 32;  // candidates of one piece of work
constexpr int64_t kManyTokens = 16;  // from here on a piece widens the basis once

// One token to rebuild.
struct Token {
  int64_t row;
  int64_t position;
  std::byte* out;
};

using Doubles [[gnu::vector_size(64)]] = double;
using Longs [[gnu::vector_size(64)]] = int64_t;
using Floats [[gnu::vector_size(32)]] = float;
constexpr int64_t kDoubles = 8;

// Cosines and sines of eight angles of up to 2^40; absolute error below 1e-15 for angles up to 2^21.
SHADOWKV_INLINE void turn_eight(const Doubles& angle, Doubles& cosine, Doubles& sine) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  constexpr double kHalfPiHigh = 1.57079632673412561417e+00, kHalfPiLow = 6.07710050650619224932e-11;
  const Doubles shifted = angle * 0.63661977236758134308 + kRound;
  const Longs quadrant = reinterpret_cast<Longs>(shifted);
  const Doubles n = shifted - kRound;
  const Doubles r = (angle - n * kHalfPiHigh) - n * kHalfPiLow, z = r * r;
  Doubles s = z * -7.6471637318198164759e-13 + 1.6059043836821614599e-10;
  s = s * z - 2.5052108385441718775e-08;
  s = s * z + 2.7557319223985890653e-06;
  s = s * z - 1.9841269841269841270e-04;
  s = s * z + 8.3333333333333333333e-03;
  s = s * z - 1.6666666666666666667e-01;
  s = s * z * r + r;
  Doubles c = z * 4.7794773323873852974e-14 - 1.1470745597729724714e-11;
  c = c * z + 2.0876756987868098979e-09;
  c = c * z - 2.7557319223985890653e-07;
  c = c * z + 2.4801587301587301587e-05;
  c = c * z - 1.3888888888888888889e-03;
  c = c * z + 4.1666666666666666667e-02;
  c = c * z - 0.5;
  c = c * z + 1.0;
  const Longs odd = (quadrant & 1) != 0;
  const Longs cosine_sign = ((quadrant + 1) & 2) << 62, sine_sign = (quadrant & 2) << 62;
  const Longs c_bits = reinterpret_cast<Longs>(c), s_bits = reinterpret_cast<Longs>(s);
  cosine = reinterpret_cast<Doubles>(((odd & s_bits) | (~odd & c_bits)) ^ cosine_sign);
  sine = reinterpret_cast<Doubles>(((odd & c_bits) | (~odd & s_bits)) ^ sine_sign);
}

// Cosines and sines of position * inv_freq, in float64 throughout (angles reach millions). There is room for
// whole eights of both.
SHADOWKV_INLINE void turn_of(int64_t position, const float* frequencies, int64_t half, float* cosines,
                             float* sines) {
  const double place = static_cast<double>(position);
  for (int64_t i = 0; i < half; i += kDoubles) {
    Floats frequency{};
    if (i + kDoubles <= half) {
      std::memcpy(&frequency, frequencies + i, sizeof(frequency));
    } else {
      for (int64_t j = 0; i + j < half; ++j) frequency[j] = frequencies[i + j];
    }
    Doubles cosine, sine;
    turn_eight(__builtin_convertvector(frequency, Doubles) * place, cosine, sine);
    const Floats c = __builtin_convertvector(cosine, Floats), s = __builtin_convertvector(sine, Floats);
    std::memcpy(cosines + i, &c, sizeof(c));
    std::memcpy(sines + i, &s, sizeof(s));
  }
}

SHADOWKV_INLINE void turn(const float* cosines, const float* sines, const RopeView& rope, float* x) {
  const int64_t half = rope.rotary_dim / 2;
  const int64_t step = rope.interleaved ? 2 : 1, apart = rope.interleaved ? 1 : half;
  int64_t i = 0;
  for (; !rope.interleaved && i + kLanes <= half; i += kLanes) {
    Lanes a, b, c, s;
    load(x + i, a);
    load(x + half + i, b);
    load(cosines + i, c);
    load(sines + i, s);
    store(a * c - b * s, x + i);
    store(b * c + a * s, x + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i * step], b = x[i * step + apart];
    x[i * step] = a * cosines[i] - b * sines[i];
    x[i * step + apart] = b * cosines[i] + a * sines[i];
  }
}

// out[t][column ..] = mean + factors[t] . basis for kGroup tokens and 16 * kVectors columns.
template <int kVectors, typename Basis>
SHADOWKV_INLINE void rebuild_columns(const float* factors, int64_t rank, const Basis* basis, int64_t width,
                                     const float* mean, float* out, int64_t out_stride) {
  Lanes sums[kGroup][kVectors], b[kVectors];
  SHADOWKV_UNROLL
  for (int v = 0; v < kVectors; ++v) load(mean + v * kLanes, b[v]);
  SHADOWKV_UNROLL
  for (auto& token : sums) {
    SHADOWKV_UNROLL
    for (int v = 0; v < kVectors; ++v) token[v] = b[v];
  }
  for (int64_t r = 0; r < rank; ++r) {
    SHADOWKV_UNROLL
    for (int v = 0; v < kVectors; ++v) load(basis + r * width + v * kLanes, b[v]);
    SHADOWKV_UNROLL
    for (int64_t t = 0; t < kGroup; ++t) {
      SHADOWKV_UNROLL
      for (int v = 0; v < kVectors; ++v) sums[t][v] += b[v] * factors[t * rank + r];
    }
  }
  SHADOWKV_UNROLL
  for (int64_t t = 0; t < kGroup; ++t) {
    SHADOWKV_UNROLL
    for (int v = 0; v < kVectors; ++v) store(sums[t][v], out + t * out_stride + v * kLanes);
  }
}

// width: numbers from one row of the basis to the next.
template <typename Basis>
SHADOWKV_INLINE void rebuild_head(const float* factors, int64_t rank, const Basis* basis, int64_t width,
                                  const float* mean, int64_t head_dim, float* out) {
  int64_t column = 0;
  for (; column + 4 * kLanes <= head_dim; column += 4 * kLanes) {
    rebuild_columns<4>(factors, rank, basis + column, width, mean + column, out + column, head_dim);
  }
  for (; column + kLanes <= head_dim; column += kLanes) {
    rebuild_columns<1>(factors, rank, basis + column, width, mean + column, out + column, head_dim);
  }
  for (; column < head_dim; ++column) {
    for (int64_t t = 0; t < kGroup; ++t) {
      float sum = mean[column];
      for (int64_t r = 0; r < rank; ++r)
        sum += static_cast<float>(basis[r * width + column]) * factors[t * rank + r];
      out[t * head_dim + column] = sum;
    }
  }
}

// Working memory of one piece of work.
struct Workspace {
  std::vector<float> factors, keys, cosines, sines;
  std::vector<float> basis;            // [rank, head_dim] of the head, where it is widened; else empty
  const std::byte* widened = nullptr;  // the segment's that it is of

  Workspace(const RebuildKeysParams& p, int64_t tokens)
      : factors(static_cast<std::size_t>(kGroup * p.rank)),
        keys(static_cast<std::size_t>(kGroup * p.head_dim)),
        cosines(static_cast<std::size_t>(round_up(p.rope.rotary_dim / 2, kDoubles))),
        sines(cosines.size()),
        basis(tokens < kManyTokens ? 0 : static_cast<std::size_t>(p.rank * p.head_dim)) {}
};

// KV head g's columns of a segment's basis.
SHADOWKV_INLINE void widen_basis(const RebuildKeysParams& p, const std::byte* numbers, int64_t g,
                                 Workspace& space) {
  if (space.widened == numbers) return;
  space.widened = numbers;
  const int64_t item = size_of(p.basis.dtype), width = p.out.shape[1] * p.head_dim;
  for (int64_t r = 0; r < p.rank; ++r) {
    read_row(numbers + (r * width + g * p.head_dim) * item, p.basis.dtype, p.head_dim,
             space.basis.data() + r * p.head_dim);
  }
}

// space.keys = mean + space.factors . basis, of the segment that the token lies in.
SHADOWKV_INLINE void multiply_group(const RebuildKeysParams& p, const Token& token, int64_t g,
                                    Workspace& space) {
  const int64_t width = p.out.shape[1] * p.head_dim;
  const auto* mean = reinterpret_cast<const float*>(p.mean.at(token.row, 0, token.position)) + g * p.head_dim;
  const std::byte* numbers = p.basis.at(token.row, 0, token.position);
  if (!space.basis.empty()) {
    widen_basis(p, numbers, g, space);
    return rebuild_head(space.factors.data(), p.rank, space.basis.data(), p.head_dim, mean, p.head_dim,
                        space.keys.data());
  }
  with_numbers(numbers, p.basis.dtype, [&](const auto* basis) SHADOWKV_LAMBDA_INLINE {
    rebuild_head(space.factors.data(), p.rank, basis + g * p.head_dim, width, mean, p.head_dim,
                 space.keys.data());
  });
}

// Rebuilds `count` <= kGroup tokens of one segment for KV head g.
SHADOWKV_INLINE void rebuild_group(const RebuildKeysParams& p, const Token* tokens, int64_t count, int64_t g,
                                   Workspace& space) {
  for (int64_t t = 0; t < count; ++t) {
    read_quantized(p.factors, tokens[t].row, 0, tokens[t].position, p.rank,
                   space.factors.data() + t * p.rank);
  }
  multiply_group(p, tokens[0], g, space);
  const float* frequencies = p.rope.frequencies(tokens[0].row);
  for (int64_t t = 0; t < count; ++t) {
    float* key = space.keys.data() + t * p.head_dim;
    turn_of(tokens[t].position, frequencies, p.rope.rotary_dim / 2, space.cosines.data(), space.sines.data());
    turn(space.cosines.data(), space.sines.data(), p.rope, key);
    write_row(key, p.head_dim, p.out.dtype, tokens[t].out);
  }
}

// Tokens of entries [first, last) of the list of sequence b and KV head g.
std::vector<Token> tokens_to_rebuild(const RebuildKeysParams& p, int64_t b, int64_t g, int64_t first,
                                     int64_t last) {
  const int64_t heads = p.out.shape[1], candidates = p.out.shape[2];
  const int64_t base = (b * heads + g) * candidates;
  const int64_t token_bytes = p.head_dim * size_of(p.out.dtype);
  const auto* missing = p.missing.as<int32_t>() + 2 * base;
  std::vector<Token> tokens;
  tokens.reserve(static_cast<std::size_t>((last - first) * p.chunk));
  for (int64_t i = first; i < last && missing[2 * i] >= 0; ++i) {
    const int64_t candidate = base + missing[2 * i], chunk = missing[2 * i + 1];
    for (int64_t t = 0; t < p.chunk; ++t) {
      tokens.push_back(
          {p.batch.rows[b], chunk * p.chunk + t, p.out.data + (candidate * p.chunk + t) * token_bytes});
    }
  }
  return tokens;
}

void fetch_factors(const RebuildKeysParams& p, const Token& token) {
  fetch_ahead(p.factors.data.at(token.row, 0, token.position), p.factors.data.token_bytes);
  if (p.factors.data.dtype == DType::i8) fetch_ahead(p.factors.scales.at(token.row, 0, token.position), 1);
}

bool same_segment(const RebuildKeysParams& p, const Token& a, const Token& b) {
  return p.mean.at(a.row, 0, a.position) == p.mean.at(b.row, 0, b.position) &&
         p.basis.at(a.row, 0, a.position) == p.basis.at(b.row, 0, b.position);
}

}  // namespace

void rebuild_keys(Queue& queue, const RebuildKeysParams& p) {
  const int64_t heads = p.out.shape[1], candidates = p.out.shape[2];
  const int64_t pieces = ceil_div(candidates, kCandidates);
  const int64_t cost = kCandidates * p.chunk * p.rank * p.head_dim / 32;
  for_pieces(queue, p.batch.size * heads * pieces, cost, [&](int64_t i) {
    const int64_t b = i / pieces / heads, g = i / pieces % heads, first = i % pieces * kCandidates;
    const std::vector<Token> tokens =
        tokens_to_rebuild(p, b, g, first, std::min(first + kCandidates, candidates));
    if (tokens.empty()) return;
    const auto end = static_cast<int64_t>(tokens.size());
    Workspace space(p, end);
    for (int64_t t = 0; t < end;) {
      const Token* group = tokens.data() + t;
      for (int64_t ahead = t + kGroup; ahead < std::min(end, t + 2 * kGroup); ++ahead) {
        fetch_factors(p, tokens[static_cast<std::size_t>(ahead)]);
      }
      int64_t count = 1;
      while (count < kGroup && t + count < end && same_segment(p, group[0], group[count])) ++count;
      run_best([&]() SHADOWKV_LAMBDA_INLINE { rebuild_group(p, group, count, g, space); });
      t += count;
    }
  });
}

}  // namespace shadowkv::cpu
