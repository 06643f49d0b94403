// Golden: logits of whole models equal those of a trusted framework (testdata/golden/README.md says how they
// were made), and shadow attention collapses to full attention on them too.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "support/file_model.h"
#include "support/npy.h"
#include "support/test_data.h"
#include "support/tolerances.h"

namespace shadowkv::testing {
namespace {

const std::filesystem::path kFolder = test_data() / "golden";
constexpr int64_t kPrompt = 40;

AttentionConfig full_attention() {
  AttentionConfig config;
  config.method = Method::full;
  return config;
}

AttentionConfig everything(IndexKind index) {
  return sparse_from_the_start(index, 4096, StorageType::float32);
}

std::vector<std::vector<float>> logits_of(const std::filesystem::path& path, const AttentionConfig& config,
                                          std::span<const int32_t> ids, int64_t prompt) {
  FileModel model(path, DType::f32, make_cpu_device({.threads = 2}));
  return model.run(config, ids, prompt);
}

struct GoldenCase {
  std::string model, ids, logits;
  int64_t prompt_tokens = 0;
};

void PrintTo(const GoldenCase& one, std::ostream* out) {
  *out << one.model;
}

std::vector<GoldenCase> golden_cases() {
  std::vector<GoldenCase> cases;
  for (const char* list : {"llama.json", "families.json"}) {
    std::ifstream file(kFolder / list);
    for (const auto& entry : nlohmann::json::parse(file)) {
      cases.push_back({entry.at("model"), entry.at("ids"), entry.at("logits"), entry.at("prompt_tokens")});
    }
  }
  return cases;
}

std::string name_of_golden(const ::testing::TestParamInfo<GoldenCase>& info) {
  std::string name = info.param.model;
  if (info.param.prompt_tokens != kPrompt) name += fmt::format("_of_{}", info.param.prompt_tokens);
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
}

class Golden : public ::testing::TestWithParam<GoldenCase> {
 protected:
  std::vector<int32_t> ids_ = read_npy<int32_t>(kFolder / GetParam().ids).values;
  NpyArray<float> logits_ = read_npy<float>(kFolder / GetParam().logits);

  std::vector<std::vector<float>> run(const AttentionConfig& config) {
    return logits_of(kFolder / GetParam().model, config, ids_, GetParam().prompt_tokens);
  }
};

TEST_P(Golden, PrefillAndDecodeEqualTransformers) {
  const auto rows = run(full_attention());
  ASSERT_EQ(static_cast<int64_t>(rows.size()), logits_.shape.at(0));
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const std::span<const float> expected(logits_.row(static_cast<int64_t>(row)), rows[row].size());
    ASSERT_NO_FATAL_FAILURE(expect_logits_near(rows[row], expected, kGolden)) << "row " << row;
  }
}

TEST_P(Golden, ShadowAttentionThatMayChooseEverythingEqualsFull) {
  const auto expected = run(full_attention());
  for (const IndexKind index : {IndexKind::sketch, IndexKind::landmarks}) {
    const auto found = run(everything(index));
    for (std::size_t row = 0; row < found.size(); ++row) {
      ASSERT_NO_FATAL_FAILURE(expect_logits_near(found[row], expected[row], kCollapse)) << "row " << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, ::testing::ValuesIn(golden_cases()), name_of_golden);

TEST(GoldenFiles, AFolderAndTheGgufFileOfItsTypeAreOneModel) {
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"llama_gqa", "f32"},    {"llama_mha", "f16"},  {"llama_mqa", "bf16"}, {"llama_rope3", "f32"},
      {"llama_linear", "f32"}, {"llama_yarn", "f32"}, {"mistral", "f32"},    {"qwen2", "f32"},
      {"qwen2_yarn", "f32"},   {"qwen3", "f32"},      {"glm", "f32"},        {"chatglm", "f32"},
      {"glm4", "f32"},         {"phi3_long", "f32"},  {"phi3_short", "f32"}, {"phi3_heads96", "bf16"}};
  for (const auto& [folder, type] : pairs) {
    const std::vector<int32_t> ids = read_npy<int32_t>(kFolder / folder / (type + ".ids.npy")).values;
    const auto hf = logits_of(kFolder / folder / "hf", full_attention(), ids, kPrompt);
    const auto gguf = logits_of(kFolder / folder / (type + ".gguf"), full_attention(), ids, kPrompt);
    for (std::size_t row = 0; row < hf.size(); ++row) {
      ASSERT_NO_FATAL_FAILURE(expect_logits_near(gguf[row], hf[row], kSameModel)) << folder << ", " << row;
    }
  }
}

// What the defaults cost where they choose: everything as by default, but sparse from the first token on,
// since the texts are short.
AttentionConfig at_defaults() {
  AttentionConfig config;
  config.exact_below = 0;
  return config;
}

// Mean over the steps of |found - full| as a share of the spread of full's logits.
double mean_change(const std::vector<std::vector<float>>& found,
                   const std::vector<std::vector<float>>& full) {
  double sum = 0;
  for (std::size_t row = 1; row < full.size(); ++row) {
    double mean = 0, spread = 0, difference = 0;
    for (const float x : full[row]) mean += double{x} / static_cast<double>(full[row].size());
    for (std::size_t i = 0; i < full[row].size(); ++i) {
      spread += std::pow(double{full[row][i]} - mean, 2);
      difference += std::pow(double{found[row][i]} - double{full[row][i]}, 2);
    }
    sum += std::sqrt(difference / spread);
  }
  return sum / static_cast<double>(full.size() - 1);
}

std::vector<GoldenCase> golden_folders() {
  std::vector<GoldenCase> cases = golden_cases();
  std::erase_if(cases, [](const GoldenCase& one) { return !one.model.ends_with("/hf"); });
  return cases;
}

class AtDefaults : public Golden {};

TEST_P(AtDefaults, EightBitsMoveLogitsWithinTheirBound) {
  AttentionConfig config = at_defaults();
  config.rank = 4096;  // random keys have no low rank
  const double change = mean_change(run(config), run(full_attention()));
  EXPECT_GT(change, 0);
  EXPECT_LE(change, kEightBits);
}

// 544 of 1,200 tokens and more are attended.
TEST_P(AtDefaults, ChoosingMovesLogitsWithinItsBound) {
  FileModel model(kFolder / GetParam().model, DType::f32, make_cpu_device({.threads = 2}));
  const std::vector<int32_t> ids = tiny_ids(1200 + 32);
  const double change =
      mean_change(model.run(at_defaults(), ids, 1200), model.run(full_attention(), ids, 1200));
  EXPECT_GT(change, 0);
  EXPECT_LE(change, model.config().head_norms ? kChosenEvenly : kChosen);
}

INSTANTIATE_TEST_SUITE_P(Models, AtDefaults, ::testing::ValuesIn(golden_folders()), name_of_golden);

// The embedded model on real text; "forced" follows the text, "greedy" the model's own choices.
class GoldenText : public ::testing::TestWithParam<std::string> {};

void expect_top_logits(const std::vector<float>& found, const NpyArray<int32_t>& ids,
                       const NpyArray<float>& logits, int64_t row) {
  std::vector<float> at;
  for (int64_t i = 0; i < ids.row_size(); ++i) {
    at.push_back(found[static_cast<std::size_t>(ids.row(row)[i])]);
  }
  expect_logits_near(at, {logits.row(row), at.size()}, kGoldenDeep);
}

TEST_P(GoldenText, TopLogitsEqualTransformersAndShadowCollapses) {
  const char* path = std::getenv("SHADOWKV_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "SHADOWKV_TEST_MODEL does not name the embedded model's GGUF file.";
  const auto file = [](const char* what) { return kFolder / "smollm2" / (GetParam() + what); };
  const std::vector<int32_t> ids = read_npy<int32_t>(file(".ids.npy")).values;
  const auto top_ids = read_npy<int32_t>(file(".top_ids.npy"));
  const auto top_logits = read_npy<float>(file(".top_logits.npy"));
  const auto sums = read_npy<float>(file(".logsumexp.npy"));
  FileModel model(path, DType::f32, make_cpu_device({.threads = 2}));
  const auto rows = model.run(full_attention(), ids, 600);
  ASSERT_EQ(static_cast<int64_t>(rows.size()), top_ids.shape.at(0));
  for (std::size_t row = 0; row < rows.size(); ++row) {
    ASSERT_NO_FATAL_FAILURE(expect_top_logits(rows[row], top_ids, top_logits, static_cast<int64_t>(row)))
        << "row " << row;
    const float most = *std::max_element(rows[row].begin(), rows[row].end());
    double sum = 0;
    for (const float x : rows[row]) sum += std::exp(double{x} - double{most});
    EXPECT_NEAR(double{most} + std::log(sum), double{sums.values[row]}, kGoldenDeep.absolute);
    const auto best = std::max_element(rows[row].begin(), rows[row].end()) - rows[row].begin();
    if (GetParam() == "greedy" && row + 1 < rows.size()) {
      EXPECT_EQ(best, ids[600 + row]);
    }
  }
  const auto shadow = model.run(everything(IndexKind::sketch), ids, 600);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    ASSERT_NO_FATAL_FAILURE(expect_logits_near(shadow[row], rows[row], kCollapseDeep)) << "row " << row;
  }
}

INSTANTIATE_TEST_SUITE_P(EmbeddedModel, GoldenText, ::testing::Values("forced", "greedy"),
                         [](const auto& one) { return one.param; });

}  // namespace
}  // namespace shadowkv::testing
