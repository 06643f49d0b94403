// How the service's thread delivers tokens, ends requests, and what it tells of both.
#include <algorithm>
#include <chrono>
#include <new>
#include <utility>

#include "engine/model_service.h"

namespace shadowkv {
namespace {

constexpr auto kAttentionEvery = std::chrono::milliseconds(100);

}  // namespace

void ModelService::deliver(Item& item, int32_t token) {
  Job& job = item.second;
  std::optional<FinishReason> last;
  try {
    last = reason_to_end(job, token);
  } catch (const std::bad_alloc&) {  // the text is lost, and what would end it
    return fail(item, std::current_exception());
  }
  const Clock::time_point now = Clock::now();
  const bool is_first = job.answer->tokens() == 0;
  (is_first ? now_.first_token : now_.between_tokens)
      .add(seconds_between(is_first ? job.submitted : job.last_token, now));
  job.last_token = now;
  ++now_.new_tokens;
  const auto push = [&] { job.answer->push(token, job.sampler.logprobs(), last); };
  if (last) return end(item, push, now_.finished);
  push();
  tell(job);
}

// Whether the answer ends with its next token, and why.
std::optional<FinishReason> ModelService::reason_to_end(Job& job, int32_t token) {
  const bool is_full = std::ssize(job.prompt) + job.answer->tokens() + 1 == job.max_tokens;
  const bool is_end = job.ends.at(token) || job.sampler.is_finished();
  if (job.text) (void)job.text->add(token, is_full || is_end);
  if (is_end || (job.text && job.text->is_stopped())) return FinishReason::stop;
  return is_full ? std::optional(FinishReason::length) : std::nullopt;
}

void ModelService::fail(Item& item, const std::exception_ptr& error) noexcept {
  end(
      item, [&] { item.second.answer->fail(error); }, error ? now_.failed : now_.cancelled);
}

// Reading them waits for the device.
void ModelService::read_attention() {
  const Clock::time_point now = Clock::now();
  if (now - attention_read_ < kAttentionEvery && !jobs_.empty()) return;
  now_.attention = session_.statistics(0);
  attention_read_ = now;
}

// Whoever waits until no request is left finds the counts of all of them. A device that fails here is found
// out by whoever uses it next.
void ModelService::read_last_attention() noexcept {
  try {
    now_.attention = session_.statistics(0);
    attention_read_ = Clock::now();
  } catch (...) {
  }
}

// Gives everything back and counts it, and only then says so: who has an answer finds it in the statistics.
template <typename Say>
void ModelService::end(Item& item, const Say& say, int64_t& counted) noexcept {
  Job& job = item.second;
  hand_over(item);
  forget(item);
  answers_of(job.group) > 1 ? scheduler_.end_answer(job.group) : scheduler_.remove(job.group);
  if (!job.has_begun) --waiting_;
  ++counted;
  if (jobs_.size() == 1) read_last_attention();
  publish();
  say();
  tell(job);
  jobs_.erase(item.first);
  ++ended_;
}

void ModelService::fail_all(const std::exception_ptr& error) noexcept {
  {
    const std::lock_guard lock(mutex_);
    jobs_.merge(inbox_);
  }
  while (!jobs_.empty()) fail(*jobs_.begin(), error);
  publish();
}

// What a callback throws ends its request.
void ModelService::tell(Job& job) noexcept {
  try {
    if (job.on_news) job.on_news();
  } catch (...) {
    job.answer->cancel();
  }
}

void ModelService::count_limits() {
  const Room all = room();
  const int64_t context = parts_.model.context;
  const Footprint each = state_of({.prompt_tokens = context, .max_tokens = context}, context, 1);
  const auto times = [](int64_t bytes, int64_t of) {
    return static_cast<double>(std::max<int64_t>(0, bytes)) / static_cast<double>(std::max<int64_t>(1, of));
  };
  const double most = std::min({times(all.device, each.device), times(all.host, each.pinned_host),
                                times(all.device + all.host, each.device + each.pinned_host + each.either)});
  now_.cache_tokens = static_cast<int64_t>(most * static_cast<double>(context));
  now_.prefix_limit_bytes = options_.prefix_cache_bytes;
  if (prefixes_) now_.cut_tokens = session_.prefix_cuts(1).every;
  if (disk_) now_.prefix_file_limit_bytes = options_.prefix_cache_disk_bytes;
  published_ = now_;
}

void ModelService::count_turn() {
  const auto tokens = static_cast<double>(std::exchange(turn_tokens_, 0));
  const auto rows = static_cast<double>(std::exchange(turn_rows_, 0));
  if (tokens + rows > 0) now_.turn_tokens.add(tokens + rows / static_cast<double>(parts_.model.layers));
}

// Every request that was taken is in one state, or has ended in one way.
void ModelService::publish() noexcept {
  const SchedulerCounts counts = scheduler_.counts();
  const StepGraphs::Counts& recordings = parts_.transformer.recordings();
  now_.replayed_steps = recordings.replayed - recordings_before_.replayed;
  now_.recordings = recordings.made - recordings_before_.made;
  const int64_t arrived = std::count_if(jobs_.begin(), jobs_.end(),
                                        [](const Item& item) { return item.second.stage == Stage::arrived; });
  const std::lock_guard lock(mutex_);
  const int64_t submitted = published_.submitted;
  published_ = now_;  // no memory: what would need it is empty
  published_.submitted = submitted;
  published_.waiting = counts.waiting + arrived + std::ssize(inbox_);
  published_.reading = counts.reading;
  published_.running = counts.running;
  published_.paused = counts.paused;
  live_ -= std::exchange(ended_, 0);
  if (live_ == 0) idle_.notify_all();
}

}  // namespace shadowkv
