// Whole models with matrices in codes against the same in float32, on the CPU; gpu_golden_test.cc ties the GPU to it.
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

// Root mean square of what two rows of logits differ by, over that of the first.
double relative_change(const std::vector<float>& row, const std::vector<float>& other) {
  double change = 0, all = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    change += std::pow(row[i] - other[i], 2);
    all += std::pow(row[i], 2);
  }
  return std::sqrt(change / all);
}

class Int8Weights : public ::testing::TestWithParam<const char*> {};

TEST_P(Int8Weights, ChangeLogitsLittle) {
  const std::filesystem::path folder = test_data() / "golden";
  std::vector<int32_t> ids = read_npy<int32_t>(folder / "llama_gqa/f32.ids.npy").values;
  ids.resize(kPrompt + 8, 7);
  AttentionConfig full;
  full.method = Method::full;
  const auto run = [&](DType weights) {
    return FileModel(folder / GetParam(), weights, make_cpu_device({.threads = 2})).run(full, ids, kPrompt);
  };
  const auto exact = run(DType::f32), codes = run(DType::i8);
  ASSERT_EQ(exact.size(), codes.size());
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double change = relative_change(exact[i], codes[i]);
    EXPECT_LT(change, kInt8WeightsChange) << "row " << i;
    EXPECT_GT(change, 0.0) << "row " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Int8Weights,
                         ::testing::Values("llama_gqa/f32.gguf", "llama_gqa/q8_0.gguf", "llama_mqa/hf", "qwen2/hf",
                                           "qwen3/hf", "glm4/hf", "phi3_long/hf"));

}  // namespace
}  // namespace shadowkv::testing
