#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "base/device.h"
#include "shadowkv/error.h"

namespace shadowkv {
namespace {

TEST(CudaDeviceMissing, IsRefusedInOneSentence) {
  if (cuda_device_count() > 0) GTEST_SKIP() << "there is a GPU";
  EXPECT_THROW((void)make_cuda_device(), InvalidInput);
}

class CudaDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU, or a build without CUDA: nothing here was tested";
    device_ = make_cuda_device({.threads = 2});
  }

  std::vector<int32_t> read(const std::byte* from, int64_t count) {
    std::vector<int32_t> numbers(static_cast<std::size_t>(count));
    device_->compute().copy(numbers.data(), from, 4 * count);
    device_->compute().synchronize();
    return numbers;
  }

  std::unique_ptr<Device> device_;
};

std::vector<int32_t> counted(int32_t from, int64_t count) {
  std::vector<int32_t> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), from);
  return numbers;
}

TEST_F(CudaDeviceTest, NumbersSurviveATripThroughBothTiersAndBothQueues) {
  constexpr int64_t kCount = 3'000'001;
  const auto numbers = counted(5, kCount);
  const Buffer first = device_->allocate(Tier::device, Purpose::activations, 4 * kCount);
  const Buffer pinned = device_->allocate(Tier::pinned_host, Purpose::values, 4 * kCount);
  const Buffer second = device_->allocate(Tier::device, Purpose::activations, 4 * kCount);
  device_->compute().copy(first.data(), numbers.data(), 4 * kCount);
  device_->copy().wait_for(device_->compute());
  device_->copy().copy(pinned.data(), first.data(), 4 * kCount);
  device_->compute().wait_for(device_->copy());
  device_->compute().copy(second.data(), pinned.data(), 4 * kCount);
  EXPECT_EQ(read(second.data(), kCount), numbers);
  EXPECT_EQ(std::memcmp(pinned.data(), numbers.data(), 4 * kCount), 0);
}

TEST_F(CudaDeviceTest, EveryAllocationIsAlignedAndItsOwn) {
  std::vector<Buffer> buffers;
  for (int64_t i = 0; i < 300; ++i) {
    for (const Tier tier : {Tier::device, Tier::pinned_host}) {
      const int64_t count = 1 + i * i * 7 % 5000;
      const std::vector<int32_t> mark(static_cast<std::size_t>(count), static_cast<int32_t>(buffers.size()));
      buffers.push_back(device_->allocate(tier, Purpose::index, 4 * count));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(buffers.back().data()) % 256, 0U);
      device_->compute().copy(buffers.back().data(), mark.data(), 4 * count);
    }
  }
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const auto count = buffers[i].bytes() / 4;
    EXPECT_EQ(read(buffers[i].data(), count),
              std::vector<int32_t>(static_cast<std::size_t>(count), static_cast<int32_t>(i)));
  }
}

TEST_F(CudaDeviceTest, ARecordedGraphRunsAgainOnWhatItsMemoryHolds) {
  const Buffer from = device_->allocate(Tier::device, Purpose::activations, 400);
  const Buffer to = device_->allocate(Tier::pinned_host, Purpose::activations, 400);
  Queue& queue = device_->compute();
  const auto graph = queue.record([&] {
    queue.fill_zero(to.data(), 400);
    device_->copy().wait_for(queue);
    device_->copy().copy(to.data() + 200, from.data(), 200);
    queue.wait_for(device_->copy());
  });
  ASSERT_NE(graph, nullptr);
  for (const int32_t start : {10, 2000}) {
    const auto numbers = counted(start, 50);
    queue.copy(from.data(), numbers.data(), 200);
    graph->launch();
    auto expected = std::vector<int32_t>(50, 0);
    expected.insert(expected.end(), numbers.begin(), numbers.end());
    EXPECT_EQ(read(to.data(), 100), expected);
  }
}

TEST_F(CudaDeviceTest, ARecordingThatThrowsLeavesTheQueueUsable) {
  const Buffer memory = device_->allocate(Tier::device, Purpose::activations, 40);
  Queue& queue = device_->compute();
  EXPECT_THROW((void)queue.record([] { throw InvalidInput("a body that fails"); }), InvalidInput);
  queue.fill_zero(memory.data(), 40);
  EXPECT_EQ(read(memory.data(), 10), std::vector<int32_t>(10, 0));
}

TEST_F(CudaDeviceTest, MoreThanTheBudgetIsRefused) {
  device_->set_budget(Tier::device, 1 << 20);
  EXPECT_THROW((void)device_->allocate(Tier::device, Purpose::weights, 2 << 20), OutOfMemory);
}

}  // namespace
}  // namespace shadowkv
