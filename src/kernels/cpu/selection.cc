#include <algorithm>
#include <array>
#include <functional>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/choose.h"
#include "kernels/cpu/scores.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/storage.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// Log-sum-exp of n scores; -infinity when all are. `scratch`: room for n numbers.
SHADOWKV_INLINE float log_sum_exp(const float* scores, int64_t n, float* scratch) {
  const float largest = max_of(scores, n);
  if (largest == kNone) return kNone;
  for (int64_t i = 0; i < n; ++i) scratch[i] = scores[i] - largest;
  return largest + std::log(exp_sum(scratch, n));
}

// The same from the scores' spans.
float log_sum_exp_of_spans(const float* spans, int64_t count) {
  float largest = kNone, sum = 0.0f;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, spans[2 * i]);
  if (largest == kNone) return kNone;
  for (int64_t i = 0; i < count; ++i) {
    if (spans[2 * i] > kNone) sum += spans[2 * i + 1] * std::exp(spans[2 * i] - largest);
  }
  return largest + std::log(sum);
}

// lses: of the group's heads.
SHADOWKV_INLINE void rank_group(const float* scores, const float* lses, int64_t group, int64_t n,
                                float* ranking) {
  for (int64_t i = 0; i < n; ++i) ranking[i] = kNone;
  for (int64_t h = 0; h < group; ++h) {
    const float* head = scores + h * n;
    if (lses[h] == kNone) continue;
    for (int64_t i = 0; i < n; ++i) {
      const float share = head[i] - lses[h];
      ranking[i] = share > ranking[i] ? share : ranking[i];
    }
  }
}

// Unsigned numbers in the order of floats; -0 and 0 are one. 0 stands for -infinity and NaN.
SHADOWKV_INLINE uint32_t order_of(float x) {
  const auto bits = std::bit_cast<uint32_t>(x + 0.0f);
  const uint32_t order = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return x > kNone ? order : 0u;
}

// The k-th largest of the orders that are not 0 (k from 1 to how many there are), and how many are larger.
struct Threshold {
  uint32_t order;
  int64_t larger;
};

Threshold threshold_of(const uint32_t* orders, int64_t n, int64_t k) {
  constexpr int kShift = 20;
  std::array<int32_t, std::size_t{1} << (32 - kShift)> counts{};
  for (int64_t i = 0; i < n; ++i) ++counts[orders[i] >> kShift];
  std::size_t bin = counts.size() - 1;
  int64_t larger = 0;
  for (; larger + counts[bin] < k; --bin) larger += counts[bin];
  std::vector<uint32_t> members;
  members.reserve(static_cast<std::size_t>(counts[bin]));
  for (int64_t i = 0; i < n; ++i) {
    if (orders[i] >> kShift == bin) members.push_back(orders[i]);
  }
  const auto nth = members.begin() + (k - larger - 1);
  std::nth_element(members.begin(), nth, members.end(), std::greater<>());
  larger += std::count_if(members.begin(), nth, [&](uint32_t order) { return order > *nth; });
  return {*nth, larger};
}

void choose(const float* ranking, int64_t n, int64_t limit, int32_t* chosen, int64_t room) {
  std::vector<uint32_t> orders(static_cast<std::size_t>(n));
  int64_t open = 0;
  run_best([&]() SHADOWKV_LAMBDA_INLINE {
    for (int64_t i = 0; i < n; ++i) orders[static_cast<std::size_t>(i)] = order_of(ranking[i]);
    for (int64_t i = 0; i < n; ++i) open += orders[static_cast<std::size_t>(i)] != 0 ? 1 : 0;
  });
  const int64_t wanted = std::min({limit, open, room});
  int64_t count = 0;
  if (wanted > 0) {
    const Threshold least = threshold_of(orders.data(), n, wanted);
    int64_t equals = wanted - least.larger;
    for (int64_t i = 0; i < n && count < wanted; ++i) {
      const uint32_t order = orders[static_cast<std::size_t>(i)];
      if (order < least.order || (order == least.order && equals-- <= 0)) continue;
      chosen[count++] = static_cast<int32_t>(i);
    }
  }
  std::fill(chosen + count, chosen + room, -1);
}

// A candidate's keys: in its slot, or rebuilt.
struct Keys {
  const std::byte* data;
  DType dtype;
};

Keys keys_of(const CandidateScoresParams& p, int64_t b, int64_t g, int64_t candidate) {
  const int64_t entry = (b * p.slots.kv_heads + g) * p.chunks.shape[2] + candidate;
  const int64_t slot = p.found.as<int32_t>()[entry];
  if (slot >= 0) return {p.slots.keys(p.batch.rows[b], g, slot), p.slots.dtype};
  return {p.rebuilt.data + entry * p.rebuilt.shape[3] * size_of(p.rebuilt.dtype), p.rebuilt.dtype};
}

// Candidates [first, last); those that there are not get products of 0, whose scores are then replaced.
SHADOWKV_INLINE void score_candidates(const CandidateScoresParams& p, int64_t b, int64_t g, int64_t first,
                                      int64_t last) {
  const int64_t heads = p.q.shape[1], group = heads / p.slots.kv_heads, candidates = p.chunks.shape[2];
  const int64_t head_dim = p.slots.head_dim, chunk = p.slots.chunk, head = b * heads + g * group;
  const int64_t count = last - first, stride = count * chunk;
  const int32_t* ids = p.chunks.as<int32_t>() + (b * p.slots.kv_heads + g) * candidates + first;
  std::vector<float> scratch(static_cast<std::size_t>(group * (head_dim + stride) + count));
  float* q = scratch.data();
  float* dots = q + group * head_dim;
  for (int64_t i = 0; i < group * head_dim; ++i) q[i] = p.scale * p.q.as<float>()[head * head_dim + i];
  for (int64_t i = 0; i < count; ++i) {
    if (i + 1 < count && ids[i + 1] >= 0) {
      const Keys next = keys_of(p, b, g, first + i + 1);
      fetch_ahead(next.data, chunk * head_dim * size_of(next.dtype));
    }
    if (ids[i] < 0) continue;
    const Keys keys = keys_of(p, b, g, first + i);
    vector_ops().dot_block({.x = q,
                            .x_stride = head_dim,
                            .rows = group,
                            .w = {keys.data, head_dim * size_of(keys.dtype), keys.dtype},
                            .outputs = chunk,
                            .k = head_dim,
                            .out = dots + i * chunk,
                            .out_stride = stride,
                            .add = false});
  }
  for (int64_t h = 0; h < group; ++h) {
    float* scores = p.scores.as<float>() + (head + h) * candidates + first;
    chunk_log_sum_exp(dots + h * stride, count, chunk, dots + group * stride, scores);
    for (int64_t i = 0; i < count; ++i) scores[i] = ids[i] < 0 ? kNone : scores[i];
  }
}

}  // namespace

void rank_groups(Queue& queue, const RankGroupsParams& p) {
  const int64_t kv_heads = p.ranking.shape[1], group = p.scores.shape[1] / kv_heads, n = p.scores.shape[2];
  for_pieces(queue, p.scores.shape[0] * kv_heads, group * n, [&](int64_t i) {
    std::vector<float> scratch(static_cast<std::size_t>(n + group));
    run_best([&]() SHADOWKV_LAMBDA_INLINE {
      const float* scores = p.scores.as<float>() + i * group * n;
      float* lses = scratch.data() + n;
      for (int64_t h = 0; h < group; ++h) lses[h] = log_sum_exp(scores + h * n, n, scratch.data());
      rank_group(scores, lses, group, n, p.ranking.as<float>() + i * n);
    });
  });
}

void top_k(Queue& queue, const TopKParams& p) {
  const int64_t heads = p.ranking.shape[1], n = p.ranking.shape[2], room = p.chosen.shape[2];
  for_pieces(queue, p.ranking.shape[0] * heads, 3 * n + 2000, [&](int64_t i) {
    choose(p.ranking.as<float>() + i * n, n, p.limits[i / heads], p.chosen.as<int32_t>() + i * room, room);
  });
}

int64_t choosing_cost(const ChooseGroupsParams& p) {
  const int64_t group = p.scores.shape[1] / p.chosen.shape[1];
  return (group + 3) * p.scores.shape[2] + 2000;
}

void choose_group(const ChooseGroupsParams& p, int64_t head) {
  const int64_t kv_heads = p.chosen.shape[1], group = p.scores.shape[1] / kv_heads, n = p.scores.shape[2],
                room = p.chosen.shape[2];
  std::vector<float> ranking(static_cast<std::size_t>(n));
  const float* scores = p.scores.as<float>() + head * group * n;
  float* lses = p.lse.as<float>() + head * group;
  run_best([&]() SHADOWKV_LAMBDA_INLINE {
    for (int64_t h = 0; h < group; ++h) {
      lses[h] = p.spans.empty()
                    ? log_sum_exp(scores + h * n, n, ranking.data())
                    : log_sum_exp_of_spans(p.spans.as<float>() + (head * group + h) * p.spans.shape[2] * 2,
                                           p.spans.shape[2]);
    }
    rank_group(scores, lses, group, n, ranking.data());
  });
  choose(ranking.data(), n, p.limits[head / kv_heads], p.chosen.as<int32_t>() + head * room, room);
}

void choose_groups(Queue& queue, const ChooseGroupsParams& p) {
  for_pieces(queue, p.chosen.shape[0] * p.chosen.shape[1], choosing_cost(p),
             [&](int64_t head) { choose_group(p, head); });
}

void candidate_scores(Queue& queue, const CandidateScoresParams& p) {
  constexpr int64_t kPiece = 32;  // candidates
  const int64_t kv_heads = p.slots.kv_heads, candidates = p.chunks.shape[2],
                pieces = ceil_div(candidates, kPiece);
  const int64_t cost = kPiece * p.slots.chunk * (p.q.shape[1] / kv_heads) * (2 + p.slots.head_dim / 16);
  for_pieces(queue, p.batch.size * kv_heads * pieces, cost, [&](int64_t i) {
    const int64_t first = i % pieces * kPiece;
    run_best([&]() SHADOWKV_LAMBDA_INLINE {
      score_candidates(p, i / pieces / kv_heads, i / pieces % kv_heads, first,
                       std::min(candidates, first + kPiece));
    });
  });
}

void rebuild_and_score(Queue& queue, const RebuildAndScoreParams& p) {
  cpu::rebuild_keys(queue, p.rebuild);
  cpu::candidate_scores(queue, p.score());
}

}  // namespace shadowkv::cpu
