#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/storage.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// Tokens whose keys lie side by side, and their values likewise.
struct Run {
  const std::byte* keys;
  const std::byte* values;
  int64_t tokens;
};

// The query heads of one KV head and where their results go.
struct Heads {
  const float* q;  // [heads, D]
  int64_t heads;
  int64_t head_dim;
  float scale;
  float* out;  // [heads, D]
  float* lse;  // [heads]
};

// Chunks lie far from each other: those to come are brought into the cache meanwhile.
constexpr std::size_t kRunsAhead = 4;

// Of a run's keys or values; what follows in longer ones the machine foresees.
void fetch_run(const std::byte* from, int64_t bytes) {
  constexpr int64_t kMost = 2048;
  fetch_ahead(from, std::min(bytes, kMost));
}

// weights[h * tokens + t] = q[h] . key[t]; q: the heads' queries, scaled.
void score_runs(const std::vector<Run>& runs, DType dtype, const Heads& heads, const float* q, int64_t tokens,
                float* weights) {
  int64_t at = 0;
  const int64_t bytes = heads.head_dim * size_of(dtype);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (i + kRunsAhead < runs.size())
      fetch_run(runs[i + kRunsAhead].keys, runs[i + kRunsAhead].tokens * bytes);
    const Run& run = runs[i];
    vector_ops().dot_block({.x = q,
                            .x_stride = heads.head_dim,
                            .rows = heads.heads,
                            .w = {run.keys, bytes, dtype},
                            .outputs = run.tokens,
                            .k = heads.head_dim,
                            .out = weights + at,
                            .out_stride = tokens,
                            .add = false});
    at += run.tokens;
  }
}

// Scores to weights exp(score - largest), and the log-sum-exp.
SHADOWKV_INLINE float soften(float* weights, int64_t tokens) {
  const float largest = max_of(weights, tokens);
  for (int64_t t = 0; t < tokens; ++t) weights[t] -= largest;
  const float sum = exp_sum(weights, tokens);
  const float inverse = 1.0f / sum;
  for (int64_t t = 0; t < tokens; ++t) weights[t] *= inverse;
  return largest + std::log(sum);
}

// Values of up to kValueRows tokens, as float32 side by side in rows of whole vectors.
constexpr int64_t kValueRows = 64;
// One row, and zeros up to whole vectors. widen_rows would fetch what lies behind a chunk, which is
// another's.
void widen_value(const std::byte* from, DType dtype, int64_t n, float* to) {
  vector_ops().widen(from, dtype, 1.0f, to, n);
  std::fill(to + n, to + round_up(n, kLanes), 0.0f);
}

// sums [heads, stride] = weights . values, token after token.
void add_values(const std::vector<Run>& runs, DType dtype, const Heads& heads, int64_t tokens,
                const float* weights, float* sums) {
  const int64_t n = heads.head_dim, stride = round_up(n, kLanes), bytes = n * size_of(dtype);
  const Scratch values(kValueRows * stride);
  int64_t at = 0, held = 0;  // tokens that are in the sums, and of `values`
  const auto flush = [&] {
    vector_ops().outer_block({.a = weights + at,
                              .a_stride = tokens,
                              .rows = heads.heads,
                              .b = values.data(),
                              .b_stride = stride,
                              .k = held,
                              .columns = stride,
                              .c = sums,
                              .c_stride = stride,
                              .add = at > 0});
    at += std::exchange(held, 0);
  };
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (i + kRunsAhead < runs.size())
      fetch_run(runs[i + kRunsAhead].values, runs[i + kRunsAhead].tokens * bytes);
    for (int64_t t = 0; t < runs[i].tokens; ++t) {
      widen_value(runs[i].values + t * bytes, dtype, n, values.data() + held * stride);
      if (++held == kValueRows) flush();
    }
  }
  if (held > 0) flush();
}

// Attention of one KV head's query heads over all tokens of `runs`.
void attend(const std::vector<Run>& runs, DType dtype, const Heads& heads) {
  const int64_t n = heads.head_dim, stride = round_up(n, kLanes);
  int64_t tokens = 0;
  for (const Run& run : runs) tokens += run.tokens;
  std::fill(heads.out, heads.out + heads.heads * n, 0.0f);
  std::fill(heads.lse, heads.lse + heads.heads, kNone);
  if (tokens == 0) return;
  const Scratch q(heads.heads * n), weights(heads.heads * tokens), sums(heads.heads * stride);
  for (int64_t i = 0; i < heads.heads * n; ++i) q.data()[i] = heads.scale * heads.q[i];
  score_runs(runs, dtype, heads, q.data(), tokens, weights.data());
  run_best([&]() SHADOWKV_LAMBDA_INLINE {
    for (int64_t h = 0; h < heads.heads; ++h) heads.lse[h] = soften(weights.data() + h * tokens, tokens);
  });
  add_values(runs, dtype, heads, tokens, weights.data(), sums.data());
  for (int64_t h = 0; h < heads.heads; ++h) std::copy_n(sums.data() + h * stride, n, heads.out + h * n);
}

template <typename Params>
Heads heads_of(const Params& p, int64_t b, int64_t g, int64_t kv_heads) {
  const int64_t heads = p.q.shape[1], group = heads / kv_heads, n = p.q.shape[2],
                first = b * heads + g * group;
  return {p.q.template as<float>() + first * n, group, n, p.scale, p.out.template as<float>() + first * n,
          p.lse.template as<float>() + first};
}

Run resident_run(const ResidentView& resident, int64_t row, int64_t head, int64_t entry, int64_t tokens) {
  return {resident.keys(row, head, entry), resident.values(row, head, entry), tokens};
}

// First chunk, outlier chunks, and what the ring holds of positions from the first unsealed one on.
std::vector<Run> resident_runs(const ResidentView& resident, int64_t row, int64_t head, int64_t tokens) {
  const int64_t chunk = resident.chunk, outliers = resident.outliers[row];
  std::vector<Run> runs{resident_run(resident, row, head, 0, std::min(tokens, chunk))};
  const int32_t* ids = resident.outlier_chunks(row, head);
  for (int64_t i = 0; i < outliers; ++i) {
    if (ids[i] >= 0) runs.push_back(resident_run(resident, row, head, chunk * (1 + i), chunk));
  }
  for (int64_t p = sealed_chunks(tokens, chunk, resident.local_window) * chunk; p < tokens;) {
    const int64_t count = std::min(tokens - p, resident.ring_tokens - p % resident.ring_tokens);
    runs.push_back(resident_run(resident, row, head, resident.ring_entry(row, p), count));
    p += count;
  }
  return runs;
}

std::vector<Run> slot_runs(const SlotAttentionParams& p, int64_t bg) {
  const SlotView& slots = p.slots;
  const int64_t row = p.batch.rows[bg / slots.kv_heads], g = bg % slots.kv_heads,
                entries = p.assigned.shape[2];
  std::vector<Run> runs;
  runs.reserve(static_cast<std::size_t>(entries));
  for (int64_t i = bg * entries; i < (bg + 1) * entries; ++i) {
    const int64_t slot = p.assigned.as<int32_t>()[i];
    if (slot >= 0) runs.push_back({slots.keys(row, g, slot), slots.values(row, g, slot), slots.chunk});
  }
  return runs;
}

// kept = the attention over both parts' tokens together, of query head h; to the bit as it was where own is
// over no token.
void merge_head(const Heads& own, int64_t h, const Heads& kept) {
  const int64_t n = kept.head_dim;
  const float* a = own.out + h * n;
  float* to = kept.out + h * n;
  const float lse_a = own.lse[h], lse_b = kept.lse[h];
  if (lse_a == kNone) return;
  if (lse_b == kNone) {
    std::copy_n(a, n, to);
    kept.lse[h] = lse_a;
    return;
  }
  // Shares of both parts, from their difference alone.
  const float share_b = 1.0f / (1.0f + std::exp(lse_a - lse_b)),
              share_a = 1.0f / (1.0f + std::exp(lse_b - lse_a));
  for (int64_t d = 0; d < n; ++d) to[d] = a[d] * share_a + to[d] * share_b;
  kept.lse[h] = std::max(lse_a, lse_b) + std::log1p(std::exp(-std::abs(lse_a - lse_b)));
}

}  // namespace

void store_resident(Queue& queue, const StoreResidentParams& p) {
  const ResidentView& resident = p.resident;
  const int64_t heads = resident.kv_heads, n = resident.head_dim;
  for_pieces(queue, p.tokens.count, heads * n / 4, [&](int64_t t) {
    const int64_t row = p.tokens.rows[t], position = p.tokens.positions[t];
    const int64_t entry = position < resident.chunk ? position : resident.ring_entry(row, position);
    for (int64_t g = 0; g < heads; ++g) {
      const int64_t from = (t * heads + g) * n;
      write_row(p.k.as<float>() + from, n, resident.dtype, resident.keys(row, g, entry));
      write_row(p.v.as<float>() + from, n, resident.dtype, resident.values(row, g, entry));
    }
  });
}

void store_outliers(Queue& queue, const StoreOutliersParams& p) {
  const ResidentView& resident = p.resident;
  const int64_t heads = resident.kv_heads, n = resident.head_dim, count = p.chunks.shape[2],
                chunk = resident.chunk;
  require(p.first_entry + count <= resident.outliers[p.row],
          "store_outliers: entries [{}, {}) were asked for, but sequence row {} has room for {}",
          p.first_entry, p.first_entry + count, p.row, resident.outliers[p.row]);
  for (int64_t i = 0; i < heads * count; ++i) {
    const int64_t id = p.chunks.as<int32_t>()[i];
    require(id < 0 || (id + 1) * chunk <= p.k.shape[0], "store_outliers: chunk {} was asked for, but k is {}",
            id, p.k.describe());
  }
  for_pieces(queue, heads * count, chunk * n / 4, [&](int64_t i) {
    const int64_t g = i / count, entry = p.first_entry + i % count;
    const int32_t id = p.chunks.as<int32_t>()[i];
    resident.outlier_chunks(p.row, g)[entry] = id < 0 ? -1 : id;
    for (int64_t t = 0; id >= 0 && t < chunk; ++t) {
      const int64_t from = ((id * chunk + t) * heads + g) * n, to = chunk * (1 + entry) + t;
      write_row(p.k.as<float>() + from, n, resident.dtype, resident.keys(p.row, g, to));
      write_row(p.v.as<float>() + from, n, resident.dtype, resident.values(p.row, g, to));
    }
  });
}

void resident_attention(Queue& queue, const ResidentAttentionParams& p) {
  const int64_t kv_heads = p.resident.kv_heads;
  const int64_t cost = p.resident.ring_tokens * (p.q.shape[1] / kv_heads) * p.q.shape[2] / 8;
  for_pieces(queue, p.batch.size * kv_heads, cost, [&](int64_t i) {
    const int64_t b = i / kv_heads, g = i % kv_heads;
    attend(resident_runs(p.resident, p.batch.rows[b], g, p.batch.tokens[b]), p.resident.dtype,
           heads_of(p, b, g, kv_heads));
  });
}

void slot_attention(Queue& queue, const SlotAttentionParams& p) {
  const int64_t kv_heads = p.slots.kv_heads, entries = p.assigned.shape[2];
  const int64_t cost = entries * p.slots.chunk * (p.q.shape[1] / kv_heads) * p.slots.head_dim / 8;
  for_pieces(queue, p.batch.size * kv_heads, cost, [&](int64_t i) {
    const int64_t b = i / kv_heads, g = i % kv_heads;
    const Heads kept = heads_of(p, b, g, kv_heads);
    std::vector<float> out(static_cast<std::size_t>(kept.heads * kept.head_dim));
    std::vector<float> lse(static_cast<std::size_t>(kept.heads));
    Heads own = kept;
    own.out = out.data();
    own.lse = lse.data();
    attend(slot_runs(p, i), p.slots.dtype, own);
    for (int64_t h = 0; h < kept.heads; ++h) merge_head(own, h, kept);
  });
}

}  // namespace shadowkv::cpu
