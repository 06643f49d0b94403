#include "engine/prefix_cache.h"

#include <algorithm>
#include <ranges>
#include <set>
#include <tuple>
#include <utility>

namespace shadowkv {
namespace {

constexpr int64_t kNoLimit = INT64_MAX;

int64_t total(const Footprint& bytes) {
  return bytes.device + bytes.pinned_host + bytes.either;
}

}  // namespace

std::optional<PrefixPlace> PrefixCache::find(std::span<const PrefixKey> keys, int64_t most_tokens) const {
  for (const PrefixKey& key : std::views::reverse(keys)) {
    if (key.tokens > most_tokens) continue;
    if (const auto found = places_.find(key.digest); found != places_.end()) return found->second;
  }
  return std::nullopt;
}

PrefixId PrefixCache::add(Prefix prefix, std::span<const PrefixKey> keys) {
  const PrefixId id = next_id_++;
  Entry entry{.prefix = std::move(prefix), .digests = {}, .used = ++now_};
  entry.digests.reserve(keys.size());
  const PrefixId parent = entry.prefix.parent.id;
  Entry& added = entries_.emplace(id, std::move(entry)).first->second;
  try {
    for (const PrefixKey& key : keys) {
      if (places_.try_emplace(key.digest, PrefixPlace{id, key.tokens}).second)
        added.digests.push_back(key.digest);
    }
  } catch (...) {
    for (const PrefixDigest& digest : added.digests) places_.erase(digest);
    entries_.erase(id);
    throw;
  }
  if (const auto found = entries_.find(parent); found != entries_.end()) ++found->second.children;
  return id;
}

void PrefixCache::remove(PrefixId id) {
  const auto found = entries_.find(id);
  for (const PrefixDigest& digest : found->second.digests) places_.erase(digest);
  const auto parent = entries_.find(found->second.prefix.parent.id);
  if (parent != entries_.end()) --parent->second.children;
  entries_.erase(found);
}

std::vector<PrefixId> PrefixCache::path(PrefixId id) const {
  std::vector<PrefixId> ids;
  for (auto at = entries_.find(id); at != entries_.end(); at = entries_.find(at->second.prefix.parent.id)) {
    ids.push_back(at->first);
  }
  std::ranges::reverse(ids);
  return ids;
}

// Those that others begin with were used no earlier than these.
void PrefixCache::touch(PrefixId id) {
  ++now_;
  for (const PrefixId each : path(id)) {
    entries_.at(each).used = now_;
    entries_.at(each).prefix.used = std::chrono::steady_clock::now();
  }
}

std::vector<PrefixId> PrefixCache::descendants(PrefixId id) const {
  std::vector<PrefixId> found;
  for (const auto& [each, entry] : entries_) {
    if (entry.prefix.parent.id != id) continue;
    const std::vector<PrefixId> below = descendants(each);
    found.insert(found.end(), below.begin(), below.end());
    found.push_back(each);
  }
  return found;
}

std::vector<PrefixKey> PrefixCache::keys(PrefixId id) const {
  std::vector<PrefixKey> keys;
  for (const PrefixDigest& digest : entries_.at(id).digests)
    keys.push_back({.tokens = places_.at(digest).tokens, .digest = digest});
  return keys;
}

int64_t PrefixCache::in_memory() const {
  return std::ranges::count_if(entries_,
                               [](const Item& item) { return item.second.prefix.tier != PrefixTier::disk; });
}

// Of those prefixes that `which` is true for.
template <typename Which>
std::set<PrefixId> PrefixCache::parents_of(const Which& which) const {
  std::set<PrefixId> parents;
  for (const auto& [id, entry] : entries_) {
    if (which(entry.prefix)) parents.insert(entry.prefix.parent.id);
  }
  return parents;
}

void PrefixCache::cover(std::span<const PrefixPlace> places) {
  for (auto& [id, entry] : entries_) entry.covered = 0;
  for (PrefixPlace place : places) {
    for (auto at = entries_.find(place.id); at != entries_.end(); at = entries_.find(place.id)) {
      at->second.covered = std::max(at->second.covered, place.tokens);
      place = at->second.prefix.parent;
    }
  }
}

// Host memory takes what device memory does.
Footprint PrefixCache::bytes_of(const Entry& entry) const {
  const Prefix& prefix = entry.prefix;
  if (prefix.tier == PrefixTier::disk) return {};
  const Footprint bytes = sizing_(prefix.tokens, std::max(prefix.parent.tokens, entry.covered));
  return prefix.tier == PrefixTier::host ? Footprint{.pinned_host = total(bytes)} : bytes;
}

Footprint PrefixCache::bytes() const {
  Footprint sum;
  for (const auto& [id, entry] : entries_) sum += bytes_of(entry);
  return sum;
}

// The least recently used of those without children there; what nobody runs with before what somebody does.
std::optional<PrefixId> PrefixCache::first_to_go() const {
  const auto is_there = [](const Prefix& prefix) { return prefix.tier != PrefixTier::disk; };
  const std::set<PrefixId> parents = parents_of(is_there);
  const Item* first = nullptr;
  const auto order = [](const Item& item) {
    const Entry& entry = item.second;
    return std::tuple(entry.covered > 0, entry.prefix.is_pinned, entry.used);
  };
  for (const Item& item : entries_) {
    if (!is_there(item.second.prefix) || parents.contains(item.first)) continue;
    if (first == nullptr || order(item) < order(*first)) first = &item;
  }
  return first == nullptr ? std::nullopt : std::optional(first->first);
}

// Likewise.
std::optional<PrefixId> PrefixCache::first_to_leave_device() const {
  const auto is_there = [](const Prefix& prefix) { return prefix.tier == PrefixTier::device; };
  const std::set<PrefixId> parents = parents_of(is_there);
  const Item* first = nullptr;
  const auto order = [](const Item& item) {
    return std::pair(item.second.prefix.is_pinned, item.second.used);
  };
  for (const Item& item : entries_) {
    const Entry& entry = item.second;
    if (!is_there(entry.prefix) || entry.covered > 0 || parents.contains(item.first)) continue;
    if (first == nullptr || order(item) < order(*first)) first = &item;
  }
  return first == nullptr ? std::nullopt : std::optional(first->first);
}

bool PrefixCache::fits_on_host(PrefixId id, const Footprint& all, const Room& room) const {
  Footprint moved = all;
  const Footprint bytes = bytes_of(entries_.at(id));
  moved.either -= bytes.either;
  moved.pinned_host += bytes.device + bytes.either;
  moved.device -= bytes.device;
  return fits(moved, {.device = kNoLimit, .host = room.host});
}

std::optional<PrefixAction> PrefixCache::next(const Footprint& set_aside, const Room& room) const {
  const Footprint kept = bytes();
  Footprint all = set_aside;
  all += kept;
  const bool is_too_much = total(kept) > most_bytes_;
  if (!is_too_much && fits(all, room)) return std::nullopt;
  const std::optional<PrefixId> last = first_to_go();
  if (!last) return std::nullopt;
  const bool device_is_short = !fits(all, {.device = room.device, .host = kNoLimit});
  if (!is_too_much && device_is_short) {
    const std::optional<PrefixId> down = first_to_leave_device();
    if (down && fits_on_host(*down, all, room)) return PrefixAction{PrefixAction::Kind::to_host, *down};
  }
  return PrefixAction{PrefixAction::Kind::drop, *last};
}

bool PrefixCache::is_filling(const Footprint& set_aside, const Room& room) const {
  const Footprint kept = bytes();
  Footprint all = set_aside;
  all += kept;
  all += kept;
  return 2 * total(kept) > most_bytes_ || !fits(all, room);
}

// ---- files ------------------------------------------------------------------------------------------------

void PrefixCache::set_file(PrefixId id, int64_t bytes) {
  entries_.at(id).prefix.file_bytes = bytes;
  if (bytes > 0) return;
  for (const PrefixId each : descendants(id)) entries_.at(each).prefix.file_bytes = 0;
}

int64_t PrefixCache::file_bytes() const {
  int64_t sum = 0;
  for (const auto& [id, entry] : entries_) sum += entry.prefix.file_bytes;
  return sum;
}

int64_t PrefixCache::files() const {
  return std::ranges::count_if(entries_, [](const Item& item) { return item.second.prefix.file_bytes > 0; });
}

std::optional<PrefixId> PrefixCache::first_to_save() const {
  const Item* first = nullptr;
  const auto order = [](const Item& item) {
    return std::pair(!item.second.prefix.wants_file, item.second.used);
  };
  for (const Item& item : entries_) {
    const Prefix& prefix = item.second.prefix;
    const auto parent = entries_.find(prefix.parent.id);
    if (prefix.file_bytes > 0 || !prefix.ids) continue;
    if (parent != entries_.end() && parent->second.prefix.file_bytes == 0) continue;
    if (first == nullptr || order(item) < order(*first)) first = &item;
  }
  return first == nullptr ? std::nullopt : std::optional(first->first);
}

bool PrefixCache::wants_files() const {
  return std::ranges::any_of(entries_, [](const Item& item) {
    return item.second.prefix.wants_file && item.second.prefix.file_bytes == 0;
  });
}

void PrefixCache::want_file(PrefixId id) {
  for (const PrefixId each : path(id)) entries_.at(each).prefix.wants_file = true;
}

int64_t PrefixCache::memory_bytes(PrefixId id) const {
  const Prefix& prefix = entries_.at(id).prefix;
  return prefix.tier == PrefixTier::disk ? 0 : total(sizing_(prefix.tokens, prefix.parent.tokens));
}

std::vector<PrefixId> PrefixCache::of_tenant(const PrefixDigest& tenant) const {
  std::vector<std::pair<int64_t, PrefixId>> sorted;
  for (const auto& [id, entry] : entries_) {
    if (entry.prefix.tenant == tenant)
      sorted.emplace_back(-entry.used, -id);  // each before what it begins with
  }
  std::ranges::sort(sorted);
  std::vector<PrefixId> ids;
  ids.reserve(sorted.size());
  for (const auto& [used, id] : sorted) ids.push_back(-id);
  return ids;
}

std::optional<PrefixId> PrefixCache::first_file_to_go(std::optional<PrefixId> other) const {
  const auto has_file = [](const Prefix& prefix) { return prefix.file_bytes > 0; };
  std::set<PrefixId> stay = parents_of(has_file);
  if (other) {
    for (const PrefixId each : path(*other)) stay.insert(each);
  }
  const int64_t before = other ? entries_.at(*other).used : now_ + 1;
  const Item* first = nullptr;
  for (const Item& item : entries_) {
    const Entry& entry = item.second;
    const bool stays = entry.prefix.is_pinned || entry.prefix.wants_file || stay.contains(item.first);
    if (!has_file(entry.prefix) || stays || entry.used >= before) continue;
    if (first == nullptr || entry.used < first->second.used) first = &item;
  }
  return first == nullptr ? std::nullopt : std::optional(first->first);
}

}  // namespace shadowkv
