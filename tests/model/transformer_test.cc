#include "model/transformer.h"

#include <gtest/gtest.h>

#include "shadowkv/error.h"
#include "support/tiny_model.h"
#include "support/tolerances.h"

namespace shadowkv::testing {
namespace {

AttentionConfig full_attention() {
  AttentionConfig config;
  config.method = Method::full;
  return config;
}

TEST(Transformer, DecodingTokensEqualsReadingThemAsAPrompt) {
  TinyModel model;
  const std::vector<int32_t> ids = tiny_ids(120);
  Methods methods(model, {full_attention()});
  const auto stepped = methods.run(0, std::span(ids).first(60), std::span(ids).subspan(60));
  for (const std::size_t length : {60u, 61u, 90u, 120u}) {
    const std::vector<float> read = methods.prefill(1, std::span(ids).first(length), 0);
    methods.end(1);
    ASSERT_NO_FATAL_FAILURE(expect_logits_near(stepped[length - 60], read, kCollapse)) << length;
  }
}

TEST(Transformer, LaterTokensDoNotReachEarlierOnes) {
  TinyModel model;
  Methods methods(model, {full_attention()});
  std::vector<int32_t> ids = tiny_ids(50);
  const auto expected = methods.run(0, std::span(ids).first(20), std::span(ids).subspan(20));
  ids.back() = (ids.back() + 1) % 96;
  const auto found = methods.run(1, std::span(ids).first(20), std::span(ids).subspan(20));
  for (std::size_t row = 0; row + 1 < expected.size(); ++row) ASSERT_EQ(found[row], expected[row]);
  EXPECT_NE(found.back(), expected.back());
}

TEST(Transformer, TokensOutsideTheVocabularyAreRefusedBeforeAnythingChanges) {
  TinyModel model;
  Methods methods(model, {full_attention()});
  const std::vector<int32_t> ids = tiny_ids(10);
  const auto expected = methods.run(0, ids, std::vector<int32_t>{5});
  (void)methods.prefill(1, ids, 4);
  const SeqId id = 1;
  for (const int32_t token : {-1, 96}) {
    EXPECT_THROW((void)methods.decode({&id, 1}, {&token, 1}), InvalidInput);
    EXPECT_THROW((void)methods.prefill(2, std::vector<int32_t>{1, token}, 1), InvalidInput);
    methods.abandon(2);
  }
  const int32_t token = 5;
  EXPECT_EQ(methods.decode({&id, 1}, {&token, 1}), expected[1]);
}

TEST(Transformer, AStepOfNoSequencesIsRefused) {
  TinyModel model;
  Methods methods(model, {full_attention()});
  EXPECT_THROW((void)methods.decode({}, {}), InvalidInput);
}

TEST(Transformer, ProgressRisesToOne) {
  TinyModel model;
  Methods methods(model, {full_attention()});
  std::vector<double> seen;
  (void)methods.prefill(0, tiny_ids(200), 0, 64, [&](double share) { seen.push_back(share); });
  EXPECT_EQ(seen.size(), 12u);  // 3 layers in 4 slices
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_GT(seen.front(), 0.0);
  EXPECT_DOUBLE_EQ(seen.back(), 1.0);
}

// The addresses that a recorded step reads stand still while others come, are read and go.
TEST(Transformer, APromptReadBetweenStepsLeavesRecordingsGood) {
  for (const AttentionConfig& config :
       {full_attention(), sparse_from_the_start(IndexKind::sketch, 64, StorageType::int8),
        sparse_from_the_start(IndexKind::landmarks, 64, StorageType::bfloat16)}) {
    TinyModel model;
    Methods methods(model, {config});
    // Their steps do not outgrow the blocks of 64 tokens, and with them the tables.
    for (const SeqId id : {0, 1, 2}) (void)methods.prefill(id, tiny_ids(330), 40);
    const std::vector<SeqId> running = {0, 1};
    const std::vector<int32_t> tokens = {5, 6};
    for (int i = 0; i < 3; ++i) (void)methods.decode(running, tokens);
    methods.end(2);
    const int64_t epoch = model.device().address_epoch();
    PrefillRun run = methods.begin_prefill(3, tiny_ids(330), 40, 64);
    EXPECT_GT(model.device().memory().of(Tier::device, Purpose::prompts), 0);
    while (!methods.is_done(run)) {
      methods.advance(run, 64);
      (void)methods.decode(running, tokens);
    }
    (void)methods.end_prefill(run);
    run = {};
    (void)methods.decode(running, tokens);
    EXPECT_EQ(model.device().address_epoch(), epoch);
    EXPECT_EQ(model.device().memory().of(Tier::device, Purpose::prompts), 0);
  }
}

TEST(Transformer, APrefillTakesTheActivationsItAnnounced) {
  TinyModel model;
  Methods methods(model, {full_attention()});
  const int64_t announced = model.transformer().prefill_bytes(700, 64);
  const auto held = [&] {
    const MemoryUse use = model.device().memory();
    return use.of(Tier::device, Purpose::prompts) + use.of(Tier::device, Purpose::activations);
  };
  int64_t most = 0;
  const int64_t before = held();
  (void)methods.prefill(0, tiny_ids(700), 0, 64, [&](double) { most = std::max(most, held() - before); });
  // Beside them: the layer's keys and values, its positions, one slice's rotated queries and the ids.
  const int64_t attention = 700 * (3 * 2 * 16 * 4 + 4) + 64 * 4 * 16 * 4 + 700 * 4;
  EXPECT_GE(most, announced);
  EXPECT_LE(most, announced + attention);
}

}  // namespace
}  // namespace shadowkv::testing
