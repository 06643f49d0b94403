// Collapse: with a budget of everything, full rank and float32 storage, shadow attention is full attention.
#include <gtest/gtest.h>

#include "attention/cases.h"
#include "support/tolerances.h"

namespace shadowkv::testing {
namespace {

AttentionConfig everything(IndexKind index, int64_t chunk) {
  AttentionConfig config = lossless(index, chunk);
  config.sparse_budget = 1 << 20;
  return config;
}

class Collapse : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(Collapse, ABudgetOfEverythingEqualsFullAttention) {
  TinyModel model(GetParam().shape);
  AttentionConfig full;
  full.method = Method::full;
  Methods methods(model, {full, GetParam().config});
  const std::vector<int32_t> steps = tiny_ids(40, 3);
  const SeqId id = 0;
  (void)methods.prefill(id, tiny_ids(700), 40);
  for (const int32_t token : steps) {
    const std::vector<float> expected = methods.decode({&id, 1}, {&token, 1}, 0);
    ASSERT_NO_FATAL_FAILURE(
        expect_logits_near(methods.decode({&id, 1}, {&token, 1}, 1), expected, kCollapse));
  }
}

std::vector<AttentionCase> collapse_cases() {
  const auto sketch = IndexKind::sketch;
  const auto landmarks = IndexKind::landmarks;
  const auto no_rerank = [](AttentionConfig& c) { c.rerank = 1.0; };
  const auto crossing = [](AttentionConfig& c) { c.exact_below = 715; };
  const auto host = [](AttentionConfig& c) { c.placement = Placement::host; };
  const auto one_segment = [](AttentionConfig& c) { c.segment_tokens = 0; };
  const auto int8_landmarks = [](AttentionConfig& c) { c.landmarks = StorageType::int8; };
  const auto narrow = [](AttentionConfig& c) { c.local_window = 1; };
  const auto all = [](AttentionConfig& c) { c.sparse_budget = 1 << 20; };
  const auto rerank = [](AttentionConfig& c) { c.rerank = 2.0; };
  return {
      {"sketch_chunk1", everything(sketch, 1)},
      {"sketch_chunk3", everything(sketch, 3)},
      {"sketch_chunk4_host", with(everything(sketch, 4), host)},
      {"sketch_chunk8_no_rerank", with(everything(sketch, 8), no_rerank)},
      {"sketch_chunk16_narrow_window", with(everything(sketch, 16), narrow)},
      {"sketch_crossing", with(everything(sketch, 4), crossing)},
      {"landmarks_chunk1_narrow_window", with(everything(landmarks, 1), narrow)},
      {"landmarks_chunk8", everything(landmarks, 8)},
      {"landmarks_chunk8_one_segment_no_rerank",
       with(with(everything(landmarks, 8), one_segment), no_rerank)},
      {"landmarks_int8_chunk8", with(everything(landmarks, 8), int8_landmarks)},
      {"landmarks_chunk16_crossing", with(everything(landmarks, 16), crossing)},
      {"one_kv_head_a_query_head", everything(sketch, 4), {.heads = 4, .kv_heads = 4}},
      {"one_kv_head_for_all", everything(landmarks, 4), {.heads = 8, .kv_heads = 1}},
      {"head_dim_24", everything(sketch, 4), {.heads = 4, .kv_heads = 2, .head_dim = 24}},
      {"head_dim_80", everything(sketch, 8), {.heads = 2, .kv_heads = 1, .head_dim = 80}},
      {"interleaved_rope", everything(sketch, 4), {.interleaved = true}},
      {"dense_first", with(everything(sketch, 4), [](AttentionConfig& c) { c.dense_layers = 2; })},
      {"dense_throughout", with(lossless(sketch, 4), [](AttentionConfig& c) { c.dense_layers = 3; })},
      {"quest_chunk16_dense_first", with(quest(16, 2), all)},
      {"quest_chunk1_host", with(with(quest(1, 0), all), host)},
      {"quest_chunk8_rerank_narrow_window", with(with(with(quest(8, 0), all), rerank), narrow)},
      {"quest_chunk4_crossing", with(with(quest(4, 1), all), crossing)},
      {"quest_interleaved_rope", with(quest(4, 1), all), {.interleaved = true}},
      {"quest_head_dim_24", with(quest(16, 0), all), {.heads = 4, .kv_heads = 2, .head_dim = 24}},
      {"interleaved_rope_crossing", with(everything(landmarks, 4), crossing), {.interleaved = true}},
  };
}

INSTANTIATE_TEST_SUITE_P(Configurations, Collapse, ::testing::ValuesIn(collapse_cases()), name_of_case);

TEST(Collapse, HoldsForAnAnswerFarLongerThanItsPrompt) {
  TinyModel model;
  AttentionConfig full;
  full.method = Method::full;
  Methods methods(model, {full, everything(IndexKind::sketch, 4)});
  const SeqId id = 0;
  const std::vector<int32_t> steps = tiny_ids(800, 5);
  (void)methods.prefill(id, tiny_ids(20), 800);
  for (const int32_t token : steps) {
    const std::vector<float> expected = methods.decode({&id, 1}, {&token, 1}, 0);
    ASSERT_NO_FATAL_FAILURE(
        expect_logits_near(methods.decode({&id, 1}, {&token, 1}, 1), expected, kCollapse));
  }
}

TEST(Collapse, HoldsForEveryHeadSizeThatIsAMultipleOf8UpTo256) {
  AttentionConfig full;
  full.method = Method::full;
  for (int64_t head_dim = 8; head_dim <= 256; head_dim += 8) {
    TinyModel model({.heads = 2, .kv_heads = 1, .head_dim = head_dim});
    Methods methods(model, {full, everything(IndexKind::sketch, 4), everything(IndexKind::landmarks, 4)});
    const SeqId id = 0;
    (void)methods.prefill(id, tiny_ids(150), 6);
    for (const int32_t token : tiny_ids(6, 3)) {
      const std::vector<float> expected = methods.decode({&id, 1}, {&token, 1}, 0);
      for (const int64_t method : {1, 2}) {
        ASSERT_NO_FATAL_FAILURE(
            expect_logits_near(methods.decode({&id, 1}, {&token, 1}, method), expected, kCollapse))
            << "heads of " << head_dim;
      }
    }
  }
}

// A law that cannot fail says nothing: a small budget does change the logits of this model.
TEST(Collapse, DoesNotHoldForASmallBudget) {
  TinyModel model;
  AttentionConfig small = lossless(IndexKind::sketch, 4), pages = quest(4, 2);
  small.sparse_budget = pages.sparse_budget = 8;
  AttentionConfig full;
  full.method = Method::full;
  Methods methods(model, {full, small, pages});
  const SeqId id = 0;
  const int32_t token = 5;
  (void)methods.prefill(id, tiny_ids(700), 1);
  const std::vector<float> expected = methods.decode({&id, 1}, {&token, 1}, 0);
  for (const int64_t method : {1, 2}) {
    const std::vector<float> found = methods.decode({&id, 1}, {&token, 1}, method);
    double most = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      most = std::max(most, std::abs(double{found[i]} - double{expected[i]}));
    }
    EXPECT_GT(most, 100 * kCollapse.absolute) << "method " << method;
  }
}

// Mean squared difference from full attention over some steps.
double error_of(const AttentionConfig& config) {
  TinyModel model;
  AttentionConfig full;
  full.method = Method::full;
  Methods methods(model, {full, config});
  const SeqId id = 0;
  (void)methods.prefill(id, tiny_ids(900), 20);
  double sum = 0;
  for (const int32_t token : tiny_ids(20, 9)) {
    const std::vector<float> expected = methods.decode({&id, 1}, {&token, 1}, 0);
    const std::vector<float> found = methods.decode({&id, 1}, {&token, 1}, 1);
    for (std::size_t i = 0; i < found.size(); ++i) {
      sum += (double{found[i]} - double{expected[i]}) * (double{found[i]} - double{expected[i]});
    }
  }
  return sum;
}

TEST(Collapse, ALargerBudgetComesCloserToFullAttention) {
  AttentionConfig config = lossless(IndexKind::sketch, 4);
  config.sparse_budget = 16;
  const double small = error_of(config);
  config.sparse_budget = 256;
  const double large = error_of(config);
  EXPECT_LT(large, small / 2);
}

TEST(Collapse, ALargerBudgetOfPagesAndMoreDenseLayersComeCloserToFullAttention) {
  AttentionConfig config = quest(4, 0);
  config.sparse_budget = 16;
  const double small = error_of(config);
  config.dense_layers = 2;
  EXPECT_LT(error_of(config), small);
  config.dense_layers = 0;
  config.sparse_budget = 256;
  EXPECT_LT(error_of(config), small / 2);
}

TEST(Collapse, RerankByExactKeysComesCloserThanOneBitAlone) {
  AttentionConfig config = lossless(IndexKind::sketch, 4);
  config.sparse_budget = 64;
  config.rerank = 1.0;
  const double alone = error_of(config);
  config.rerank = 4.0;
  const double reranked = error_of(config);
  EXPECT_LT(reranked, alone);
}

}  // namespace
}  // namespace shadowkv::testing
