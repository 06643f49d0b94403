// What the service's thread keeps of prompts for requests to come, and how a request begins with it.
#include <algorithm>
#include <new>
#include <utility>

#include "engine/model_service.h"

namespace shadowkv {

// ---- a request's prompt -----------------------------------------------------------------------------------

// Once it is known how a request reads its prompt, it stays so: a request that was dropped begins with what
// it found, or reads that by itself again.
void ModelService::find_prefix(Job& job) {
  PromptReading& reading = job.reading;
  const int64_t prompt = std::ssize(job.prompt);
  reading.from = {};
  reading.part = 0;
  reading.loads = false;
  const bool is_new = reading.is_new = reading.is_new || reading.parts.empty();
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
}

// Once for each request, when it is known that what it found is there.
void ModelService::count_found(RequestId group, Job& job, int64_t tokens) {
  if (!prefixes_ || !std::exchange(job.reading.is_new, false)) return;
  now_.prefix_asked_tokens += std::ssize(job.prompt);
  now_.prefix_hit_tokens += tokens;
  if (tokens > 0) now_.prefix_disk_tokens += job.reading.disk_tokens;
  for_each_answer(group, [&](Item& item) { item.second.answer->found(tokens); });
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
  find_prefix(job);
  fit_prefixes(&job);
  job.sequence = session_.add(job.max_tokens);
  const PrefixPlace& from = job.reading.from;
  job.reading.disk_tokens = from.id < 0 ? 0 : tokens_on_disk(from);
  if (from.id < 0 || from.tokens != job.reading.first()) return begin_without_prefix(group, job);
  if (first_to_load(from.id)) {
    job.reading.loads = true;
    return;
  }
  begin_from_prefix(group, job);
}

// In place of its empty sequence.
void ModelService::begin_from_prefix(RequestId group, Job& job) {
  PromptReading& reading = job.reading;
  bring_back(reading.from.id);
  session_.remove(job.sequence);
  job.sequence =
      session_.fork_prefix(prefixes_->at(reading.from.id).sequence, reading.from.tokens, job.max_tokens);
  reading.loads = false;
  count_found(group, job, reading.from.tokens);
}

// It found none, or what it found had to go. Who has begun before reads in the same parts as then.
void ModelService::begin_without_prefix(RequestId group, Job& job) {
  PromptReading& reading = job.reading;
  reading.from = {};
  reading.part = 0;
  reading.loads = false;
  if (reading.is_new) reading.parts = {std::ssize(job.prompt)};
  count_found(group, job, 0);
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
      Prefix prefix{.sequence = sequence,
                    .tokens = key.tokens,
                    .parent = reading.from,
                    .parts = {},
                    .name = key.digest,
                    .tenant = job.tenant};
      for (const int64_t end : reading.parts) {
        if (end < key.tokens) prefix.parts.push_back(end);
      }
      prefix.parts.push_back(key.tokens);
      if (disk_) {
        prefix.ids =
            std::make_shared<const std::vector<int32_t>>(job.prompt.begin(), job.prompt.begin() + key.tokens);
      }
      const bool serves_all = session_.prefix_cuts(std::ssize(job.prompt)).serves_shorter;
      const auto keys = std::span(*job.keys).subspan(serves_all ? 0 : i, serves_all ? i + 1 : 1);
      reading.from = {prefixes_->add(std::move(prefix), keys), key.tokens};
      count_prefixes();  // who has the answer finds what was kept of its prompt
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
    action->kind == PrefixAction::Kind::to_host ? move_to_host(action->id) : let_prefix_go(action->id);
  }
  send_after_paused();
  count_prefixes();
}

void ModelService::count_prefixes() {
  const Footprint bytes = prefixes_->bytes();
  now_.prefixes = prefixes_->in_memory();
  now_.prefix_bytes = bytes.device + bytes.pinned_host + bytes.either;
  now_.prefix_files = prefixes_->files();
  now_.prefix_file_bytes = prefixes_->file_bytes();
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
    if (prefixes_->at(each).tier != PrefixTier::host) continue;
    session_.resume(prefixes_->at(each).sequence);
    prefixes_->set_tier(each, PrefixTier::device);
  }
}

void ModelService::move_to_host(PrefixId id) {
  try {
    session_.pause(prefixes_->at(id).sequence);
    prefixes_->set_tier(id, PrefixTier::host);
  } catch (const OutOfMemory&) {
    (void)drop_any_prefix();
  }
}

// From memory, to where there is a place for it.
void ModelService::let_prefix_go(PrefixId id) {
  if (disk_ && save_now(id)) {
    leave_prefix(id);
    prefixes_->set_tier(id, PrefixTier::disk);
    prefixes_->set_sequence(id, -1);
  } else {
    drop_prefix(id);
  }
}

// Its memory is given back; who began with it has what it began with in common with others still.
void ModelService::leave_prefix(PrefixId id) {
  const Prefix& prefix = prefixes_->at(id);
  if (disk_ && disk_->loading && disk_->loading->id == id) disk_->loading.reset();
  for (auto& [request, job] : jobs_) {
    if (job.reading.from.id == id) job.reading.from = prefix.parent;
  }
  if (prefix.sequence >= 0) session_.remove(prefix.sequence);
  has_gone_ = true;
}

// One that nothing begins with, in memory or in files.
void ModelService::drop_prefix(PrefixId id) {
  if (disk_ && disk_->saving && disk_->saving->id == id) {
    disk_->saving->is_dropped = true;
    disk_->writer.abandon();
  }
  leave_prefix(id);
  prefixes_->remove(id);
}

// Memory was short although the ledger had room.
bool ModelService::drop_any_prefix() {
  const std::optional<PrefixId> first = prefixes_ ? prefixes_->first_to_go() : std::nullopt;
  if (first) let_prefix_go(*first);
  return first.has_value();
}

}  // namespace shadowkv
