// The end of a process whose GPU fails for good: one line, one exit code, and no hanging on the way out. Each
// in a process of its own, since nothing can use the GPU afterwards.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "base/device.h"
#include "exit_code.h"
#include "kernels/kernels.h"
#include "shadowkv/device_lost.h"
#include "shadowkv/error.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {
namespace {

TEST(ExitCodes, OfALostDeviceIsThatOfItsFailure) {
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(run_and_report([]() -> int { throw DeviceLost("gone"); }), 4);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "shadowkv: gone\n");
}

// Has the GPU write where nothing is; it is lost to this process from then on.
void lose_gpu(Device& device) {
  const TensorView nowhere(reinterpret_cast<std::byte*>(0x1000), DType::bf16, {1, 64});
  silu_mul(device.compute(), {.gate = nowhere, .up = nowhere, .out = nowhere});
}

class GpuFailure : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "No NVIDIA GPU was found.";
    GTEST_FLAG_SET(death_test_style, "threadsafe");
  }
};

// Two sequences under way on a tiny model when the GPU is lost.
int decode_on_a_lost_gpu(bool times_ops) {
  EngineOptions options;
  options.shape = "tiny";
  options.device = "cuda";
  options.device_bytes = int64_t{1} << 30;
  const auto engine = Engine::load(options);
  const AttentionConfig method = preset("default");
  const auto session = engine->open({&method, 1});
  std::vector<SequenceToken> batch;
  for (int i = 0; i < 2; ++i) {
    batch.push_back({session->add(64), 1});
    (void)session->prefill(batch.back().sequence, std::vector<int32_t>(20, 3));
  }
  for (int step = 0; step < 3; ++step) (void)session->decode(0, batch);
  if (times_ops) session->time_ops(true);
  const auto device = make_cuda_device({.device_bytes = int64_t{1} << 28});
  lose_gpu(*device);
  (void)session->decode(0, batch);
  return 0;
}

const auto kLostInOneLine = ::testing::AllOf(
    ::testing::HasSubstr("shadowkv: "), ::testing::HasSubstr("cudaErrorIllegalAddress"),
    ::testing::HasSubstr("what it held is lost"), ::testing::HasSubstr("2 sequences of 46 tokens in all"));

TEST_F(GpuFailure, ForGoodEndsTheProcessWithOneLineThatSaysWhatIsLost) {
  for (const bool times_ops : {false, true}) {
    EXPECT_EXIT(std::exit(run_and_report([=] { return decode_on_a_lost_gpu(times_ops); })),
                ::testing::ExitedWithCode(4), kLostInOneLine);
  }
}

TEST_F(GpuFailure, OfOneCallSaysItsSizeAndLeavesTheDeviceUsable) {
  const auto device = make_cuda_device({.device_bytes = int64_t{1} << 28});
  const Buffer memory = device->allocate(Tier::device, Purpose::activations, 1 << 20);
  try {
    device->compute().copy(nullptr, memory.data(), 1 << 20);
    FAIL();
  } catch (const DeviceLost&) {
    FAIL() << "a wrong argument is no lost device";
  } catch (const DeviceFailure& failure) {
    EXPECT_THAT(failure.what(), ::testing::HasSubstr("copying memory (1.0 MiB): the GPU reported"));
  }
  device->compute().fill_zero(memory.data(), memory.bytes());
  EXPECT_NO_THROW(device->compute().synchronize());
}

TEST_F(GpuFailure, ForWantOfMemoryLeavesTheSessionUsable) {
  EngineOptions options;
  options.shape = "tiny";
  options.device = "cuda";
  options.device_bytes = int64_t{1} << 62;  // no budget: the GPU itself says no
  const auto engine = Engine::load(options);
  const AttentionConfig method = preset("full");
  const auto session = engine->open({&method, 1});
  const std::vector<int32_t> prompt(32768, 3);                            // of half a GiB of keys and values
  (void)session->prefill(session->add(40), std::vector<int32_t>(30, 3));  // kernels are loaded
  const auto device = make_cuda_device({.device_bytes = int64_t{1} << 62});
  std::vector<Buffer> everything;
  try {
    while (true) everything.push_back(device->allocate(Tier::device, Purpose::values, int64_t{1} << 28));
  } catch (const OutOfMemory& full) {
    EXPECT_THAT(full.what(), ::testing::HasSubstr("256.0 MiB of device memory were asked for"));
  }
  const SequenceId id = session->add(static_cast<int64_t>(prompt.size()));
  EXPECT_THROW((void)session->prefill(id, prompt), OutOfMemory);
  everything.clear();
  EXPECT_EQ(session->prefill(id, prompt).size(), static_cast<std::size_t>(engine->model().vocab_size));
}

}  // namespace
}  // namespace shadowkv::apps
