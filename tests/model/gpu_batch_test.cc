// Batches on a GPU: how a step is cut changes at most how sums are rounded.
#include <gtest/gtest.h>

#include <algorithm>

#include "model/gpu_sequences.h"
#include "support/tolerances.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kSequences = 5, kPrompt = 150, kSteps = 12;

// Logits [step][sequence * vocab] of sequences with forced tokens.
std::vector<std::vector<float>> rows_of(const AttentionConfig& config) {
  FileModel model(kGpuModel, DType::bf16, make_cuda_device());
  Methods methods = model.open(config);
  const std::vector<SeqId> ids = read_prompts(methods, kSequences, kPrompt, kSteps);
  std::vector<std::vector<float>> rows;
  for (int64_t step = 0; step < kSteps; ++step) {
    std::vector<int32_t> tokens;
    for (int64_t s = 0; s < kSequences; ++s) tokens.push_back(made_up_token(s, kPrompt + s + step));
    rows.push_back(methods.decode(ids, tokens));
  }
  return rows;
}

TEST(GpuBatch, MicroBatchesComputeWhatOneBatchDoes) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "No NVIDIA GPU was found.";
  for (const IndexKind index : {IndexKind::sketch, IndexKind::landmarks}) {
    for (const Placement placement : {Placement::host, Placement::spill}) {
      AttentionConfig config = sparse_from_the_start(index, 48, StorageType::bfloat16);
      config.placement = placement;
      config.micro_batches = 1;
      const auto whole = rows_of(config);
      config.micro_batches = 2;
      const auto halves = rows_of(config);
      for (std::size_t step = 0; step < whole.size(); ++step) {
        float most = 0;
        for (std::size_t i = 0; i < whole[step].size(); ++i)
          most = std::max(most, std::abs(whole[step][i] - halves[step][i]));
        EXPECT_LE(most, kGpuDoubt) << "step " << step;
      }
    }
  }
}

// Batches of different sizes in turns, so that recorded steps of both serve again and again.
TEST(GpuBatch, TokensDrawnOnTheDeviceAreThoseThatTheHostDrawsFromItsLogits) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "No NVIDIA GPU was found.";
  const AttentionConfig config = sparse_from_the_start(IndexKind::sketch, 48, StorageType::bfloat16);
  FileModel a(kGpuModel, DType::bf16, make_cuda_device()), b(kGpuModel, DType::bf16, make_cuda_device());
  Methods by_logits = a.open(config), drawing = b.open(config);
  const std::vector<SeqId> ids = read_prompts(by_logits, kSequences, kPrompt, kSteps);
  ASSERT_EQ(read_prompts(drawing, kSequences, kPrompt, kSteps), ids);
  for (int64_t step = 0; step < kSteps; ++step) {
    const std::size_t count = step % 2 == 0 ? kSequences : 2;
    const std::vector<SeqId> some(ids.begin(), ids.begin() + static_cast<int64_t>(count));
    std::vector<int32_t> tokens;
    std::vector<SamplingRow> how;
    for (std::size_t s = 0; s < count; ++s) {
      tokens.push_back(made_up_token(static_cast<int64_t>(s), kPrompt + step));
      how.push_back({.seed = s, .drawn = static_cast<uint64_t>(step), .top_k = s == 1 ? 40 : 0});
      if (s > 0) how.back().steepness = 1.2f;
      if (s > 2) how.back().share = uint64_t{1} << 63;
    }
    const std::vector<float> rows = by_logits.decode(some, tokens);
    const std::vector<int32_t> drawn = drawing.decode_sampled(some, tokens, {.how = how}).ids;
    const int64_t vocab = a.config().vocab_size;
    for (std::size_t s = 0; s < count; ++s) {
      EXPECT_EQ(drawn[s], draw_token(rows.data() + static_cast<int64_t>(s) * vocab, vocab, how[s]))
          << "step " << step << ", sequence " << s;
    }
  }
}

}  // namespace
}  // namespace shadowkv::testing
