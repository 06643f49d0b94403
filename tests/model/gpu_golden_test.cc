// Whole models on a GPU against the CPU: the same greedy tokens, or a step that differs is one where the CPU
// itself hardly prefers its own choice, or where another chunk at the border of the budget or rounded weights
// decide.
// The golden files tie the CPU to a trusted framework (golden_test.cc).
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "support/file_model.h"
#include "support/npy.h"
#include "support/test_data.h"
#include "support/tolerances.h"

namespace shadowkv::testing {
namespace {

const std::filesystem::path kFolder = test_data() / "golden";
constexpr int64_t kPrompt = 64, kSteps = 32;
constexpr int64_t kMostDoubted = 4;  // steps that differ because another chunk was chosen

// A model with its weights in bfloat16, unless said otherwise.
class Runner {
 public:
  Runner(const std::filesystem::path& path, std::unique_ptr<Device> device, DType weights = DType::bf16)
      : model_(path, weights, std::move(device)) {}

  // Logits after the prompt and after each forced token but the last.
  std::vector<std::vector<float>> forced(const AttentionConfig& config, std::span<const int32_t> ids) {
    return model_.run(config, ids.first(ids.size() - 1), kPrompt);
  }
  // The tokens that decoding takes by itself, picked on the device.
  std::vector<int32_t> greedy(const AttentionConfig& config, std::span<const int32_t> prompt) {
    Methods methods = model_.open(config);
    std::vector<int32_t> ids = {likeliest(methods.prefill(0, prompt, kSteps))};
    const SeqId id = 0;
    while (static_cast<int64_t>(ids.size()) < kSteps) {
      const int32_t last = ids.back();
      ids.push_back(methods.decode_greedy({&id, 1}, {&last, 1})[0]);
    }
    return ids;
  }
  static int32_t likeliest(const std::vector<float>& logits) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }

 private:
  FileModel model_;
};

AttentionConfig full(StorageType values) {
  AttentionConfig config;
  config.method = Method::full;
  config.values = values;
  return config;
}

// Chooses 24 of the 52 to 84 tokens that are open.
AttentionConfig sparse(IndexKind index, StorageType storage) {
  AttentionConfig config = sparse_from_the_start(index, 24, storage);
  config.outlier_chunks = std::min<int64_t>(config.outlier_chunks, 1);
  return config;
}

using Rows = std::vector<std::vector<float>>;

// By how much each row of logits differs at most.
std::vector<float> changes(const Rows& rows, const Rows& others) {
  std::vector<float> most;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    float change = 0;
    for (std::size_t j = 0; j < rows[i].size(); ++j)
      change = std::max(change, std::abs(rows[i][j] - others[i][j]));
    most.push_back(change);
  }
  return most;
}

void add(const std::vector<float>& more, std::vector<float>& sum) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += more[i];
}

// What another choice at the border of the budget does to each row. Random models attend so evenly that
// chunks often nearly tie, and another one may change their logits by whole units.
std::vector<float> border_doubts(Runner& runner, const AttentionConfig& config,
                                 std::span<const int32_t> ids) {
  AttentionConfig more = config, less = config;
  more.sparse_budget += config.chunk_size;
  less.sparse_budget -= config.chunk_size;
  const Rows rows = runner.forced(config, ids);
  std::vector<float> doubts = changes(rows, runner.forced(more, ids));
  add(changes(rows, runner.forced(less, ids)), doubts);
  return doubts;
}

struct Case {
  std::string model, method;
  AttentionConfig config;
  DType weights = DType::bf16;
};

void PrintTo(const Case& one, std::ostream* out) {
  *out << one.model << " " << one.method;
}

std::vector<Case> cases() {
  const std::vector<std::pair<std::string, AttentionConfig>> methods = {
      {"full", full(StorageType::automatic)},
      {"full_int8", full(StorageType::int8)},
      {"sketch", sparse(IndexKind::sketch, StorageType::bfloat16)},
      {"sketch_int8", sparse(IndexKind::sketch, StorageType::int8)},
      {"landmarks", sparse(IndexKind::landmarks, StorageType::bfloat16)},
  };
  std::vector<Case> all;
  for (const char* model : {"llama_gqa/f32.gguf", "llama_gqa/q8_0.gguf", "llama_mha/f16.gguf", "llama_mqa/hf",
                            "qwen2/hf", "qwen3/hf", "glm/hf", "glm4/hf", "phi3_long/hf", "phi3_heads96/hf"}) {
    for (const auto& [name, config] : methods) all.push_back({model, name, config});
  }
  for (const char* model : {"llama_gqa/f32.gguf", "qwen2/hf", "glm4/hf", "phi3_heads96/hf"}) {
    all.push_back({model, "full_codes", methods[0].second, DType::i8});
    all.push_back({model, "sketch_codes", methods[2].second, DType::i8});
  }
  return all;
}

std::string name_of_case(const ::testing::TestParamInfo<Case>& info) {
  std::string name = info.param.model + "_" + info.param.method;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
}

class GpuGolden : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "No NVIDIA GPU was found.";
  }
  static float tolerance() {
    return GetParam().config.values == StorageType::int8 ? kGpuDoubtInt8 : kGpuDoubt;
  }

  const std::filesystem::path path_ = kFolder / GetParam().model;
  const std::vector<int32_t> prompt_ = [] {
    std::vector<int32_t> ids = read_npy<int32_t>(kFolder / "llama_gqa/f32.ids.npy").values;
    ids.resize(kPrompt, 7);
    return ids;
  }();
};

TEST_P(GpuGolden, GreedyTokensEqualTheCpusUpToItsOwnDoubt) {
  const auto cpu_device = [] { return make_cpu_device({.threads = 2}); };
  const DType weights = GetParam().weights;
  Runner cpu(path_, cpu_device(), weights), gpu(path_, make_cuda_device(), weights);
  Runner rounded(path_, cpu_device()), exact(path_, cpu_device(), DType::f32);
  const AttentionConfig& config = GetParam().config;
  const std::vector<int32_t> expected = cpu.greedy(config, prompt_);
  std::vector<int32_t> ids = prompt_;
  ids.insert(ids.end(), expected.begin(), expected.end());
  const Rows cpu_rows = cpu.forced(config, ids), gpu_rows = gpu.forced(config, ids);
  ASSERT_EQ(gpu_rows.size(), expected.size());
  // Activations, which the GPU alone rounds, change a step as much as weights that are rounded do.
  std::vector<float> doubts = changes(rounded.forced(config, ids), exact.forced(config, ids));
  if (config.method == Method::shadow) add(border_doubts(cpu, config, ids), doubts);
  int64_t doubted = 0;
  for (std::size_t step = 0; step < expected.size(); ++step) {
    const std::vector<float>& row = cpu_rows[step];
    ASSERT_EQ(Runner::likeliest(row), expected[step]) << "the CPU's own steps";
    const auto chosen = static_cast<std::size_t>(Runner::likeliest(gpu_rows[step]));
    const float margin = row[static_cast<std::size_t>(expected[step])] - row[chosen];
    EXPECT_LE(margin, tolerance() + doubts[step])
        << "step " << step << ": the GPU takes " << chosen << ", the CPU " << expected[step];
    doubted += margin > tolerance() ? 1 : 0;
  }
  EXPECT_LE(doubted, kMostDoubted);
  // By itself it may leave the CPU's path where it differs first, and not before.
  const std::vector<int32_t> found = gpu.greedy(config, prompt_);
  for (std::size_t step = 0; step < found.size(); ++step) {
    if (found[step] == expected[step]) continue;
    EXPECT_EQ(found[step], Runner::likeliest(gpu_rows[step])) << "step " << step;
    break;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GpuGolden, ::testing::ValuesIn(cases()), name_of_case);

}  // namespace
}  // namespace shadowkv::testing
