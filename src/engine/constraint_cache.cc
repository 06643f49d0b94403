#include "engine/constraint_cache.h"

#include <algorithm>

#include "engine/sampler.h"

namespace shadowkv {

ConstraintCache::ConstraintCache(std::shared_ptr<const Tokenizer> tokenizer, std::span<const int64_t> ends,
                                 int64_t vocab)
    : tokenizer_(std::move(tokenizer)), ends_(ends.begin(), ends.end()), vocab_(vocab) {}

std::shared_ptr<const Constraint> ConstraintCache::find(const SamplingParams& params) {
  if (!is_constrained(params)) return nullptr;
  Key key{ConstraintKind::json_object, ""};
  if (!params.regex.empty()) key = {ConstraintKind::regex, params.regex};
  if (!params.json_schema.empty()) key = {ConstraintKind::json_schema, params.json_schema};
  if (auto found = known(key)) return found;
  auto made = std::make_shared<const Constraint>(key.first, key.second, vocabulary());  // without the lock
  const std::lock_guard lock(mutex_);
  kept_.emplace_front(std::move(key), made);
  if (kept_.size() > kMost) kept_.pop_back();
  return made;
}

std::shared_ptr<const Constraint> ConstraintCache::known(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(kept_.begin(), kept_.end(), [&](const auto& one) { return one.first == key; });
  if (found == kept_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found);
  return found->second;
}

std::shared_ptr<const Vocabulary> ConstraintCache::vocabulary() {
  const std::lock_guard lock(mutex_);
  if (vocabulary_) return vocabulary_;
  std::vector<std::string> texts(static_cast<std::size_t>(vocab_));
  for (int32_t id = 0; id < std::min(vocab_, tokenizer_->vocab_size()); ++id) {
    const bool is_end = std::find(ends_.begin(), ends_.end(), id) != ends_.end();
    if (is_end || !tokenizer_->has_token(id) || tokenizer_->is_special(id)) continue;
    texts[static_cast<std::size_t>(id)] = tokenizer_->bytes_of(id);
  }
  vocabulary_ = std::make_shared<const Vocabulary>(std::move(texts));
  return vocabulary_;
}

}  // namespace shadowkv
