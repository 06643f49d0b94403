#include <algorithm>
#include <limits>

#include "kernels/cpu/storage.h"
#include "kernels/logit_rows.h"
#include "kernels/twins.h"

namespace shadowkv {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

void forbid(float* logits, int64_t vocab, const uint64_t* mask) {
  for (int64_t first = 0; first < vocab; first += 64) {
    if (mask[first / 64] == ~uint64_t{0}) continue;
    for (int64_t id = first; id < std::min(first + 64, vocab); ++id) {
      if (!is_allowed(mask, id)) logits[id] = kNever;
    }
  }
}

// The likeliest tokens of a row, best first.
void find_likeliest(const float* logits, int64_t vocab, int32_t likeliest, TokenRanks& ranks) {
  int32_t found = 0;
  for (int64_t id = 0; id < vocab && likeliest > 0; ++id) {
    if (found == likeliest && logits[id] <= ranks.logits[found - 1]) continue;
    if (found < likeliest) ++found;
    int32_t place = found - 1;
    for (; place > 0 && logits[id] > ranks.logits[place - 1]; --place) {
      ranks.ids[place] = ranks.ids[place - 1];
      ranks.logits[place] = ranks.logits[place - 1];
    }
    ranks.ids[place] = static_cast<int32_t>(id);
    ranks.logits[place] = logits[id];
  }
}

}  // namespace

void change_row(float* logits, int64_t vocab, const LogitRow& row) {
  if (row.raw != nullptr) std::copy_n(logits, vocab, row.raw);
  if (row.fresh_place >= 0) row.marked[row.fresh_place] = row.fresh;
  if (row.fresh_mask != nullptr) std::copy_n(row.fresh_mask, mask_words(vocab), row.mask);
  if (row.mask != nullptr) forbid(logits, vocab, row.mask);
  for (int32_t i = 0; i < row.marked_count; ++i) {
    const MarkedToken& token = row.marked[i];
    if (row.mask != nullptr && !is_allowed(row.mask, token.id)) continue;
    logits[token.id] = changed_logit(logits[token.id], token, row.penalties);
  }
}

TokenRanks rank_row(const float* logits, int64_t vocab, int32_t id, int32_t likeliest) {
  TokenRanks ranks{.largest = *std::max_element(logits, logits + vocab), .own = logits[id]};
  for (int64_t i = 0; i < vocab; ++i) {
    ranks.weight += sampling_weight(sampling_distance(logits[i], ranks.largest, kNaturalSteepness));
  }
  find_likeliest(logits, vocab, likeliest, ranks);
  return ranks;
}

namespace cpu {

void change_logits(Queue& queue, const ChangeLogitsParams& params) {
  const int64_t vocab = params.logits.shape[1];
  for_pieces(queue, params.logits.shape[0], vocab, [&](int64_t b) {
    const LogitRow& row = params.rows[b];
    if (row.changes()) change_row(params.logits.as<float>() + b * vocab, vocab, row);
  });
}

void rank_tokens(Queue& queue, const RankTokensParams& params) {
  const int64_t vocab = params.logits.shape[1];
  for_pieces(queue, params.logits.shape[0], vocab * 4, [&](int64_t b) {
    const LogitRow& row = params.rows[b];
    if (row.likeliest < 0) return;
    const float* logits = row.raw != nullptr ? row.raw : params.logits.as<float>() + b * vocab;
    params.ranks[b] = rank_row(logits, vocab, params.ids.as<int32_t>()[b], row.likeliest);
  });
}

}  // namespace cpu
}  // namespace shadowkv
