// One place checks an attention configuration against a model; every refusal names field, value and range.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "attention/attention.h"
#include "shadowkv/error.h"
#include "support/tiny_model.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;

const AttentionShape kShape{
    .layers = 2, .heads = 8, .kv_heads = 4, .head_dim = 32, .rope = {}, .compute = DType::f32};
constexpr int64_t kContext = 8192;

struct Refusal {
  std::string name;
  std::function<void(AttentionConfig&)> change;
  std::vector<std::string> says;  // parts of the message
};

class Resolve : public ::testing::TestWithParam<Refusal> {};

TEST_P(Resolve, NamesFieldValueAndRange) {
  AttentionConfig config;
  GetParam().change(config);
  try {
    (void)resolve(config, kShape, kContext, nullptr);
    FAIL() << "taken";
  } catch (const InvalidInput& error) {
    for (const std::string& part : GetParam().says) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

using C = AttentionConfig;
INSTANTIATE_TEST_SUITE_P(
    Fields, Resolve,
    ::testing::Values(
        Refusal{"chunk_0", [](C& c) { c.chunk_size = 0; }, {"chunk-size = 0", "[1, 16]"}},
        Refusal{"chunk_17", [](C& c) { c.chunk_size = 17; }, {"chunk-size = 17", "[1, 16]"}},
        Refusal{"bits", [](C& c) { c.sketch_bits = 3; }, {"sketch-bits = 3", "[0, 2]"}},
        Refusal{"exact_below", [](C& c) { c.exact_below = -1; }, {"exact-below = -1", "[0, "}},
        Refusal{"budget_0", [](C& c) { c.sparse_budget = 0; }, {"sparse-budget = 0", "[1, "}},
        Refusal{"budget_huge",
                [](C& c) { c.sparse_budget = std::numeric_limits<int64_t>::max(); },
                {"sparse-budget = 9223372036854775807", "[1, "}},
        Refusal{"budget_under_chunk", [](C& c) { c.sparse_budget = 3; }, {"sparse-budget = 3", "chunk of 4"}},
        Refusal{"budget_per", [](C& c) { c.sparse_budget_per = -5; }, {"sparse-budget-per = -5", "[0, "}},
        Refusal{"share", [](C& c) { c.sparse_budget_share = 1.5; }, {"sparse-budget-share = 1.5", "[0, 1]"}},
        Refusal{"share_nan",
                [](C& c) { c.sparse_budget_share = std::numeric_limits<double>::quiet_NaN(); },
                {"sparse-budget-share = nan", "[0, 1]"}},
        Refusal{"rerank", [](C& c) { c.rerank = 0.5; }, {"rerank = 0.5", "[1, 16]"}},
        Refusal{"rerank_infinite",
                [](C& c) { c.rerank = std::numeric_limits<double>::infinity(); },
                {"rerank = inf", "[1, 16]"}},
        Refusal{"rank", [](C& c) { c.rank = -2; }, {"rank = -2", "[0, "}},
        Refusal{"outliers", [](C& c) { c.outlier_chunks = -1; }, {"outlier-chunks = -1", "[0, "}},
        Refusal{"outliers_of_a_sketch",
                [](C& c) { c.outlier_chunks = 4; },
                {"outlier-chunks = 4", "index=landmarks"}},
        Refusal{"outliers_of_quest",
                [](C& c) {
                  c.method = Method::quest;
                  c.outlier_chunks = 4;
                },
                {"outlier-chunks = 4", "method=shadow"}},
        Refusal{"dense_layers", [](C& c) { c.dense_layers = -1; }, {"dense-layers = -1", "[0, "}},
        Refusal{"window", [](C& c) { c.local_window = 0; }, {"local-window = 0", "[1, "}},
        Refusal{"slots", [](C& c) { c.slot_selections = 0; }, {"slot-selections = 0", "[1, 1024]"}},
        Refusal{"parts", [](C& c) { c.step_parts = 65; }, {"step-parts = 65", "[0, 64]"}},
        Refusal{"micro_batches", [](C& c) { c.micro_batches = 3; }, {"micro-batches = 3", "[0, 2]"}},
        Refusal{"segment", [](C& c) { c.segment_tokens = 1000; }, {"segment-tokens = 1000", "512"}},
        Refusal{"segment_negative", [](C& c) { c.segment_tokens = -512; }, {"segment-tokens = -512", "[0, "}},
        Refusal{"segment_min", [](C& c) { c.segment_min_tokens = 0; }, {"segment-min-tokens = 0", "[1, "}}),
    [](const auto& refusal) { return refusal.param.name; });

TEST(Resolve, FillsInAutomaticValues) {
  std::vector<std::string> notes;
  const AttentionConfig resolved = resolve(AttentionConfig(), kShape, kContext, &notes);
  EXPECT_EQ(resolved.rank, 128);  // at least 160, and 128 is all
  EXPECT_EQ(resolved.sketch_bits, 2);
  EXPECT_EQ(resolved.factors, StorageType::int8);
  EXPECT_EQ(resolved.values, StorageType::int8);
  EXPECT_TRUE(notes.empty());
  AttentionShape wide = kShape;
  wide.kv_heads = 8;
  wide.head_dim = 128;
  EXPECT_EQ(resolve(AttentionConfig(), wide, kContext, nullptr).rank, 320);
  EXPECT_EQ(resolve(AttentionConfig(), wide, kContext, nullptr).sketch_bits, 1);
}

TEST(Resolve, TakesWhatIsOverTheWholeAsTheWholeAndSaysSo) {
  AttentionConfig config;
  config.rank = 129;
  config.sparse_budget = 8193;
  config.chunk_size = 3;
  std::vector<std::string> notes;
  const AttentionConfig resolved = resolve(config, kShape, kContext, &notes);
  EXPECT_EQ(resolved.rank, 128);
  EXPECT_EQ(resolved.sparse_budget, 8193);  // the context in whole chunks
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_THAT(notes[0], HasSubstr("129"));
  EXPECT_THAT(notes[0], HasSubstr("128"));
  EXPECT_THAT(notes[1], HasSubstr("8193"));
  EXPECT_THAT(notes[1], HasSubstr("8192"));
}

TEST(Resolve, QuestKeepsKeysAndValuesInTheComputeTypeAndAtMostAllLayersDense) {
  AttentionConfig config;
  config.method = Method::quest;
  config.dense_layers = 1000;
  std::vector<std::string> notes;
  const AttentionConfig resolved = resolve(config, kShape, kContext, &notes);
  EXPECT_EQ(resolved.values, StorageType::automatic);
  EXPECT_EQ(resolved.dense_layers, kShape.layers);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_THAT(notes[0], HasSubstr("dense-layers 1000"));
}

TEST(Resolve, FullAttentionIgnoresTheKnobsOfOthers) {
  AttentionConfig config;
  config.method = Method::full;
  config.chunk_size = 99;
  EXPECT_NO_THROW((void)resolve(config, kShape, kContext, nullptr));
}

TEST(Resolve, AttentionRefusesHeadsItCannotRun) {
  TinyModel model;
  for (const auto& [heads, kv_heads, head_dim] :
       {std::array<int64_t, 3>{4, 3, 16}, {4, 2, 12}, {4, 2, 264}}) {
    AttentionShape shape = model.attention_shape();
    shape.heads = heads;
    shape.kv_heads = kv_heads;
    shape.head_dim = head_dim;
    const auto prefill = std::make_shared<ExactPrefill>(model.attention_shape(), model.device());
    EXPECT_THROW((void)make_attention(AttentionConfig(), shape, prefill, model.device()), InvalidInput);
  }
}

}  // namespace
}  // namespace shadowkv::testing
