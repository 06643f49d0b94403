#include "engine/model_service.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"
#include "engine/sampler.h"

namespace shadowkv {
namespace {

using namespace std::chrono_literals;

// Queries of a slice that are worth reading the weights for: on a GPU as many as keep its matrix units busy
// for about as long as its memory.
int64_t good_rows(DeviceKind kind) {
  constexpr int64_t kCpuRows = 16, kGpuRows = 512;
  return kind == DeviceKind::cpu ? kCpuRows : kGpuRows;
}

// How often memory may end for one request, with nothing left to take from others, before it fails.
constexpr int kPatience = 3;
// How long answers wait for the disk at most, from one step to the next.
constexpr auto kMostWait = 1s;

ServiceOptions checked(const ServiceOptions& options) {
  require(options.max_running >= 1, "max_running = {} is out of range; it must be at least 1",
          options.max_running);
  require(options.max_reading >= 1, "max_reading = {} is out of range; it must be at least 1",
          options.max_reading);
  require(options.max_waiting >= 1, "max_waiting = {} is out of range; it must be at least 1",
          options.max_waiting);
  require(options.max_gap > 1 && options.max_gap < 1e6, "max_gap = {} is out of range; it must be over 1",
          options.max_gap);
  require(options.growth_tokens >= 1, "growth_tokens = {} is out of range; it must be at least 1",
          options.growth_tokens);
  require(options.prefix_cache_bytes >= 0, "prefix_cache_bytes = {} is out of range; it must be at least 0",
          options.prefix_cache_bytes);
  require(options.prefix_cache_dir.empty() || options.prefix_cache_bytes > 0,
          "prefix_cache_dir = {} was given, but prefix_cache_bytes = 0 keeps nothing",
          options.prefix_cache_dir);
  require(options.prefix_cache_disk_bytes >= 0,
          "prefix_cache_disk_bytes = {} is out of range; it must be at least 0",
          options.prefix_cache_disk_bytes);
  return options;
}

UnitWork unit_work(const ModelConfig& model) {
  const int64_t width = model.heads * model.head_dim;
  const int64_t products = 2 * model.hidden * (2 * width + 2 * model.kv_width() + 3 * model.inner);
  return {.row = static_cast<double>(products), .key = static_cast<double>(4 * width)};
}

// Whether the exception that is being handled says that memory ended.
bool memory_ended() {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return true;
  } catch (const OutOfMemory&) {
    return true;
  } catch (...) {
    return false;
  }
}

std::exception_ptr service_ended() {
  return std::make_exception_ptr(Interrupted("the service ended before the answer did"));
}

}  // namespace

ModelService::ModelService(ServiceParts parts, const ServiceOptions& options)
    : parts_(std::move(parts)),
      options_(checked(options)),
      session_(parts_.model, parts_.compute, parts_.transformer, parts_.device, {&options_.attention, 1}),
      scheduler_({.max_running = options_.max_running,
                  .max_reading = options_.max_reading,
                  .growth_tokens = options_.growth_tokens},
                 [this](const SequencePlan& plan, int64_t tokens, int64_t answers) {
                   return state_of(plan, tokens, answers);
                 }),
      work_(unit_work(parts_.model)),
      pace_(options_.max_gap, work_, good_rows(parts_.device.kind())),
      booked_until_(Clock::now()),
      attention_read_(booked_until_),
      recordings_before_(parts_.transformer.recordings()),
      bell_(std::make_shared<Bell>()) {
  if (options_.prefix_cache_bytes > 0) {
    prefixes_.emplace(options_.prefix_cache_bytes, [this](int64_t tokens, int64_t shared) {
      return session_.prefix_bytes(tokens, shared);
    });
    identity_ = session_.identity();
    if (!options_.prefix_cache_dir.empty()) open_disk();
  }
  count_limits();
  batch_.reserve(static_cast<std::size_t>(options_.max_running));
  step_tokens_.reserve(static_cast<std::size_t>(options_.max_running));
  step_samplers_.reserve(static_cast<std::size_t>(options_.max_running));
  thread_ = std::thread([this] { run(); });
}

ModelService::~ModelService() {
  stops_ = true;
  bell_->ring();
  thread_.join();
}

// ---- the loop ---------------------------------------------------------------------------------------------

// Where memory ended the turn is taken again; what failed otherwise ends all requests, and says why.
void ModelService::run() noexcept {
  while (!stops_) {
    try {
      turn();
    } catch (...) {
      if (memory_ended()) {
        std::this_thread::sleep_for(1ms);
      } else {
        break_off(std::current_exception());
      }
    }
  }
  fail_all(service_ended());
}

// A device that has failed takes no more.
void ModelService::break_off(const std::exception_ptr& error) noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const DeviceFailure&) {
    const std::lock_guard lock(mutex_);
    broken_ = error;
  } catch (...) {
  }
  fail_all(error);
}

void ModelService::turn() {
  if (disk_) disk_->waits_until = Clock::now() + kMostWait;
  take_in();
  decide();
  step();
  read();
  read_attention();
  count_turn();
  if (jobs_.empty()) fit_prefixes(nullptr);
  book(now_.scheduling_s);
  const bool saves = save_ahead();
  book(now_.moving_s);
  publish();
  // A ring that take_in hushed may have been the destructor's: it sets stops_ first.
  if (!jobs_.empty() || stops_ || saves) return;
  bell_->wait();
  booked_until_ = Clock::now();
}

void ModelService::book(double& seconds) {
  const Clock::time_point now = Clock::now();
  seconds += seconds_between(booked_until_, now);
  booked_until_ = now;
}

// Of those that have not ended; there is one.
ModelService::Item& ModelService::first_of(RequestId group) {
  return *jobs_.lower_bound(group);
}

ModelService::Item& ModelService::reader_of(RequestId group) {
  return *std::find_if(jobs_.lower_bound(group), jobs_.end(),
                       [](const Item& item) { return item.second.stage == Stage::reading; });
}

int64_t ModelService::answers_of(RequestId group) {
  int64_t count = 0;
  for_each_answer(group, [&](const Item& /*item*/) { ++count; });
  return count;
}

// New requests come in, cancelled ones go.
void ModelService::take_in() {
  bell_->hush();
  std::vector<std::function<void()>> asked;
  {
    const std::lock_guard lock(mutex_);
    jobs_.merge(inbox_);
    asked.swap(asked_);
  }
  for (const auto& work : asked) work();
  for (auto& [id, job] : jobs_) {
    if (job.stage != Stage::arrived) continue;
    if (first_of(job.group).first == id) {
      scheduler_.add(job.group, {.priority = job.priority,
                                 .client = job.client,
                                 .prompt_tokens = std::ssize(job.prompt),
                                 .max_tokens = job.max_tokens,
                                 .working_bytes = working_bytes(std::ssize(job.prompt)),
                                 .answers = answers_of(job.group)});
    }
    job.stage = Stage::waiting;
  }
  for (auto next = jobs_.begin(); next != jobs_.end();) {
    Item& item = *next++;
    if (item.second.answer->is_cancelled()) fail(item, nullptr);
  }
}

// What all requests together may take, a prompt's working memory included: the budgets without weights, what
// samplers keep, tables and scratch.
Room ModelService::room() const {
  const MemoryUse use = parts_.device.memory();
  const auto left = [&](Tier tier) {
    return use.budget[static_cast<std::size_t>(tier)] - use.of(tier, Purpose::weights) -
           use.of(tier, Purpose::sampling) - use.of(tier, Purpose::tables) -
           use.of(tier, Purpose::activations);
  };
  return {.device = left(Tier::device), .host = left(Tier::pinned_host)};
}

void ModelService::decide() {
  while (true) {
    const SchedulerAction action = scheduler_.next(room());
    if (action.kind == SchedulerAction::Kind::none) return fit_prefixes(nullptr);
    perform(action);
  }
}

void ModelService::perform(const SchedulerAction& action) {
  switch (action.kind) {
    case SchedulerAction::Kind::none:
      return;
    case SchedulerAction::Kind::read:
      return begin_reading(action.id);
    case SchedulerAction::Kind::resume:
      return resume(action.id);
    case SchedulerAction::Kind::pause:
      return pause(action.id);
    case SchedulerAction::Kind::drop:
      return let_go(action.id);
    case SchedulerAction::Kind::fail: {
      if (split(action.id)) return;
      Item& item = first_of(action.id);
      const Job& job = item.second;
      const Footprint need =
          need_of({.prompt_tokens = std::ssize(job.prompt), .max_tokens = job.max_tokens}, 1);
      return fail(item, std::make_exception_ptr(too_large(job.max_tokens, need, room())));
    }
  }
}

// ---- memory -----------------------------------------------------------------------------------------------

void ModelService::pause(RequestId group) {
  book(now_.scheduling_s);
  for_each_answer(group, [&](Item& item) {
    item.second.stage = Stage::paused;
    item.second.answer->was_paused();
    ++now_.pauses;
  });
  try {
    for_each_answer(group, [&](Item& item) { session_.pause(item.second.sequence); });
  } catch (...) {
    if (!memory_ended()) throw;
    scheduler_.drop(group);
    let_go(group);
  }
  book(now_.moving_s);
}

void ModelService::resume(RequestId group) {
  book(now_.scheduling_s);
  for_each_answer(group, [&](Item& item) { item.second.stage = Stage::running; });
  try {
    fit_prefixes(nullptr);
    for_each_answer(group, [&](Item& item) { session_.resume(item.second.sequence); });
    bring_back(first_of(group).second.reading.from.id);
  } catch (...) {
    if (!memory_ended()) throw;
    scheduler_.drop(group);
    let_go(group);
  }
  book(now_.moving_s);
}

// The request keeps what it has answered and will read its prompt, then its answer, again: token by token as
// it came, so that it stands where it stood.
void ModelService::let_go(RequestId group) {
  for_each_answer(group, [&](Item& item) {
    Job& job = item.second;
    if (job.stage == Stage::waiting) return;  // another one reads for it
    if (job.stage != Stage::paused) {         // that was counted
      job.answer->was_paused();
      ++now_.drops;
    }
    forget(item);
    job.stage = Stage::waiting;
    job.fed = 0;
  });
}

// Answers that do not fit together go on each by itself. False where there is but one.
bool ModelService::split(RequestId group) {
  if (answers_of(group) == 1) return false;
  let_go(group);
  scheduler_.remove(group);
  for (auto next = jobs_.lower_bound(group); next != jobs_.end() && next->second.group == group; ++next) {
    next->second.group = next->first;
    next->second.stage = Stage::arrived;
  }
  return true;
}

// Gives back what a request holds of the engine.
void ModelService::forget(Item& item) noexcept {
  Job& job = item.second;
  if (job.stage == Stage::arrived || job.stage == Stage::waiting) return;
  try {
    session_.wait();  // units of reading may be under way
  } catch (...) {     // then nothing is: the device has failed
  }
  give_up_prefixes(job);
  session_.remove(job.sequence);
  has_gone_ = true;
  order_.remove(job.group);
  if (reading_ == &item) reading_ = nullptr;
}

// ---- decode steps -----------------------------------------------------------------------------------------

void ModelService::step() {
  batch_.clear();
  step_tokens_.clear();
  step_samplers_.clear();
  for (auto next = jobs_.begin(); next != jobs_.end();) {
    Item& item = *next++;
    if (!joins_step(item)) continue;
    const Job& job = item.second;
    batch_.push_back(&item);
    step_tokens_.push_back({.sequence = job.sequence, .token = job.answer->token(job.fed)});
    // What comes after a token that is fed again is known.
    step_samplers_.push_back(job.fed + 1 == job.answer->tokens() ? &item.second.sampler : nullptr);
  }
  if (batch_.empty()) return;
  observe_step();
  book(now_.scheduling_s);
  const Clock::time_point start = booked_until_;
  std::vector<int32_t> picked;
  try {
    picked = session_.decode_sampled(0, step_tokens_, step_samplers_);
  } catch (...) {
    if (!memory_ended()) throw;
    return step_failed();
  }
  step_shortages_ = 0;
  book(now_.step_s);
  pace_.step_took(seconds_between(start, booked_until_));
  ++now_.steps;
  now_.step_tokens += std::ssize(batch_);
  turn_tokens_ += std::ssize(batch_);
  for (std::size_t i = 0; i < batch_.size(); ++i) took_step(*batch_[i], picked[i]);
}

// The step's layers are shown where one of its requests asks for them.
void ModelService::observe_step() {
  const bool asked =
      std::ranges::any_of(batch_, [](const Item* item) { return item->second.observer != nullptr; });
  if (asked == is_observed_) return;
  session_.observe(
      0, asked ? LayerObserver([this](const LayerObservation& seen) { observe(seen); }) : LayerObserver());
  is_observed_ = asked;
}

// A token that is fed again was seen before.
void ModelService::observe(const LayerObservation& seen) noexcept {
  for (Item* item : batch_) {
    Job& job = item->second;
    if (job.sequence != seen.sequence || !job.observer || job.fed + 1 < job.answer->tokens()) continue;
    try {
      job.observer(seen);
    } catch (...) {
      job.answer->cancel();
      job.observer = {};
    }
  }
}

// Whether the request is to have a token. One whose constraint is beyond its bounds fails alone.
bool ModelService::joins_step(Item& item) {
  if (item.second.stage != Stage::running) return false;
  try {
    StepSampling::prepare(item.second.sampler, parts_.model.vocab_size);
    return true;
  } catch (const InvalidInput&) {
    fail(item, std::current_exception());
    return false;
  }
}

// A token that is there already is not delivered again.
void ModelService::took_step(Item& item, int32_t picked) {
  Job& job = item.second;
  job.shortages = 0;
  ++job.fed;
  scheduler_.took_step(job.group, std::ssize(job.prompt) + job.fed);
  if (job.fed == job.answer->tokens()) deliver(item, picked);
}

// Memory ended in a step, which can be taken again: at once, or when the lowest has given way.
void ModelService::step_failed() {
  if (++step_shortages_ == 1 || drop_any_prefix()) return;
  const SchedulerAction action = scheduler_.give_way(room());
  if (action.kind != SchedulerAction::Kind::none) return perform(action);
  if (step_shortages_ <= kPatience) return;
  step_shortages_ = 0;
  const std::exception_ptr error = std::current_exception();
  for (Item* item : batch_) {
    if (item->second.stage == Stage::running && !split(item->second.group)) fail(*item, error);
  }
}

// ---- prompts ----------------------------------------------------------------------------------------------

void ModelService::begin_reading(RequestId group) {
  for_each_answer(group, [&](Item& item) {
    if (!item.second.has_begun) --waiting_;
    item.second.has_begun = true;
    item.second.answer->began_reading();
  });
  Item& item = first_of(group);
  Job& job = item.second;
  try {
    begin_sequence(group, job);
    job.stage = Stage::reading;
    order_.add(group, job.priority, work_left(job.reading));
    if (!job.reading.loads) begin_part(job);
  } catch (...) {
    if (!memory_ended()) throw;
    reading_failed(item);
  }
}

// As many units as the next step can wait for, at least one; without anybody waiting until there is news or
// an answer has begun.
void ModelService::read() {
  if (next_to_read() == nullptr) return;
  book(now_.scheduling_s);
  std::optional<double> left;
  if (!batch_.empty()) left = pace_.allowance();
  for (bool is_first = true; Item* item = next_to_read(); is_first = false) {
    const Clock::time_point start = Clock::now();
    try {
      if (!read_unit(*item, left, is_first)) break;
    } catch (...) {
      if (!memory_ended()) throw;
      reading_failed(*item);
    }
    if (left) *left -= seconds_between(start, Clock::now());
    if (!left && (bell_->has_rung() || scheduler_.counts().running > 0)) break;
  }
  book(now_.reading_s);
}

// Another prompt may go on only between two layers of this one, whose answer begins as soon as all are done.
ModelService::Item* ModelService::next_to_read() {
  if (reading_ != nullptr && !reading_->second.reading.loads) {
    const SequenceId sequence = reading_->second.sequence;
    if (!session_.reading(sequence).between_layers() || session_.prefill_is_done(sequence)) return reading_;
  }
  const std::optional<RequestId> next = order_.next();
  reading_ = next ? &reader_of(*next) : nullptr;
  return reading_;
}

// Reads a unit, or finishes. left: seconds that streams can wait; none where nobody waits. False when the
// unit would take longer and is not the first of its turn.
bool ModelService::read_unit(Item& item, std::optional<double> left, bool is_first) {
  const SequenceId sequence = item.second.sequence;
  if (item.second.reading.loads) return load_unit(item, left, is_first);
  if (session_.prefill_is_done(sequence)) {
    finish_reading(item);
    return true;
  }
  const PrefillRun& run = session_.reading(sequence);
  const int64_t first = run.past + run.first;
  const bool closes = run.first == run.tokens;
  const int64_t most =
      closes ? run.tokens - run.closed : std::min(parts_.transformer.slice_tokens(), run.tokens - run.first);
  int64_t rows = most;
  if (left) {
    rows = pace_.rows_of({first, most, closes ? session_.closing_tokens() : 0}, *left, is_first);
    if (rows == 0) return false;
  }
  if (closes && !left) session_.wait();  // its seconds are its own, not those of what came before
  const Clock::time_point start = Clock::now();
  session_.advance_prefill(sequence, rows);
  if (!closes) took_slice(item.second.group, first, rows);
  if (left || closes) session_.wait();  // else the device stays ahead, by a layer at most
  const double took = seconds_between(start, Clock::now());
  if (closes) now_.index_s += took;
  if (!left) return true;
  closes ? pace_.closing_took(rows, took) : pace_.slice_took(first, rows, took);
  return true;
}

void ModelService::took_slice(RequestId group, int64_t first, int64_t rows) {
  order_.did(group, work_.of(first, rows));
  turn_rows_ += rows;
}

void ModelService::finish_reading(Item& item) {
  Job& job = item.second;
  const RequestId group = job.group;
  if (!job.reading.is_last()) return begin_next_part(job);
  const PrefillRun prompt = session_.finish_prefill(job.sequence);
  keep_prefixes(job);
  fork(item);
  job.stage = Stage::running;
  reading_ = nullptr;
  order_.remove(group);
  now_.prompt_tokens += std::ssize(job.prompt);
  scheduler_.finished_reading(group);
  publish();  // who has a token finds its answer running
  begin_answers(group, prompt);
}

// All other answers to the prompt that has been read go on from there.
void ModelService::fork(Item& item) {
  for_each_answer(item.second.group, [&](Item& other) {
    Job& job = other.second;
    if (&other == &item) return;
    job.reading = item.second.reading;  // before there is a sequence that could be lost
    job.sequence = session_.branch(item.second.sequence, job.max_tokens);
    job.stage = Stage::running;
  });
}

// With a token drawn from what the prompt ends with. What comes first of an answer that was dropped is known.
void ModelService::begin_answer(Item& item, const PrefillRun& prompt) {
  Job& job = item.second;
  if (job.answer->tokens() > 0) return;
  int32_t token = 0;
  try {
    token = session_.draw_first(prompt, job.sequence, job.sampler);
  } catch (const InvalidInput&) {  // a constraint that is beyond its bounds
    return fail(item, std::current_exception());
  }
  job.shortages = 0;
  deliver(item, token);
}

// Where memory ends, those that have not begun read the prompt again, and with them the others.
void ModelService::begin_answers(RequestId group, const PrefillRun& prompt) {
  bool is_short = false;
  for_each_answer(group, [&](Item& item) {
    if (is_short) return;
    try {
      begin_answer(item, prompt);
    } catch (...) {
      if (!memory_ended()) throw;
      is_short = true;
      reading_failed(item);
    }
  });
}

// Another answer to the prompt that is being read goes on with it.
void ModelService::hand_over(Item& item) noexcept {
  Job& job = item.second;
  for_each_answer(job.group, [&](Item& other) {
    if (job.stage != Stage::reading || &other == &item) return;
    other.second.sequence = job.sequence;
    other.second.reading = std::move(job.reading);
    other.second.stage = Stage::reading;
    job.stage = Stage::waiting;
    if (reading_ == &item) reading_ = &other;
  });
}

// Memory ended while a prompt was read: it waits until another gives some back. While none has any, what is
// paused gives way; when there is nothing left to take, the request fails.
void ModelService::reading_failed(Item& item) {
  const std::exception_ptr error = std::current_exception();
  const RequestId group = item.second.group;
  scheduler_.drop(group);
  let_go(group);
  if (drop_any_prefix()) return;
  const SchedulerCounts counts = scheduler_.counts();
  if (++item.second.shortages < kPatience || counts.running + counts.reading > 0) return;
  const SchedulerAction action = scheduler_.give_way(room());
  if (action.kind != SchedulerAction::Kind::none) return perform(action);
  if (!split(group)) fail(item, error);
}

}  // namespace shadowkv
