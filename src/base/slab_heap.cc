#include "base/slab_heap.h"

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace shadowkv {

SlabHeap::SlabHeap(const SlabHeapConfig& config, SlabSource source)
    : config_(config), source_(std::move(source)) {}

SlabHeap::~SlabHeap() {
  for (const auto& [data, bytes] : slabs_) source_.unmap(data, bytes);
}

int64_t SlabHeap::mapped_bytes() const {
  const std::lock_guard lock(mutex_);
  return mapped_;
}

std::byte* SlabHeap::allocate(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (is_large(bytes)) return map(round_up(bytes, config_.granularity));
  const int64_t rounded = round_up(bytes, config_.alignment);
  if (std::byte* data = take(rounded)) return data;
  const int64_t growth = std::clamp(mapped_, config_.first_slab, config_.largest_slab);
  // A whole number of such allocations: most are blocks of one size, and what is left over serves nobody.
  for (const int64_t size : {growth / rounded * rounded, rounded}) {
    const int64_t whole = round_up(std::max(size, rounded), config_.granularity);
    if (std::byte* slab = map(whole)) {
      insert(slab, whole);
      return take(rounded);
    }
  }
  return nullptr;
}

void SlabHeap::free(std::byte* data, int64_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  if (is_large(bytes))
    unmap(data);
  else
    insert(data, round_up(bytes, config_.alignment));
}

// A new slab; empty ones make room for it where there is none.
std::byte* SlabHeap::map(int64_t bytes) {
  std::byte* data = source_.map(bytes);
  if (data == nullptr && unmap_empty_slabs()) data = source_.map(bytes);
  if (data == nullptr) return nullptr;
  mapped_ += bytes;
  slabs_.emplace(data, bytes);
  return data;
}

void SlabHeap::unmap(std::byte* slab) {
  const auto found = slabs_.find(slab);
  mapped_ -= found->second;
  source_.unmap(slab, found->second);
  slabs_.erase(found);
}

// True if there was one.
bool SlabHeap::unmap_empty_slabs() {
  std::vector<std::byte*> empty;
  for (const auto& [slab, bytes] : slabs_) {
    const auto range = free_.find(slab);
    if (range != free_.end() && range->second == bytes) empty.push_back(slab);
  }
  for (std::byte* slab : empty) {
    erase(free_.find(slab));
    unmap(slab);
  }
  return !empty.empty();
}

std::byte* SlabHeap::take(int64_t bytes) {
  const auto best = sizes_.lower_bound({bytes, nullptr});
  if (best == sizes_.end()) return nullptr;
  const auto [size, data] = *best;
  erase(free_.find(data));
  if (size > bytes) insert(data + bytes, size - bytes);
  return data;
}

// Adds a free range, joined with its free neighbours of the same slab.
void SlabHeap::insert(std::byte* data, int64_t bytes) {
  const auto next = free_.find(data + bytes);
  if (next != free_.end() && !slabs_.contains(data + bytes)) {
    bytes += next->second;
    erase(next);
  }
  const auto after = free_.upper_bound(data);
  if (after != free_.begin() && !slabs_.contains(data)) {
    const auto previous = std::prev(after);
    if (previous->first + previous->second == data) {
      data = previous->first;
      bytes += previous->second;
      erase(previous);
    }
  }
  free_.emplace(data, bytes);
  sizes_.emplace(bytes, data);
}

void SlabHeap::erase(std::map<std::byte*, int64_t>::iterator range) {
  sizes_.erase({range->second, range->first});
  free_.erase(range);
}

}  // namespace shadowkv
