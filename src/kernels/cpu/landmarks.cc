#include <algorithm>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/spans.h"
#include "kernels/cpu/storage.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// mean of `count` keys that lie `stride` numbers apart.
void mean_of(const float* keys, int64_t count, int64_t stride, int64_t head_dim, float* mean) {
  std::fill(mean, mean + head_dim, 0.0f);
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t d = 0; d < head_dim; ++d) mean[d] += keys[t * stride + d];
  }
  const float share = 1.0f / static_cast<float>(count);
  for (int64_t d = 0; d < head_dim; ++d) mean[d] *= share;
}

// Cosine of the angle between two keys; 1 when either is zero, which no angle describes.
float cosine(const float* a, const float* b, int64_t n) {
  const float lengths = std::sqrt(dot(a, a, n)) * std::sqrt(dot(b, b, n));
  return lengths > 0.0f ? dot(a, b, n) / lengths : 1.0f;
}

}  // namespace

void chunk_means(Queue& queue, const ChunkMeansParams& p) {
  constexpr int64_t kPiece = 64;  // chunks
  const int64_t heads = p.k.shape[1], head_dim = p.k.shape[2], chunks = p.k.shape[0] / p.chunk;
  const int64_t stride = heads * head_dim;
  for_pieces(queue, ceil_div(chunks, kPiece) * heads, kPiece * p.chunk * head_dim, [&](int64_t i) {
    const int64_t g = i % heads, first = i / heads * kPiece;
    std::vector<float> mean(static_cast<std::size_t>(head_dim));
    for (int64_t c = first; c < std::min(chunks, first + kPiece); ++c) {
      const float* keys = p.k.as<float>() + c * p.chunk * stride + g * head_dim;
      mean_of(keys, p.chunk, stride, head_dim, mean.data());
      store_row(p.means, p.row, g, p.first_chunk + c, mean.data(), head_dim);
      if (p.min_cosine.empty()) continue;
      float least = 1.0f;
      for (int64_t t = 0; t < p.chunk; ++t)
        least = std::min(least, cosine(keys + t * stride, mean.data(), head_dim));
      p.min_cosine.as<float>()[g * chunks + c] = least;
    }
  });
}

void update_means(Queue& queue, const UpdateMeansParams& p) {
  const ResidentView& resident = p.resident;
  const int64_t heads = resident.kv_heads, head_dim = resident.head_dim;
  for_pieces(queue, p.batch.size * heads, resident.chunk * head_dim, [&](int64_t i) {
    const int64_t row = p.batch.rows[i / heads], g = i % heads, tokens = p.batch.tokens[i / heads];
    if (tokens <= 0) return;
    const int64_t chunk = (tokens - 1) / resident.chunk, count = tokens - chunk * resident.chunk;
    std::vector<float> keys(static_cast<std::size_t>(resident.chunk * head_dim));
    std::vector<float> mean(static_cast<std::size_t>(head_dim));
    for (int64_t t = 0; t < count; ++t) {
      const int64_t position = chunk * resident.chunk + t;
      const int64_t entry = chunk == 0 ? position : resident.ring_entry(row, position);
      read_row(resident.keys(row, g, entry), resident.dtype, head_dim, keys.data() + t * head_dim);
    }
    mean_of(keys.data(), count, head_dim, head_dim, mean.data());
    store_row(p.means, row, g, chunk, mean.data(), head_dim);
  });
}

void landmark_scores(Queue& queue, const LandmarkScoresParams& p) {
  constexpr int64_t kPiece = 256;  // chunks
  const int64_t heads = p.q.shape[1], group = heads / p.kv_heads, head_dim = p.q.shape[2],
                all = p.scores.shape[2];
  const int64_t pieces = ceil_div(all, kPiece);
  for (int64_t b = 0; b < p.batch.size; ++b) {
    const int64_t sealed = sealed_chunks(p.batch.tokens[b], p.chunk, p.local_window);
    require(sealed <= all || sealed == 1,
            "landmark_scores: sequence {} has {} sealed chunks, but scores are {}", b, sealed,
            p.scores.describe());
  }
  for_pieces(queue, p.batch.size * p.kv_heads * pieces, kPiece * group * head_dim / 8, [&](int64_t i) {
    const int64_t b = i / pieces / p.kv_heads, g = i / pieces % p.kv_heads;
    const int64_t first = i % pieces * kPiece, last = std::min(all, first + kPiece);
    const int64_t sealed = sealed_chunks(p.batch.tokens[b], p.chunk, p.local_window);
    const int64_t head = b * heads + g * group;
    std::vector<float> mean(static_cast<std::size_t>(head_dim));
    run_best([&]() SHADOWKV_LAMBDA_INLINE {
      for (int64_t c = first; c < last; ++c) {
        float* scores = p.scores.as<float>() + head * all + c;
        const bool open = c >= 1 && c < sealed;
        if (open) read_quantized(p.means, p.batch.rows[b], g, c, head_dim, mean.data());
        for (int64_t h = 0; h < group; ++h) {
          const float* q = p.q.as<float>() + (head + h) * head_dim;
          scores[h * all] = open ? p.scale * dot(q, mean.data(), head_dim) : kNone;
        }
      }
    });
  });
  sum_all_spans(queue, p.scores, p.spans);
}

void mask_outliers(Queue& queue, const MaskOutliersParams& p) {
  const int64_t heads = p.scores.shape[1], kv_heads = p.resident.kv_heads, group = heads / kv_heads;
  const int64_t all = p.scores.shape[2];
  for_pieces(queue, p.batch.size * kv_heads, 64 * group, [&](int64_t i) {
    const int64_t b = i / kv_heads, g = i % kv_heads, row = p.batch.rows[b];
    const int32_t* outliers = p.resident.outlier_chunks(row, g);
    for (int64_t o = 0; o < p.resident.outliers[row]; ++o) {
      if (outliers[o] < 0 || outliers[o] >= all) continue;
      for (int64_t h = 0; h < group; ++h) {
        float* scores = p.scores.as<float>() + (b * heads + g * group + h) * all;
        scores[outliers[o]] = kNone;
        if (p.spans.empty()) continue;
        const int64_t span = outliers[o] / kSpanScores, first = span * kSpanScores;
        sum_span(scores + first, std::min(kSpanScores, all - first),
                 p.spans.as<float>() + ((b * heads + g * group + h) * p.spans.shape[2] + span) * 2);
      }
    }
  });
}

}  // namespace shadowkv::cpu
