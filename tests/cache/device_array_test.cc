#include "cache/device_array.h"

#include <gtest/gtest.h>

#include "shadowkv/error.h"

namespace shadowkv {
namespace {

TEST(DeviceArray, UploadBringsEveryChangeToTheDevice) {
  const auto device = make_cpu_device({.threads = 1});
  DeviceArray<int32_t> array(*device);
  array.assign({3, 1, 4});
  const int32_t* there = array.upload(device->compute());
  EXPECT_EQ(std::vector<int32_t>(there, there + 3), (std::vector<int32_t>{3, 1, 4}));
  array.set(1, 7);
  there = array.upload(device->compute());
  EXPECT_EQ(there[1], 7);
  EXPECT_EQ(array[1], 7);
}

TEST(DeviceArray, GrowingKeepsOldEntriesAndZeroesNewOnes) {
  const auto device = make_cpu_device({.threads = 1});
  DeviceArray<int64_t> array(*device);
  array.assign({5, 6});
  array.upload(device->compute());
  array.resize(500);
  const int64_t* there = array.upload(device->compute());
  EXPECT_EQ(array.size(), 500);
  EXPECT_EQ(there[0], 5);
  EXPECT_EQ(there[1], 6);
  for (int64_t i = 2; i < 500; ++i) ASSERT_EQ(there[i], 0);
}

TEST(DeviceArray, KeepsItsAddressWhileThereIsRoom) {
  const auto device = make_cpu_device({.threads = 1});
  DeviceArray<int32_t> array(*device);
  array.resize(8);
  const int32_t* first = array.upload(device->compute());
  array.resize(16);  // memory was taken for twice as many
  EXPECT_EQ(array.upload(device->compute()), first);
}

TEST(DeviceArray, LaidOutAnewIsEmptyAndLiesElsewhereAtOnceForAll) {
  const auto device = make_cpu_device({.threads = 1});
  DeviceArray<int32_t> array(*device);
  array.assign({3, 1, 4});
  array.upload(device->compute());
  const int64_t epoch = device->address_epoch();
  array.lay_out(4);
  array.set(3, 5);
  const int32_t* there = array.upload(device->compute());
  EXPECT_EQ(std::vector<int32_t>(there, there + 4), (std::vector<int32_t>{0, 0, 0, 5}));
  const int64_t later = device->address_epoch();
  EXPECT_NE(later, epoch);
  array.set(0, 2);
  EXPECT_EQ(array.upload(device->compute()), there);
  EXPECT_EQ(device->address_epoch(), later);
}

TEST(DeviceArray, CountsItsBytesAsTablesAndGivesThemBack) {
  const auto device = make_cpu_device({.threads = 1});
  {
    DeviceArray<int32_t> array(*device);
    array.resize(100);
    array.upload(device->compute());
    EXPECT_GE(device->memory().of(Tier::device, Purpose::tables), 400);
  }
  EXPECT_EQ(device->memory().held(Tier::device), 0);
}

TEST(DeviceArray, AnUploadWithoutMemoryCanBeRepeated) {
  const auto device = make_cpu_device({.threads = 1});
  DeviceArray<int32_t> array(*device);
  array.assign(std::vector<int32_t>(100, 9));
  const int64_t budget = device->memory().budget[0];
  device->set_budget(Tier::device, 10);
  EXPECT_THROW((void)array.upload(device->compute()), OutOfMemory);
  device->set_budget(Tier::device, budget);
  EXPECT_EQ(array.upload(device->compute())[99], 9);
}

}  // namespace
}  // namespace shadowkv
