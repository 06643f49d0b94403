#include "engine/logit_changes.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace shadowkv {
namespace {

bool counts_answer(const SamplingParams& params) {
  return params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0;
}

void set(std::vector<uint64_t>& mask, int32_t id, bool is_allowed) {
  uint64_t& word = mask[static_cast<std::size_t>(id) / 64];
  const uint64_t bit = uint64_t{1} << (id % 64);
  word = is_allowed ? word | bit : word & ~bit;
}

}  // namespace

LogitChanges::LogitChanges(const SamplingParams& params, std::span<const int32_t> prompt)
    : penalties_{.repetition = static_cast<float>(params.repetition_penalty),
                 .presence = static_cast<float>(params.presence_penalty),
                 .frequency = static_cast<float>(params.frequency_penalty)},
      likeliest_(static_cast<int32_t>(params.logprobs.value_or(-1))),
      counts_(counts_answer(params)) {
  const bool is_seen = params.repetition_penalty != 1;
  std::vector<int32_t> ids;
  if (is_seen) ids.assign(prompt.begin(), prompt.end());
  for (const auto& [id, bias] : params.logit_bias) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  marked_.reserve(ids.size());
  for (const int32_t id : ids) marked_.push_back({.id = id});
  by_id_.resize(ids.size());
  std::iota(by_id_.begin(), by_id_.end(), 0);
  const auto mark_of = [&](int32_t id) -> MarkedToken& {
    return marked_[static_cast<std::size_t>(*place_of(id))];
  };
  if (is_seen) {
    for (const int32_t id : prompt) mark_of(id).seen = 1;
  }
  for (const auto& [id, bias] : params.logit_bias) mark_of(id).bias = static_cast<float>(bias);
}

// Of another identity.
LogitChanges::LogitChanges(const LogitChanges& other)
    : penalties_(other.penalties_),
      likeliest_(other.likeliest_),
      counts_(other.counts_),
      marked_(other.marked_),
      by_id_(other.by_id_),
      mask_(other.mask_),
      version_(other.version_),
      latest_(other.latest_) {}

std::vector<int32_t>::iterator LogitChanges::place_of(int32_t id) {
  return std::lower_bound(by_id_.begin(), by_id_.end(), id, [this](int32_t place, int32_t wanted) {
    return marked_[static_cast<std::size_t>(place)].id < wanted;
  });
}

void LogitChanges::prepare(int64_t vocab) {
  if (marked_.empty() && !counts_) return;
  if (!marked_.empty()) {
    const int32_t first = marked_[static_cast<std::size_t>(by_id_.front())].id;
    const int32_t last = marked_[static_cast<std::size_t>(by_id_.back())].id;
    require(first >= 0 && last < vocab, "the prompt has tokens from {} to {}; the vocabulary has {}", first,
            last, vocab);
  }
  if (!counts_ || marked_.size() < std::min(marked_.capacity(), by_id_.capacity())) return;
  const std::size_t room = 2 * marked_.size() + 16;  // so that few tokens copy all
  marked_.reserve(room);
  by_id_.reserve(room);
}

void LogitChanges::count(int32_t id) {
  if (!counts_) return;
  const auto at = place_of(id);
  const bool is_new = at == by_id_.end() || marked_[static_cast<std::size_t>(*at)].id != id;
  latest_ = is_new ? static_cast<int32_t>(marked_.size()) : *at;
  if (is_new) {
    by_id_.insert(at, latest_);
    marked_.push_back({.id = id});
  }
  int32_t& seen = marked_[static_cast<std::size_t>(latest_)].seen;
  seen = std::max(seen, 1) + 1;
  ++version_;
}

void LogitChanges::allow(std::span<const uint64_t> mask, std::span<const int32_t> besides, int64_t vocab) {
  require(std::ssize(mask) * 64 >= vocab, "a constraint over {} tokens was given {} logits",
          std::ssize(mask) * 64, vocab);
  mask_.assign(mask.begin(), mask.begin() + mask_words(vocab));
  for (const int32_t id : besides) set(mask_, id, true);
}

void LogitChanges::forbid(std::span<const int32_t> ids, int64_t vocab) {
  mask_.assign(static_cast<std::size_t>(mask_words(vocab)), ~uint64_t{0});
  for (const int32_t id : ids) set(mask_, id, false);
}

LogitRow LogitChanges::row() {
  LogitRow row = settings();
  row.marked = marked_.data();
  row.marked_count = static_cast<int32_t>(marked_.size());
  if (!mask_.empty()) row.mask = mask_.data();
  return row;
}

}  // namespace shadowkv
