// What a sampler changes in its logits, as the ops take it (kernels/logit_math.h).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/logit_math.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv {

class LogitChanges {
 public:
  // prompt: its tokens count for the repetition penalty.
  LogitChanges(const SamplingParams& params, std::span<const int32_t> prompt);
  LogitChanges(const LogitChanges& other);
  LogitChanges& operator=(const LogitChanges& other) = delete;
  ~LogitChanges() = default;

  // Throws InvalidInput where a marked token is outside of the vocabulary. Takes what count() will need.
  void prepare(int64_t vocab);
  // A token of the answer.
  void count(int32_t id);

  // From now on those tokens alone may be drawn. mask: as the ops', of at least `vocab` tokens.
  void allow(std::span<const uint64_t> mask, std::span<const int32_t> besides, int64_t vocab);
  void forbid(std::span<const int32_t> ids, int64_t vocab);
  void allow_all() { mask_.clear(); }

  // Tokens that change, each once, in the order of their coming.
  [[nodiscard]] const std::vector<MarkedToken>& marked() const { return marked_; }
  // Grows by one whenever one of them comes or changes: which one did last.
  [[nodiscard]] int64_t version() const { return version_; }
  [[nodiscard]] int32_t latest() const { return latest_; }
  [[nodiscard]] const std::vector<uint64_t>& mask() const { return mask_; }  // empty: all are allowed
  // What tells these changes from any others as long as somebody holds it.
  [[nodiscard]] const std::shared_ptr<const char>& identity() const { return identity_; }

  // All that is said of a row besides the memory that it is held in.
  [[nodiscard]] LogitRow settings() const { return {.penalties = penalties_, .likeliest = likeliest_}; }
  // A row on the host.
  [[nodiscard]] LogitRow row();

 private:
  [[nodiscard]] std::vector<int32_t>::iterator place_of(int32_t id);

  LogitPenalties penalties_;
  int32_t likeliest_;
  bool counts_;  // whether a token of the answer changes
  std::vector<MarkedToken> marked_;
  std::vector<int32_t> by_id_;  // places in marked_, in order of ids
  std::vector<uint64_t> mask_;
  int64_t version_ = 0;
  int32_t latest_ = -1;
  std::shared_ptr<const char> identity_ = std::make_shared<const char>();
};

}  // namespace shadowkv
