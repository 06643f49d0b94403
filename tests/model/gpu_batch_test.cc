// Batches on a GPU: how a step is cut changes at most how sums are rounded.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "support/file_model.h"
#include "support/tolerances.h"

namespace shadowkv::testing {
namespace {

const std::filesystem::path kModel = std::filesystem::path(SHADOWKV_TEST_DATA) / "golden/llama_gqa/f32.gguf";
constexpr int64_t kSequences = 5, kPrompt = 150, kSteps = 12;

// Logits [step][sequence * vocab] of sequences that differ, each with forced tokens.
std::vector<std::vector<float>> rows_of(const AttentionConfig& config) {
  FileModel model(kModel, DType::bf16, make_cuda_device());
  Methods methods = model.open(config);
  const auto token = [&](int64_t sequence, int64_t place) {
    return static_cast<int32_t>((sequence * 31 + place * 7 + place * place) % model.config().vocab_size);
  };
  std::vector<SeqId> ids;
  for (int64_t s = 0; s < kSequences; ++s) {
    std::vector<int32_t> prompt;
    for (int64_t i = 0; i < kPrompt + s; ++i) prompt.push_back(token(s, i));
    ids.push_back(s + 3);
    (void)methods.prefill(ids.back(), prompt, kSteps);
  }
  std::vector<std::vector<float>> rows;
  for (int64_t step = 0; step < kSteps; ++step) {
    std::vector<int32_t> tokens;
    for (int64_t s = 0; s < kSequences; ++s) tokens.push_back(token(s, kPrompt + s + step));
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

}  // namespace
}  // namespace shadowkv::testing
