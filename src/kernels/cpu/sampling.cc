#include <algorithm>
#include <vector>

#include "kernels/cpu/storage.h"
#include "kernels/draw_token.h"
#include "kernels/twins.h"

namespace shadowkv {
namespace {

struct Row {
  const float* logits;
  int64_t vocab;
  float largest;
  SamplingRow how;

  [[nodiscard]] uint32_t distance(int64_t id) const { return sampling_distance(logits[id], largest, how); }
  // Weight of a token that is kept, its key at most `last`.
  [[nodiscard]] uint64_t weight(int64_t id, uint64_t last) const {
    const uint32_t distance = this->distance(id);
    return sampling_key(distance, id) <= last ? sampling_weight(distance) : 0;
  }
};

// Key of the last token that is kept.
uint64_t last_kept(const Row& row, std::vector<uint64_t>& keys) {
  const bool whole = row.how.share == SamplingRow::kWholeShare;
  if (row.how.top_k == 0 && whole) return ~uint64_t{0};
  keys.clear();
  for (int64_t id = 0; id < row.vocab; ++id) {
    const uint32_t distance = row.distance(id);
    if (distance != kNoDistance) keys.push_back(sampling_key(distance, id));
  }
  const auto most = static_cast<std::size_t>(row.how.top_k);
  if (most > 0 && most < keys.size()) {
    std::nth_element(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(most) - 1, keys.end());
    keys.resize(most);
  }
  if (keys.empty()) return ~uint64_t{0};
  if (whole) return *std::max_element(keys.begin(), keys.end());
  std::sort(keys.begin(), keys.end());
  const auto weight = [](uint64_t key) { return sampling_weight(static_cast<uint32_t>(key >> 32)); };
  uint64_t total = 0, sum = 0;
  for (const uint64_t key : keys) total += weight(key);
  const uint64_t least = share_of(total, row.how.share);
  for (const uint64_t key : keys) {
    sum += weight(key);
    if (sum >= least) return key;
  }
  return keys.back();
}

}  // namespace

int32_t draw_token(const float* logits, int64_t vocab, const SamplingRow& how, std::vector<uint64_t>& keys) {
  const auto likeliest = static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
  if (how.steepness == 0.0f) return likeliest;
  const Row row{logits, vocab, logits[likeliest], how};
  const uint64_t last = last_kept(row, keys);
  uint64_t total = 0;
  for (int64_t id = 0; id < vocab; ++id) total += row.weight(id, last);
  uint64_t left = draw_below(total, how);
  for (int64_t id = 0; id < vocab; ++id) {
    const uint64_t weight = row.weight(id, last);
    if (left < weight) return static_cast<int32_t>(id);
    left -= weight;
  }
  return likeliest;  // no logit is a number above -infinity
}

int32_t draw_token(const float* logits, int64_t vocab, const SamplingRow& how) {
  std::vector<uint64_t> keys;
  return draw_token(logits, vocab, how, keys);
}

namespace cpu {

void sample_tokens(Queue& queue, const SampleTokensParams& params) {
  const int64_t vocab = params.logits.shape[1];
  for_pieces(queue, params.logits.shape[0], vocab * 4, [&](int64_t b) {
    params.ids.as<int32_t>()[b] = draw_token(params.logits.as<float>() + b * vocab, vocab, params.rows[b]);
  });
}

}  // namespace cpu
}  // namespace shadowkv
