// What runs on callers' threads: a request is checked whole before the service's thread hears of it.
#include <algorithm>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"
#include "engine/model_service.h"
#include "engine/sampler.h"

namespace shadowkv {

std::vector<int32_t> ModelService::prompt_of(ServiceRequest& request) const {
  require(request.prompt.empty() || request.prompt_ids.empty(),
          "a prompt was given as text and as {} ids; give one of them", request.prompt_ids.size());
  std::vector<int32_t> ids = std::move(request.prompt_ids);
  if (!request.prompt.empty()) {
    require(parts_.tokenizer != nullptr,
            "a prompt was given as text, but the model came without a tokenizer");
    ids = parts_.tokenizer->encode(request.prompt);
  }
  parts_.model.check_prompt(std::ssize(ids));
  for (const int32_t id : ids) {
    require(id >= 0 && id < parts_.model.vocab_size, "token id {} is outside the vocabulary of {}", id,
            parts_.model.vocab_size);
  }
  return ids;
}

ModelService::Job ModelService::make_job(ServiceRequest request) const {
  require(request.max_new_tokens >= 1, "max-new-tokens = {} is out of range; it must be at least 1",
          request.max_new_tokens);
  std::vector<int32_t> prompt = prompt_of(request);
  check_sampling(request.sampling, {.vocab = parts_.model.vocab_size,
                                    .max_new_tokens = request.max_new_tokens,
                                    .has_tokenizer = parts_.tokenizer != nullptr,
                                    .ignore_eos = request.ignore_eos});
  const AnswerEnds ends = answer_ends(request.sampling, parts_.model.eos_tokens, request.ignore_eos);
  Job job{.prompt = {},
          .client = {},
          .on_news = {},
          .observer = {},
          .answer = {},
          .sampler = Sampler(request.sampling, {.prompt = prompt,
                                                .end_tokens = ends.ids,
                                                .constraint = parts_.constraints->find(request.sampling)}),
          .ends = ends,
          .text = {},
          .submitted = Clock::now(),
          .last_token = {}};
  job.prompt = std::move(prompt);
  if (!job.ends.texts.empty()) job.text.emplace(parts_.tokenizer, job.ends);
  const int64_t prompt_tokens = std::ssize(job.prompt);
  const int64_t wanted = std::min(request.max_new_tokens, parts_.model.context - prompt_tokens);
  job.max_tokens = prompt_tokens + wanted;
  job.priority = request.priority;
  job.client = std::move(request.client);
  job.on_news = std::move(request.on_news);
  job.observer = std::move(request.observer);
  check_fits_alone({.prompt_tokens = prompt_tokens, .max_tokens = job.max_tokens});
  const std::optional<int64_t> logprobs = request.sampling.logprobs;
  job.answer = std::make_shared<Answer>(prompt_tokens, wanted, logprobs ? *logprobs + 1 : 0, bell_);
  return job;
}

OutOfMemory ModelService::too_large(int64_t max_tokens, const Footprint& need, const Room& room) const {
  const int64_t host =
      need.pinned_host + std::max<int64_t>(0, need.either - std::max<int64_t>(0, room.device - need.device));
  return OutOfMemory(
      fmt::format("a request of {} tokens needs {} of device and {} of host memory, {} and {} are all that "
                  "requests can have; shorten it or raise --device-memory or --host-memory",
                  max_tokens, format_bytes(need.device), format_bytes(host), format_bytes(room.device),
                  format_bytes(room.host)));
}

// All that so many answers take at their largest, their prompt's working memory included.
Footprint ModelService::need_of(const SequencePlan& plan, int64_t answers) const {
  Footprint need = state_of(plan, plan.max_tokens, answers);
  need.device += working_bytes(plan.prompt_tokens);
  return need;
}

// Of reading a prompt, whether of its own or behind what was found of it.
int64_t ModelService::working_bytes(int64_t prompt_tokens) const {
  return session_.working_bytes(prompt_tokens) +
         (prefixes_ ? session_.prefix_working_bytes(prompt_tokens) : 0);
}

// What they have in common counts once.
Footprint ModelService::state_of(const SequencePlan& plan, int64_t tokens, int64_t answers) const {
  Footprint sum = session_.peak_until(plan, tokens);
  for (int64_t i = 1; i < answers; ++i) sum += session_.fork_until(plan, tokens);
  return sum;
}

void ModelService::check_fits_alone(const SequencePlan& plan) const {
  const Footprint need = need_of(plan, 1);
  const Room all = room();
  if (!fits(need, all)) throw too_large(plan.max_tokens, need, all);
}

// Of so many answers, those that can run at once.
int64_t ModelService::most_together(const SequencePlan& plan, int64_t answers) const {
  int64_t most = std::min(answers, options_.max_running);
  while (most > 1 && !fits(need_of(plan, most), room())) --most;
  return most;
}

std::shared_ptr<const std::vector<PrefixKey>> ModelService::keys_of(const Job& job,
                                                                    const std::string& salt) const {
  if (!prefixes_) return nullptr;
  const int64_t tokens = std::ssize(job.prompt);
  const PrefixCuts where = session_.prefix_cuts(tokens);
  std::vector<int64_t> cuts;
  for (int64_t cut = where.every; where.every > 0 && cut <= tokens; cut += where.every) {
    if (cut >= where.least) cuts.push_back(cut);
  }
  const PrefixOwner owner{
      .identity = identity_, .rope_table = session_.rope_table(job.max_tokens), .salt = salt};
  return std::make_shared<const std::vector<PrefixKey>>(prefix_keys(owner, job.prompt, cuts));
}

std::unique_ptr<Stream> ModelService::submit(ServiceRequest request) {
  return std::move(submit_several(std::move(request), 1).front());
}

std::vector<std::unique_ptr<Stream>> ModelService::submit_several(ServiceRequest request, int64_t answers) {
  require(answers >= 1, "{} answers were asked for; ask for at least 1", answers);
  request.prompt_ids = prompt_of(request);
  request.prompt.clear();
  Jobs jobs;
  std::vector<std::unique_ptr<Stream>> streams;
  for (int64_t i = 0; i < answers; ++i) {
    const Job& job = jobs.emplace(i, make_job(request)).first->second;
    streams.push_back(make_stream(job.answer, AnswerText(parts_.tokenizer, job.ends)));
    ++request.sampling.seed;
  }
  const Job& first = jobs.begin()->second;
  const auto keys = keys_of(first, request.cache_salt);
  const PrefixDigest tenant = prefixes_ ? salt_digest(request.cache_salt) : PrefixDigest{};
  for (auto& [i, job] : jobs) {
    job.keys = keys;
    job.tenant = tenant;
  }
  const int64_t together =
      most_together({.prompt_tokens = std::ssize(first.prompt), .max_tokens = first.max_tokens}, answers);
  {
    const std::lock_guard lock(mutex_);
    if (broken_) std::rethrow_exception(broken_);
    if (waiting_ + answers > options_.max_waiting) {
      throw Busy(fmt::format("{} requests wait already; try again later", waiting_.load()));
    }
    for (int64_t i = 0; i < answers; ++i) {
      auto node = jobs.extract(i);
      node.key() = next_id_ + i;
      node.mapped().group = next_id_ + i / together * together;
      inbox_.insert(std::move(node));
    }
    next_id_ += answers;
    live_ += answers;
    waiting_ += answers;
    published_.submitted += answers;
    published_.waiting += answers;
  }
  bell_->ring();
  return streams;
}

ServiceStatistics ModelService::statistics() const {
  EngineMemory memory = parts_.memory();
  const std::lock_guard lock(mutex_);
  ServiceStatistics statistics = published_;
  statistics.memory = std::move(memory);
  return statistics;
}

void ModelService::wait_idle() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return live_ == 0; });
}

}  // namespace shadowkv
