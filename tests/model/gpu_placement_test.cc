// Values that move between the GPU's memory and the host's while sequences are decoded, recorded steps
// included.
#include <gtest/gtest.h>

#include <algorithm>

#include "model/gpu_sequences.h"
#include "support/tolerances.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kSequences = 5, kPrompt = 700, kSteps = 48;

// Logits [step][sequence * vocab] under forced tokens.
std::vector<std::vector<float>> rows_of(StorageType values, bool moves) {
  FileModel model(kGpuModel, DType::bf16, make_cuda_device());
  Device& device = model.device();
  AttentionConfig config = sparse_from_the_start(IndexKind::sketch, 48, values);
  Methods methods = model.open(config);
  const std::vector<SeqId> ids = read_prompts(methods, kSequences, kPrompt, kSteps);
  Attention& attention = methods.method();
  const int64_t movable = attention.movable_bytes();
  int64_t down = 0, up = 0;
  std::vector<std::vector<float>> rows;
  for (int64_t step = 0; step < kSteps; ++step) {
    if (moves && step % 8 == 2) {  // the steps up to the next move are of one shape, recorded and replayed
      down += attention.release_device(device.free_bytes(Tier::device) + movable * (step % 5 + 1) / 5);
      attention.keep_free(device.free_bytes(Tier::device) - (int64_t{64} << 20));
    }
    if (moves && step % 8 == 6) attention.keep_free(0);
    const int64_t before = attention.movable_bytes();
    std::vector<int32_t> tokens;
    for (int64_t s = 0; s < kSequences; ++s) tokens.push_back(made_up_token(s, kPrompt + s + step));
    rows.push_back(methods.decode(ids, tokens));
    up += std::max<int64_t>(0, attention.movable_bytes() - before);
  }
  if (moves) {
    EXPECT_GT(down, 0);
    EXPECT_GT(up, 0);
  }
  for (const SeqId id : ids) methods.end(id);
  for (const Tier tier : {Tier::device, Tier::pinned_host}) {
    EXPECT_EQ(device.memory().of(tier, Purpose::values), 0);
  }
  return rows;
}

TEST(GpuPlacement, ValuesThatMoveBetweenStepsChangeNoResult) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "No NVIDIA GPU was found.";
  for (const StorageType values : {StorageType::bfloat16, StorageType::int8}) {
    const auto still = rows_of(values, false), moving = rows_of(values, true);
    for (std::size_t step = 0; step < still.size(); ++step) {
      float most = 0;
      for (std::size_t i = 0; i < still[step].size(); ++i)
        most = std::max(most, std::abs(still[step][i] - moving[step][i]));
      EXPECT_LE(most, kGpuDoubt) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace shadowkv::testing
