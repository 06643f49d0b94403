// What the service's thread keeps of prompts for requests to come, and how a request begins with it.
#include <algorithm>
#include <new>
#include <utility>

#include "engine/model_service.h"

namespace shadowkv {

// ---- a request's prompt -----------------------------------------------------------------------------------

// Once it is known how a request reads its prompt, it stays so: a request that was dropped begins with what
// it found, or reads that by itself again.
void ModelService::find_prefix(RequestId group, Job& job) {
  PromptReading& reading = job.reading;
  const int64_t prompt = std::ssize(job.prompt);
  reading.from = {};
  reading.part = 0;
  const bool is_new = reading.parts.empty();
  if (is_new) reading.parts = {prompt};
  if (!prefixes_ || (!is_new && reading.parts.size() == 1)) return;
  const int64_t most = is_new ? prompt - 1 : reading.parts.end()[-2];
  const std::optional<PrefixPlace> place = prefixes_->find(*job.keys, most);
  std::vector<int64_t> parts = place ? parts_until(*place) : std::vector<int64_t>();
  parts.push_back(prompt);
  if (is_new) reading.parts = parts;
  if (place && reading.parts == parts) {
    reading.from = *place;
    reading.part = parts.size() - 1;
    prefixes_->touch(place->id);
  }
  if (!is_new) return;
  now_.prefix_asked_tokens += prompt;
  now_.prefix_hit_tokens += reading.from.tokens;
  for_each_answer(group, [&](Item& item) { item.second.answer->found(reading.from.tokens); });
}

// How what it shares came to be.
std::vector<int64_t> ModelService::parts_until(const PrefixPlace& place) const {
  std::vector<int64_t> parts;
  for (const int64_t end : prefixes_->at(place.id).parts) {
    if (end < place.tokens) parts.push_back(end);
  }
  parts.push_back(place.tokens);
  return parts;
}

void ModelService::begin_sequence(RequestId group, Job& job) {
  find_prefix(group, job);
  fit_prefixes(&job);
  const PrefixPlace& from = job.reading.from;
  if (from.id < 0 || from.tokens != job.reading.first()) {  // none, or it had to go
    job.reading.from = {};
    job.reading.part = 0;
    job.sequence = session_.add(job.max_tokens);
    return;
  }
  bring_back(from.id);
  job.sequence = session_.fork_prefix(prefixes_->at(from.id).sequence, from.tokens, job.max_tokens);
}

void ModelService::begin_part(Job& job) {
  const PromptReading& reading = job.reading;
  const auto first = static_cast<std::size_t>(reading.first());
  const auto end = static_cast<std::size_t>(reading.parts[reading.part]);
  session_.begin_prefill(job.sequence, std::span(job.prompt).subspan(first, end - first));
  if (reading.is_last()) begin_prefixes(job);
}

void ModelService::begin_next_part(Job& job) {
  (void)session_.finish_prefill(job.sequence);  // whose memory the next part needs
  ++job.reading.part;
  reading_ = nullptr;
  begin_part(job);
}

double ModelService::work_left(const PromptReading& reading) const {
  double work = 0;
  int64_t first = reading.first();
  for (std::size_t part = reading.part; part < reading.parts.size(); ++part) {
    work += work_.of(first, reading.parts[part] - first);
    first = reading.parts[part];
  }
  return static_cast<double>(parts_.model.layers) * work;
}

// ---- what is kept of it -----------------------------------------------------------------------------------

// Of those tokens that are read last, and only what is not there yet. Without memory for it the request goes
// on.
void ModelService::begin_prefixes(Job& job) {
  if (!prefixes_ || job.keys->empty()) return;
  PromptReading& reading = job.reading;
  const bool last_serves_all = session_.prefix_cuts(std::ssize(job.prompt)).serves_shorter;
  try {
    for (std::size_t i = last_serves_all ? job.keys->size() - 1 : 0; i < job.keys->size(); ++i) {
      const PrefixKey& key = (*job.keys)[i];
      if (key.tokens <= reading.first() || prefixes_->knows(key)) continue;
      reading.kept.reserve(job.keys->size());
      reading.kept.push_back({.key = i, .sequence = session_.begin_prefix(job.sequence, key.tokens)});
    }
  } catch (const std::bad_alloc&) {
    give_up_prefixes(job);
  } catch (const OutOfMemory&) {
    give_up_prefixes(job);
  }
}

// Each shares what is before it with the one before. Others may have kept the same meanwhile.
void ModelService::keep_prefixes(Job& job) {
  PromptReading& reading = job.reading;
  try {
    for (; !reading.kept.empty(); reading.kept.erase(reading.kept.begin())) {
      const auto [i, sequence] = reading.kept.front();
      const PrefixKey& key = (*job.keys)[i];
      if (prefixes_->knows(key)) {
        session_.remove(sequence);
        continue;
      }
      session_.end_prefix(job.sequence, sequence);
      Prefix prefix{.sequence = sequence, .tokens = key.tokens, .parent = reading.from, .parts = {}};
      for (const int64_t end : reading.parts) {
        if (end < key.tokens) prefix.parts.push_back(end);
      }
      prefix.parts.push_back(key.tokens);
      const bool serves_all = session_.prefix_cuts(std::ssize(job.prompt)).serves_shorter;
      const auto keys = std::span(*job.keys).subspan(serves_all ? 0 : i, serves_all ? i + 1 : 1);
      reading.from = {prefixes_->add(std::move(prefix), keys), key.tokens};
    }
  } catch (const std::bad_alloc&) {
    give_up_prefixes(job);
  } catch (const OutOfMemory&) {
    give_up_prefixes(job);
  }
}

void ModelService::give_up_prefixes(Job& job) noexcept {
  for (const PromptReading::Kept& kept : job.reading.kept) session_.remove(kept.sequence);
  job.reading.kept.clear();
}

// ---- room -------------------------------------------------------------------------------------------------

// What is kept takes what requests leave. beginning: counts as though it ran already; may be null.
void ModelService::fit_prefixes(const Job* beginning) {
  if (!prefixes_) return;
  send_after_paused();
  std::vector<PrefixPlace> places;
  for (const auto& [id, job] : jobs_) {
    const bool runs = job.stage == Stage::reading || job.stage == Stage::running || &job == beginning;
    if (runs && job.reading.from.id >= 0) places.push_back(job.reading.from);
  }
  prefixes_->cover(places);
  while (const auto action = prefixes_->next(scheduler_.set_aside(), room())) {
    action->kind == PrefixAction::Kind::to_host ? move_to_host(action->id) : drop_prefix(action->id);
  }
  send_after_paused();
  const Footprint bytes = prefixes_->bytes();
  now_.prefixes = prefixes_->size();
  now_.prefix_bytes = bytes.device + bytes.pinned_host + bytes.either;
}

// What paused requests shared with those that have gone since leaves the device as the rest of them has.
void ModelService::send_after_paused() {
  if (!std::exchange(has_gone_, false)) return;
  for (const auto& [id, job] : jobs_) {
    try {
      if (job.stage == Stage::paused) session_.pause(job.sequence);
    } catch (const OutOfMemory&) {  // then it leaves with the request
    }
  }
}

// With all that it begins with.
void ModelService::bring_back(PrefixId id) {
  if (!prefixes_) return;
  for (const PrefixId each : prefixes_->path(id)) {
    if (!prefixes_->at(each).is_on_host) continue;
    session_.resume(prefixes_->at(each).sequence);
    prefixes_->set_on_host(each, false);
  }
}

void ModelService::move_to_host(PrefixId id) {
  try {
    session_.pause(prefixes_->at(id).sequence);
    prefixes_->set_on_host(id, true);
  } catch (const OutOfMemory&) {
    (void)drop_any_prefix();
  }
}

void ModelService::drop_prefix(PrefixId id) {
  const Prefix& prefix = prefixes_->at(id);
  for (auto& [request, job] : jobs_) {
    if (job.reading.from.id == id) job.reading.from = prefix.parent;
  }
  session_.remove(prefix.sequence);
  prefixes_->remove(id);
  has_gone_ = true;
}

// Memory was short although the ledger had room.
bool ModelService::drop_any_prefix() {
  const std::optional<PrefixId> first = prefixes_ ? prefixes_->first_to_go() : std::nullopt;
  if (first) drop_prefix(*first);
  return first.has_value();
}

}  // namespace shadowkv
