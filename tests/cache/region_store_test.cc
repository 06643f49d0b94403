#include "cache/region_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "shadowkv/error.h"

namespace shadowkv {
namespace {

TEST(RegionStore, RegionsAreZeroedAndFoundThroughTheTables) {
  const auto device = make_cpu_device({.threads = 1});
  RegionStore store(*device, Purpose::slots);
  store.allocate(2, 100, 7);
  store.allocate(0, 50, 3);
  std::byte* const* regions = store.regions(device->compute());
  const int32_t* counts = store.counts(device->compute());
  EXPECT_EQ(counts[0], 3);
  EXPECT_EQ(counts[2], 7);
  EXPECT_TRUE(std::all_of(regions[2], regions[2] + 100, [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(store.held_bytes(2, Tier::device), 100);
  EXPECT_EQ(store.held_bytes(1, Tier::device), 0);
  EXPECT_EQ(store.held_bytes(99, Tier::device), 0);
  EXPECT_EQ(device->memory().of(Tier::device, Purpose::slots), 150);
}

TEST(RegionStore, ARowUsedAgainStartsZeroedAndTheOthersStay) {
  const auto device = make_cpu_device({.threads = 1});
  RegionStore store(*device, Purpose::slots);
  store.allocate(0, 64, 1);
  store.allocate(1, 64, 1);
  std::memset(store.regions(device->compute())[0], 1, 64);
  std::memset(store.regions(device->compute())[1], 2, 64);
  store.release(0);
  store.release(5);  // never allocated: nothing happens
  EXPECT_EQ(device->memory().of(Tier::device, Purpose::slots), 64);
  store.allocate(0, 64, 1);
  EXPECT_EQ(store.regions(device->compute())[0][63], std::byte{0});
  EXPECT_EQ(store.regions(device->compute())[1][63], std::byte{2});
}

TEST(RegionStore, WithoutMemoryItHoldsNothingForTheRow) {
  const auto device = make_cpu_device({.threads = 1});
  RegionStore store(*device, Purpose::slots);
  device->set_budget(Tier::device, 99);
  EXPECT_THROW(store.allocate(0, 100, 1), OutOfMemory);
  EXPECT_EQ(store.held_bytes(0, Tier::device), 0);
  EXPECT_EQ(device->memory().held(Tier::device), 0);
}

}  // namespace
}  // namespace shadowkv
