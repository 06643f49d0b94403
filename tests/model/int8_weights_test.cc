// Whole models with matrices in codes against the same in float32, on the CPU; gpu_golden_test.cc ties the
// GPU to it.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "support/file_model.h"
#include "support/npy.h"
#include "support/test_data.h"
#include "support/tolerances.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kPrompt = 48;

// Sum of the squares of what logits differ by.
double change(const std::vector<std::vector<float>>& rows, const std::vector<std::vector<float>>& others) {
  double sum = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < rows[i].size(); ++j) sum += std::pow(rows[i][j] - others[i][j], 2);
  }
  return sum;
}

class Int8Weights : public ::testing::TestWithParam<const char*> {};

TEST_P(Int8Weights, ChangeLogitsByAFewTimesWhatBfloat16Does) {
  const std::filesystem::path folder = test_data() / "golden";
  std::vector<int32_t> ids = read_npy<int32_t>(folder / "llama_gqa/f32.ids.npy").values;
  ids.resize(kPrompt + 8, 7);
  AttentionConfig full;
  full.method = Method::full;
  const auto run = [&](DType weights) {
    return FileModel(folder / GetParam(), weights, make_cpu_device({.threads = 2})).run(full, ids, kPrompt);
  };
  const auto exact = run(DType::f32), rounded = run(DType::bf16), codes = run(DType::i8);
  ASSERT_EQ(exact.size(), codes.size());
  const double times = std::sqrt(change(exact, codes) / change(exact, rounded));
  EXPECT_LT(times, kInt8WeightsChange);
  EXPECT_GT(times, 1.0);
}

INSTANTIATE_TEST_SUITE_P(Models, Int8Weights,
                         ::testing::Values("llama_gqa/f32.gguf", "llama_gqa/q8_0.gguf", "qwen2/hf",
                                           "qwen3/hf", "glm4/hf", "phi3_long/hf"));

}  // namespace
}  // namespace shadowkv::testing
