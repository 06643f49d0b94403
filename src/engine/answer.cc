#include "engine/answer.h"

#include <utility>

namespace shadowkv {
namespace {

class AnswerStream final : public Stream {
 public:
  AnswerStream(std::shared_ptr<Answer> answer, AnswerText text)
      : answer_(std::move(answer)), text_(std::move(text)) {}
  ~AnswerStream() override { answer_->cancel(); }
  AnswerStream(const AnswerStream&) = delete;
  AnswerStream& operator=(const AnswerStream&) = delete;

  std::optional<TokenEvent> next() override { return read(true); }
  std::optional<TokenEvent> try_next() override { return read(false); }
  void cancel() noexcept override { answer_->cancel(); }
  [[nodiscard]] RequestReport report() const override { return answer_->report(); }

 private:
  std::optional<TokenEvent> read(bool waits) {
    std::optional<Answer::Item> item = answer_->at(next_, waits);
    if (!item) return std::nullopt;
    TokenEvent event{.id = item->token,
                     .text = text_.add(item->token, item->is_last),
                     .logprobs = std::move(item->logprobs)};
    ++next_;
    return event;
  }

  std::shared_ptr<Answer> answer_;
  AnswerText text_;
  int64_t next_ = 0;
};

}  // namespace

void Bell::ring() noexcept {
  {
    const std::lock_guard lock(mutex_);
    rung_ = true;
  }
  rang_.notify_one();
}

void Bell::wait() {
  std::unique_lock lock(mutex_);
  rang_.wait(lock, [this] { return rung_.load(); });
  rung_ = false;
}

Answer::Answer(int64_t prompt_tokens, int64_t most_tokens, int64_t logprobs, std::shared_ptr<Bell> bell)
    : logprobs_each_(logprobs), bell_(std::move(bell)) {
  ids_.reserve(static_cast<std::size_t>(most_tokens));
  logprobs_.reserve(static_cast<std::size_t>(most_tokens * logprobs));
  report_.prompt_tokens = prompt_tokens;
}

void Answer::began_reading() noexcept {
  const std::lock_guard lock(mutex_);
  if (report_.waited_s == 0) report_.waited_s = seconds();
}

void Answer::found(int64_t tokens) noexcept {
  const std::lock_guard lock(mutex_);
  report_.cached_tokens = tokens;
}

void Answer::was_paused() noexcept {
  const std::lock_guard lock(mutex_);
  ++report_.pauses;
}

void Answer::push(int32_t token, std::span<const TokenLogprob> logprobs,
                  std::optional<FinishReason> last) noexcept {
  const std::lock_guard lock(mutex_);
  ids_.push_back(token);  // within what was reserved, as the next
  logprobs_.insert(logprobs_.end(), logprobs.begin(), logprobs.end());
  report_.new_tokens = std::ssize(ids_);
  if (ids_.size() == 1) report_.first_s = seconds();
  if (last) end(*last);
  news_.notify_all();
}

void Answer::fail(std::exception_ptr error) noexcept {
  const std::lock_guard lock(mutex_);
  error_ = std::move(error);
  end(FinishReason::cancelled);
  news_.notify_all();
}

void Answer::end(FinishReason reason) noexcept {
  report_.ended = true;
  report_.finish = reason;
  report_.total_s = seconds();
}

void Answer::cancel() noexcept {
  if (!cancelled_.exchange(true)) bell_->ring();
}

RequestReport Answer::report() const {
  const std::lock_guard lock(mutex_);
  return report_;
}

std::optional<Answer::Item> Answer::at(int64_t i, bool waits) const {
  std::unique_lock lock(mutex_);
  const auto is_there = [&] { return i < std::ssize(ids_) || report_.ended; };
  if (waits) news_.wait(lock, is_there);
  if (i < std::ssize(ids_)) {
    const auto first = logprobs_.begin() + i * logprobs_each_;
    return Item{.token = ids_[static_cast<std::size_t>(i)],
                .is_last = report_.ended && i + 1 == std::ssize(ids_),
                .logprobs = {first, first + logprobs_each_}};
  }
  if (error_) std::rethrow_exception(error_);
  return std::nullopt;
}

std::unique_ptr<Stream> make_stream(std::shared_ptr<Answer> answer, AnswerText text) {
  return std::make_unique<AnswerStream>(std::move(answer), std::move(text));
}

}  // namespace shadowkv
