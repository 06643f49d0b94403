#include "base/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <utility>

#include "shadowkv/error.h"

namespace shadowkv {
namespace {

constexpr CpuDeviceOptions kSmall = {.threads = 1, .device_bytes = 4096, .pinned_bytes = 1024};

TEST(Device, BytesAreCountedByTierAndPurposeAndGivenBack) {
  const auto device = make_cpu_device(kSmall);
  {
    const Buffer weights = device->allocate(Tier::device, Purpose::weights, 1000);
    const Buffer values = device->allocate(Tier::pinned_host, Purpose::values, 300);
    const MemoryUse use = device->memory();
    EXPECT_EQ(use.of(Tier::device, Purpose::weights), 1000);
    EXPECT_EQ(use.of(Tier::pinned_host, Purpose::values), 300);
    EXPECT_EQ(use.held(Tier::device), 1000);
    EXPECT_EQ(device->free_bytes(Tier::device), 3096);
  }
  EXPECT_EQ(device->memory().held(Tier::device), 0);
  EXPECT_EQ(device->memory().held(Tier::pinned_host), 0);
  EXPECT_EQ(device->memory().peak[0], 1000);
}

TEST(Device, MoreThanTheBudgetIsRefusedWithAllNumbers) {
  const auto device = make_cpu_device(kSmall);
  const Buffer held = device->allocate(Tier::device, Purpose::index, 1024);
  try {
    (void)device->allocate(Tier::device, Purpose::slots, 3584);
    FAIL();
  } catch (const OutOfMemory& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("3.5 KiB of device memory for slots"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("3.0 KiB of 4.0 KiB are free"));
  }
  EXPECT_EQ(device->memory().held(Tier::device), 1024) << "a refusal takes nothing";
}

TEST(Device, TheWholeBudgetMayBeHeldAndNotAByteMore) {
  const auto device = make_cpu_device(kSmall);
  const Buffer all = device->allocate(Tier::device, Purpose::weights, 4096);
  EXPECT_THROW((void)device->allocate(Tier::device, Purpose::weights, 1), OutOfMemory);
}

TEST(Device, ALoweredBudgetBindsWhatComesNext) {
  const auto device = make_cpu_device(kSmall);
  const Buffer held = device->allocate(Tier::device, Purpose::weights, 2048);
  device->set_budget(Tier::device, 1024);
  EXPECT_LT(device->free_bytes(Tier::device), 0);
  EXPECT_THROW((void)device->allocate(Tier::device, Purpose::weights, 1), OutOfMemory);
}

TEST(Device, AMovedBufferCountsOnce) {
  const auto device = make_cpu_device(kSmall);
  Buffer first = device->allocate(Tier::device, Purpose::weights, 100);
  std::byte* data = first.data();
  Buffer second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_TRUE(first.empty());  // NOLINT(bugprone-use-after-move): the law under test
  EXPECT_EQ(device->memory().held(Tier::device), 100);
  second = device->allocate(Tier::device, Purpose::weights, 50);
  EXPECT_EQ(device->memory().held(Tier::device), 50) << "what was held before the assignment is given back";
}

TEST(Device, ABufferOfNoBytesIsEmptyAndANegativeOneIsRefused) {
  const auto device = make_cpu_device(kSmall);
  EXPECT_TRUE(device->allocate(Tier::device, Purpose::weights, 0).empty());
  EXPECT_THROW((void)device->allocate(Tier::device, Purpose::weights, -1), InvalidInput);
}

TEST(Device, MemoryIsAlignedForVectors) {
  const auto device = make_cpu_device({.threads = 1, .device_bytes = int64_t{16} << 20, .pinned_bytes = 1});
  for (const int64_t bytes : {1, 100, 5 << 20}) {
    const Buffer buffer = device->allocate(Tier::device, Purpose::weights, bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0u) << bytes;
    EXPECT_EQ(buffer.bytes(), bytes);
  }
}

TEST(Device, QueuesCopyAndClearInOrder) {
  const auto device = make_cpu_device(kSmall);
  const Buffer from = device->allocate(Tier::pinned_host, Purpose::values, 64);
  const Buffer to = device->allocate(Tier::device, Purpose::values, 64);
  std::memset(from.data(), 7, 64);
  device->copy().copy(to.data(), from.data(), 64);
  device->copy().fill_zero(to.data(), 32);
  device->compute().wait_for(device->copy());
  device->compute().synchronize();
  EXPECT_EQ(to.data()[31], std::byte{0});
  EXPECT_EQ(to.data()[32], std::byte{7});
}

}  // namespace
}  // namespace shadowkv
