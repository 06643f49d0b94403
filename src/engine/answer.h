// An answer on its way from the service's thread, which writes it, to the one that reads it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "engine/answer_text.h"
#include "shadowkv/service.h"

namespace shadowkv {

// Wakes the service's thread; outlives whichever of the two goes first.
class Bell {
 public:
  void ring() noexcept;
  void wait();  // until it has rung since the last wait
  [[nodiscard]] bool has_rung() const noexcept { return rung_.load(); }  // since the last wait or hush
  void hush() noexcept { rung_ = false; }

 private:
  std::mutex mutex_;
  std::condition_variable rang_;
  std::atomic<bool> rung_{false};  // set under mutex_
};

// Writing asks for no memory: what the service's thread has computed cannot be lost on the way.
class Answer {
 public:
  // logprobs: how many come with each token.
  Answer(int64_t prompt_tokens, int64_t most_tokens, int64_t logprobs, std::shared_ptr<Bell> bell);

  // ---- by the service's thread
  void began_reading() noexcept;
  void found(int64_t tokens) noexcept;  // of its prompt
  void was_paused() noexcept;
  void push(int32_t token, std::span<const TokenLogprob> logprobs, std::optional<FinishReason> last) noexcept;
  void fail(std::exception_ptr error) noexcept;  // null: cancelled
  [[nodiscard]] int32_t token(int64_t i) const noexcept { return ids_[static_cast<std::size_t>(i)]; }
  [[nodiscard]] int64_t tokens() const noexcept { return std::ssize(ids_); }
  [[nodiscard]] bool is_cancelled() const noexcept { return cancelled_.load(); }

  // ---- by anybody
  void cancel() noexcept;
  [[nodiscard]] RequestReport report() const;
  struct Item {
    int32_t token = 0;
    bool is_last = false;
    std::vector<TokenLogprob> logprobs = {};
  };
  // The token at that place; nothing at the end, or, without waiting, while there is none. Throws what the
  // request failed with.
  [[nodiscard]] std::optional<Item> at(int64_t i, bool waits) const;

 private:
  using Clock = std::chrono::steady_clock;
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(Clock::now() - start_).count();
  }
  void end(FinishReason reason) noexcept;

  mutable std::mutex mutex_;
  mutable std::condition_variable news_;
  std::vector<int32_t> ids_;  // room for all from the start; guarded by mutex_ but for the writer's reads
  std::vector<TokenLogprob> logprobs_;  // [ids_, logprobs_each_], likewise
  const int64_t logprobs_each_;
  RequestReport report_;      // guarded by mutex_
  std::exception_ptr error_;  // guarded by mutex_
  std::atomic<bool> cancelled_{false};
  Clock::time_point start_ = Clock::now();
  std::shared_ptr<Bell> bell_;
};

[[nodiscard]] std::unique_ptr<Stream> make_stream(std::shared_ptr<Answer> answer, AnswerText text);

}  // namespace shadowkv
