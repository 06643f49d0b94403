#include <algorithm>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/spans.h"
#include "kernels/cpu/storage.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Least and largest numbers of keys seen so far, [2, head_dim].
class Bounds {
 public:
  explicit Bounds(int64_t head_dim) : n_(head_dim), numbers_(static_cast<std::size_t>(2 * head_dim)) {}

  void clear() {
    std::fill(numbers_.begin(), numbers_.begin() + n_, kInfinity);
    std::fill(numbers_.begin() + n_, numbers_.end(), -kInfinity);
  }
  void add(const float* key) {
    float* least = numbers_.data();
    float* largest = least + n_;
    for (int64_t d = 0; d < n_; ++d) {
      least[d] = std::min(least[d], key[d]);
      largest[d] = std::max(largest[d], key[d]);
    }
  }
  void store(const PagedView& to, int64_t row, int64_t head, int64_t chunk) const {
    write_row(numbers_.data(), 2 * n_, to.dtype, to.at(row, head, chunk));
  }

 private:
  int64_t n_;
  std::vector<float> numbers_;
};

// q of one head as a row that a product with bounds takes: what is negative meets the least numbers, the rest
// the largest.
void split_signs(const float* q, int64_t n, float* split) {
  for (int64_t d = 0; d < n; ++d) {
    split[d] = std::min(q[d], 0.0f);
    split[n + d] = std::max(q[d], 0.0f);
  }
}

}  // namespace

void chunk_bounds(Queue& queue, const ChunkBoundsParams& p) {
  constexpr int64_t kPiece = 64;  // chunks
  const int64_t heads = p.k.shape[1], head_dim = p.k.shape[2], chunks = p.k.shape[0] / p.chunk;
  const int64_t stride = heads * head_dim;
  for_pieces(queue, ceil_div(chunks, kPiece) * heads, kPiece * p.chunk * head_dim, [&](int64_t i) {
    const int64_t g = i % heads, first = i / heads * kPiece;
    Bounds bounds(head_dim);
    for (int64_t c = first; c < std::min(chunks, first + kPiece); ++c) {
      const float* keys = p.k.as<float>() + c * p.chunk * stride + g * head_dim;
      bounds.clear();
      for (int64_t t = 0; t < p.chunk; ++t) bounds.add(keys + t * stride);
      bounds.store(p.bounds, p.row, g, p.first_chunk + c);
    }
  });
}

void update_bounds(Queue& queue, const UpdateBoundsParams& p) {
  const ResidentView& resident = p.resident;
  const int64_t heads = resident.kv_heads, head_dim = resident.head_dim;
  for_pieces(queue, p.batch.size * heads, resident.chunk * head_dim, [&](int64_t i) {
    const int64_t row = p.batch.rows[i / heads], g = i % heads, tokens = p.batch.tokens[i / heads];
    if (tokens <= 0) return;
    const int64_t chunk = (tokens - 1) / resident.chunk;
    std::vector<float> key(static_cast<std::size_t>(head_dim));
    Bounds bounds(head_dim);
    bounds.clear();
    for (int64_t position = chunk * resident.chunk; position < tokens; ++position) {
      const int64_t entry = chunk == 0 ? position : resident.ring_entry(row, position);
      read_row(resident.keys(row, g, entry), resident.dtype, head_dim, key.data());
      bounds.add(key.data());
    }
    bounds.store(p.bounds, row, g, chunk);
  });
}

void bound_scores(Queue& queue, const BoundScoresParams& p) {
  constexpr int64_t kPiece = 256;  // chunks
  const int64_t heads = p.q.shape[1], group = heads / p.kv_heads, head_dim = p.q.shape[2],
                all = p.scores.shape[2];
  const int64_t pieces = ceil_div(all, kPiece), numbers = 2 * head_dim;
  for (int64_t b = 0; b < p.batch.size; ++b) {
    const int64_t sealed = sealed_chunks(p.batch.tokens[b], p.chunk, p.local_window);
    require(sealed <= all || sealed == 1, "bound_scores: sequence {} has {} sealed chunks, but scores are {}",
            b, sealed, p.scores.describe());
  }
  for_pieces(queue, p.batch.size * p.kv_heads * pieces, kPiece * group * head_dim / 4, [&](int64_t i) {
    const int64_t b = i / pieces / p.kv_heads, g = i / pieces % p.kv_heads;
    const int64_t first = i % pieces * kPiece, last = std::min(all, first + kPiece);
    const int64_t sealed = sealed_chunks(p.batch.tokens[b], p.chunk, p.local_window);
    const int64_t head = b * heads + g * group;
    std::vector<float> bounds(static_cast<std::size_t>(numbers)),
        q(static_cast<std::size_t>(group * numbers));
    for (int64_t h = 0; h < group; ++h)
      split_signs(p.q.as<float>() + (head + h) * head_dim, head_dim, q.data() + h * numbers);
    run_best([&]() SHADOWKV_LAMBDA_INLINE {
      for (int64_t c = first; c < last; ++c) {
        float* scores = p.scores.as<float>() + head * all + c;
        const bool open = c >= 1 && c < sealed;
        if (open) read_row(p.bounds.at(p.batch.rows[b], g, c), p.bounds.dtype, numbers, bounds.data());
        for (int64_t h = 0; h < group; ++h) {
          scores[h * all] = open ? p.scale * dot(q.data() + h * numbers, bounds.data(), numbers) : -kInfinity;
        }
      }
    });
  });
  sum_all_spans(queue, p.scores, p.spans);
}

}  // namespace shadowkv::cpu
