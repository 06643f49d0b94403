#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

namespace shadowkv {
namespace {

Footprint difference(Footprint a, const Footprint& b) {
  a.device -= b.device;
  a.pinned_host -= b.pinned_host;
  a.either -= b.either;
  return a;
}

constexpr int64_t kNoLimit = INT64_MAX;

int64_t total(const Footprint& bytes) {
  return bytes.device + bytes.pinned_host + bytes.either;
}

}  // namespace

bool fits(const Footprint& sum, const Room& room) {
  const int64_t spare = room.device - sum.device;
  return spare >= 0 && sum.pinned_host + std::max<int64_t>(0, sum.either - spare) <= room.host;
}

Scheduler::Scheduler(const SchedulerLimits& limits, Sizing sizing)
    : limits_(limits), sizing_(std::move(sizing)) {}

// ---- the ledger -------------------------------------------------------------------------------------------

void Scheduler::add(RequestId id, const RequestSize& size) {
  int64_t least = INT64_MAX;
  for (const auto& [name, client] : clients_) least = std::min(least, client.served);
  const auto [entry, is_new] = entries_.emplace(id, Entry{.size = size, .set_aside = {}});
  try {
    const auto [client, has_come] = clients_.try_emplace(size.client);
    if (has_come && least != INT64_MAX) client->second.served = least;
    ++client->second.requests;
  } catch (...) {
    entries_.erase(entry);
    throw;
  }
}

void Scheduler::remove(RequestId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  change(found->second, State::waiting, {});
  const auto client = clients_.find(found->second.size.client);
  if (--client->second.requests == 0) clients_.erase(client);
  entries_.erase(found);
}

// What it held alone is free.
void Scheduler::end_answer(RequestId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  --entry.size.answers;
  if (is_active(entry)) ++departures_;
  if (entry.state == State::waiting) return;
  Footprint bytes = entry.state == State::paused ? when_paused(entry) : need(entry, entry.horizon);
  if (entry.state == State::reading) bytes.device += entry.size.working_bytes;
  change(entry, entry.state, bytes);
}

bool Scheduler::is_active(const Entry& entry) {
  return entry.state == State::reading || entry.state == State::running;
}

// Who keeps memory when it is short.
bool Scheduler::outranks(const Item& a, const Item& b) {
  if (a.second.size.priority != b.second.size.priority)
    return a.second.size.priority > b.second.size.priority;
  return a.first < b.first;
}

// Who is let in next.
bool Scheduler::goes_before(const Item& a, const Item& b) const {
  const Entry& x = a.second;
  const Entry& y = b.second;
  if (x.size.priority != y.size.priority) return x.size.priority > y.size.priority;
  const bool x_began = x.has_begun || x.state == State::paused;
  const bool y_began = y.has_begun || y.state == State::paused;
  if (x_began != y_began) return x_began;
  const int64_t x_served = clients_.at(x.size.client).served;
  const int64_t y_served = clients_.at(y.size.client).served;
  if (!x_began && x_served != y_served) return x_served < y_served;
  return a.first < b.first;
}

// Of those that `which` is true for; null when there are none.
template <typename Which, typename Order>
Scheduler::Item* Scheduler::first_of(const Which& which, const Order& order) {
  Item* first = nullptr;
  for (Item& item : entries_) {
    if (which(item) && (!first || order(item, *first))) first = &item;
  }
  return first;
}

int64_t Scheduler::count(State state) const {
  return std::count_if(entries_.begin(), entries_.end(),
                       [state](const Item& item) { return item.second.state == state; });
}

int64_t Scheduler::answers(State state) const {
  int64_t sum = 0;
  for (const auto& [id, entry] : entries_) sum += entry.state == state ? entry.size.answers : 0;
  return sum;
}

SchedulerCounts Scheduler::counts() const {
  return {.waiting = answers(State::waiting),
          .reading = answers(State::reading),
          .running = answers(State::running),
          .paused = answers(State::paused)};
}

bool Scheduler::has_others(RequestId id) const {
  return std::any_of(entries_.begin(), entries_.end(), [id](const Item& item) {
    return item.first != id && item.second.state != State::waiting;
  });
}

Footprint Scheduler::need(const Entry& entry, int64_t tokens) const {
  return sizing_({.prompt_tokens = entry.size.prompt_tokens, .max_tokens = entry.size.max_tokens}, tokens,
                 entry.size.answers);
}

int64_t Scheduler::horizon_from(const Entry& entry, int64_t tokens) const {
  return std::min(entry.size.max_tokens, tokens + std::max<int64_t>(1, limits_.growth_tokens));
}

bool Scheduler::would_fit(const Entry& entry, const Footprint& instead, const Room& room) const {
  Footprint sum = difference(sum_, entry.set_aside);
  sum += instead;
  return fits(sum, room);
}

void Scheduler::change(Entry& entry, State state, const Footprint& bytes) {
  if (is_active(entry) && state != State::reading && state != State::running) ++departures_;
  sum_ = difference(sum_, entry.set_aside);
  sum_ += bytes;
  entry.set_aside = bytes;
  entry.state = state;
}

void Scheduler::serve(const Entry& entry, int64_t tokens) {
  clients_.at(entry.size.client).served += tokens;
}

void Scheduler::finished_reading(RequestId id) {
  Entry& entry = entries_.at(id);
  Footprint bytes = entry.set_aside;
  bytes.device -= entry.size.working_bytes;
  change(entry, State::running, bytes);
  ++departures_;
}

void Scheduler::took_step(RequestId id, int64_t tokens) {
  Entry& entry = entries_.at(id);
  entry.tokens = std::max(entry.tokens, tokens);
  serve(entry, 1);
}

void Scheduler::drop(RequestId id) {
  Entry& entry = entries_.at(id);
  change(entry, State::waiting, {});
  entry.has_begun = true;
  entry.stalled_at = departures_;
}

// ---- what to do next --------------------------------------------------------------------------------------

SchedulerAction Scheduler::next(const Room& room) {
  const SchedulerAction action = grow(room);
  return action.kind != SchedulerAction::Kind::none ? action : admit(room);
}

// Sets aside for the next token of every running request, first for those that outrank others.
SchedulerAction Scheduler::grow(const Room& room) {
  const auto is_full = [](const Item& item) {
    const Entry& entry = item.second;
    return entry.state == State::running && entry.tokens >= entry.horizon &&
           entry.horizon < entry.size.max_tokens;
  };
  while (Item* item = first_of(is_full, outranks)) {
    Entry& entry = item->second;
    const int64_t horizon = horizon_from(entry, entry.tokens);
    const Footprint bytes = need(entry, horizon);
    if (!would_fit(entry, bytes, room)) return make_room(*item, bytes, room, true);
    change(entry, State::running, bytes);
    entry.horizon = horizon;
  }
  return {};
}

SchedulerAction Scheduler::admit(const Room& room) {
  const int64_t active = answers(State::reading) + answers(State::running);
  const bool may_read = count(State::reading) < limits_.max_reading;
  const auto can_start = [&](const Item& item) {
    return item.second.state == State::paused || (item.second.state == State::waiting && may_read);
  };
  Item* first = first_of(can_start, [this](const Item& a, const Item& b) { return goes_before(a, b); });
  if (!first || (active > 0 && first->second.stalled_at == departures_)) return {};
  if (active > 0 && active + first->second.size.answers > limits_.max_running) return {};
  return start(*first, room);
}

// Lets a request in, or makes room for it: at the cost of lower priorities, or, while nobody runs, of all
// that are paused.
SchedulerAction Scheduler::start(Item& item, const Room& room) {
  Entry& entry = item.second;
  const bool reads = entry.state == State::waiting;
  const int64_t tokens = reads ? entry.size.prompt_tokens : entry.tokens;
  const int64_t horizon = horizon_from(entry, tokens);
  Footprint bytes = need(entry, horizon);
  if (reads) bytes.device += entry.size.working_bytes;
  if (!would_fit(entry, bytes, room)) {
    return make_room(item, bytes, room, count(State::reading) + count(State::running) == 0);
  }
  if (reads && !entry.has_begun) serve(entry, tokens);
  change(entry, reads ? State::reading : State::running, bytes);
  entry.tokens = tokens;
  entry.horizon = horizon;
  return {.kind = reads ? SchedulerAction::Kind::read : SchedulerAction::Kind::resume, .id = item.first};
}

// The lowest that runs gives way, then, where host memory is what is short, the lowest that is paused; of
// those that the item outranks, by priority alone unless among equals. Where there is none, a running item
// gives way itself to those above it.
SchedulerAction Scheduler::make_room(Item& item, const Footprint& bytes, const Room& room,
                                     bool among_equals) {
  const auto is_below = [&](const Item& other) {
    return &other != &item && outranks(item, other) &&
           (among_equals || other.second.size.priority < item.second.size.priority);
  };
  const auto reversed = [](const Item& a, const Item& b) { return outranks(b, a); };
  const auto runs_below = [&](const Item& other) { return is_active(other.second) && is_below(other); };
  const auto is_paused_below = [&](const Item& other) {
    return other.second.state == State::paused && is_below(other);
  };
  Item* victim = first_of(runs_below, reversed);
  const bool host_is_short = would_fit(item.second, bytes, {.device = room.device, .host = kNoLimit});
  if (!victim && host_is_short) victim = first_of(is_paused_below, reversed);
  if (victim) return evict(*victim, room);
  if (is_active(item.second) && has_others(item.first)) return evict(item, room);
  if (count(State::reading) + count(State::running) > 0 && !is_active(item.second)) return {};
  return {.kind = SchedulerAction::Kind::fail, .id = item.first};
}

// In host memory whole; a step may have failed half-way.
Footprint Scheduler::when_paused(const Entry& entry) const {
  return {.pinned_host = total(need(entry, std::min(entry.tokens + 1, entry.size.max_tokens)))};
}

// Pauses what runs while host memory has room for its state; else its state goes.
SchedulerAction Scheduler::evict(Item& victim, const Room& room) {
  Entry& entry = victim.second;
  if (entry.state == State::running) {
    const Footprint paused = when_paused(entry);
    if (would_fit(entry, paused, room)) {
      change(entry, State::paused, paused);
      return {.kind = SchedulerAction::Kind::pause, .id = victim.first};
    }
  }
  change(entry, State::waiting, {});
  entry.has_begun = true;
  return {.kind = SchedulerAction::Kind::drop, .id = victim.first};
}

SchedulerAction Scheduler::give_way(const Room& room) {
  const auto reversed = [](const Item& a, const Item& b) { return outranks(b, a); };
  if (count(State::reading) + count(State::running) > 1) {
    Item& lowest = *first_of([](const Item& item) { return is_active(item.second); }, reversed);
    const SchedulerAction action = evict(lowest, room);
    lowest.second.stalled_at = departures_;
    return action;
  }
  Item* paused = first_of([](const Item& item) { return item.second.state == State::paused; }, reversed);
  return paused ? evict(*paused, room) : SchedulerAction{};
}

}  // namespace shadowkv
