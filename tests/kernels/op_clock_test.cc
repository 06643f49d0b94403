#include "base/op_clock.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "kernels/devices.h"
#include "kernels/kernels.h"

namespace shadowkv::testing {
namespace {

class OpClocks : public ::testing::TestWithParam<TestDevice> {
 protected:
  static constexpr int64_t kWidth = 256, kTokens = 32;

  void step() {
    matmul(queue_, {.x = x_.view, .weight = weight_.view, .bias = {}, .out = gate_.view});
    silu_mul(queue_, {.gate = gate_.view, .up = gate_.view, .out = gate_.view});
  }
  void expect_step(const std::vector<OpRun>& runs) {
    ASSERT_EQ(runs.size(), 2u);
    EXPECT_EQ(std::string(runs[0].op), "matmul");
    EXPECT_EQ(runs[0].rows, 2 * kWidth);
    EXPECT_EQ(runs[0].columns, kWidth);
    EXPECT_EQ(std::string(runs[1].op), "silu_mul");
    EXPECT_EQ(runs[1].rows, 0);
    for (const OpRun& run : runs) EXPECT_GT(run.seconds, 0);
  }

  std::unique_ptr<Device> device_ = GetParam().make();
  Queue& queue_ = device_->compute();
  Array x_ =
      upload_as(*device_, GetParam().activations, random_numbers(kTokens* kWidth, 1), {kTokens, kWidth});
  Array weight_ =
      upload_as(*device_, DType::bf16, random_numbers(2 * kWidth * kWidth, 2), {2 * kWidth, kWidth});
  Array gate_ = allocate(*device_, GetParam().activations, {kTokens, 2 * kWidth});
};

TEST_P(OpClocks, EveryOpIsNamedInOrderWithTimesThatAddUpToLessThanTheWhole) {
  step();
  OpClock& clock = device_->start_op_clock();
  for (int run = 0; run < 2; ++run) {
    const auto start = std::chrono::steady_clock::now();
    step();
    const std::vector<OpRun> runs = clock.read();
    const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - start;
    expect_step(runs);
    EXPECT_LT(runs[0].seconds + runs[1].seconds, whole.count());
  }
  device_->stop_op_clock();
  EXPECT_EQ(device_->op_clock(), nullptr);
  step();
}

TEST_P(OpClocks, AReplayedRecordingIsTimedAnew) {
  OpClock& clock = device_->start_op_clock();
  step();
  expect_step(clock.read());
  const std::unique_ptr<Graph> graph = queue_.record([&] { step(); });
  for (int run = 0; graph && run < 3; ++run) {
    graph->launch();
    expect_step(clock.read());
  }
  device_->stop_op_clock();
}

TEST_P(OpClocks, WhileItRunsQueuesAreOneAndRecordingsAreVoid) {
  const int64_t before = device_->address_epoch();
  device_->start_op_clock();
  EXPECT_EQ(&device_->copy(), &device_->compute());
  const int64_t during = device_->address_epoch();
  EXPECT_GT(during, before);
  device_->stop_op_clock();
  EXPECT_GT(device_->address_epoch(), during);
}

INSTANTIATE_TEST_SUITE_P(Devices, OpClocks, ::testing::ValuesIn(test_devices()), name_of_device);

}  // namespace
}  // namespace shadowkv::testing
