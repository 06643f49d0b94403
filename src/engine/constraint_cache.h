// Constraints that were compiled for a model's vocabulary, kept for those who ask for the same again.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>

#include "constraint/constraint.h"
#include "shadowkv/shadowkv.h"
#include "tokenizer/tokenizer.h"

namespace shadowkv {

class ConstraintCache {
 public:
  // tokenizer: may be null; ends: the model's end tokens, which belong to no text.
  ConstraintCache(std::shared_ptr<const Tokenizer> tokenizer, std::span<const int64_t> ends, int64_t vocab);

  // Of parameters that are checked; null where they ask for none. From any thread.
  [[nodiscard]] std::shared_ptr<const Constraint> find(const SamplingParams& params);

 private:
  static constexpr std::size_t kMost = 8;
  using Key = std::pair<ConstraintKind, std::string>;
  [[nodiscard]] std::shared_ptr<const Constraint> known(const Key& key);
  [[nodiscard]] std::shared_ptr<const Vocabulary> vocabulary();

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<int64_t> ends_;
  int64_t vocab_;
  std::mutex mutex_;
  std::shared_ptr<const Vocabulary> vocabulary_;                       // once it was needed
  std::list<std::pair<Key, std::shared_ptr<const Constraint>>> kept_;  // the latest used first
};

}  // namespace shadowkv
