// One contiguous device region a sequence, found through a table of addresses: slots and resident keys.
#pragma once

#include <vector>

#include "base/device.h"
#include "base/memory_piece.h"
#include "cache/device_array.h"

namespace shadowkv {

class RegionStore {
 public:
  RegionStore(Device& device, Purpose purpose)
      : device_(device), purpose_(purpose), table_(device), counts_(device) {}

  // A zeroed region of that size for a row; `count` is what its entry of counts() says.
  void allocate(int64_t row, int64_t bytes, int64_t count) {
    const auto index = static_cast<std::size_t>(row);
    if (index >= regions_.size()) regions_.resize(index + 1);
    if (row >= table_.size()) {
      table_.resize(row + 1);
      counts_.resize(row + 1);
    }
    regions_[index] = Buffer();
    regions_[index] = device_.allocate(Tier::device, purpose_, bytes);
    device_.compute().fill_zero(regions_[index].data(), bytes);
    table_.set(row, regions_[index].data());
    counts_.set(row, static_cast<int32_t>(count));
  }
  // A copy of another row's region, in the compute queue's order.
  void copy(int64_t from, int64_t to) {
    allocate(to, regions_[static_cast<std::size_t>(from)].bytes(), counts_[from]);
    const Buffer& region = regions_[static_cast<std::size_t>(to)];
    device_.compute().copy(region.data(), regions_[static_cast<std::size_t>(from)].data(), region.bytes());
  }
  void clear(int64_t row) {
    if (row >= static_cast<int64_t>(regions_.size())) return;
    const Buffer& region = regions_[static_cast<std::size_t>(row)];
    device_.compute().fill_zero(region.data(), region.bytes());
  }
  void release(int64_t row) {
    if (row < static_cast<int64_t>(regions_.size())) regions_[static_cast<std::size_t>(row)] = Buffer();
  }
  void move(int64_t row, Tier to) {
    if (row >= static_cast<int64_t>(regions_.size())) return;
    Buffer& region = regions_[static_cast<std::size_t>(row)];
    move_buffer(device_.compute(), region, to);
    table_.set(row, region.data());
  }
  [[nodiscard]] int64_t held_bytes(int64_t row, Tier tier) const {
    if (row >= static_cast<int64_t>(regions_.size())) return 0;
    const Buffer& region = regions_[static_cast<std::size_t>(row)];
    return region.tier() == tier ? region.bytes() : 0;
  }
  [[nodiscard]] int64_t held_bytes(Tier tier) const {
    int64_t sum = 0;
    for (const Buffer& region : regions_) sum += region.tier() == tier ? region.bytes() : 0;
    return sum;
  }
  [[nodiscard]] MemoryPiece memory(int64_t row) const {
    const Buffer& region = regions_[static_cast<std::size_t>(row)];
    return {region.data(), region.bytes()};
  }
  [[nodiscard]] int64_t count(int64_t row) const { return counts_[row]; }
  // Start of a row's region, in device memory.
  [[nodiscard]] std::byte* data(int64_t row) { return regions_[static_cast<std::size_t>(row)].data(); }
  [[nodiscard]] std::byte* const* regions(Queue& queue) { return table_.upload(queue); }
  [[nodiscard]] const int32_t* counts(Queue& queue) { return counts_.upload(queue); }

 private:
  Device& device_;
  Purpose purpose_;
  std::vector<Buffer> regions_;
  DeviceArray<std::byte*> table_;
  DeviceArray<int32_t> counts_;
};

}  // namespace shadowkv
