// Prompts of every awkward length, and answers without a limit.
#include <gtest/gtest.h>

#include <cmath>

#include "attention/cases.h"
#include "shadowkv/error.h"
#include "support/tolerances.h"

namespace shadowkv::testing {
namespace {

class Lengths : public ::testing::TestWithParam<AttentionCase> {};

// At these lengths a budget of 64 tokens beside window and first chunk holds everything, so that shadow
// attention must equal full attention whatever the prompt's length.
TEST_P(Lengths, ShortPromptsEqualFullAttentionAndGoOn) {
  const AttentionConfig& config = GetParam().config;
  const int64_t chunk = config.chunk_size;
  for (const int64_t length :
       {int64_t{1}, chunk - 1, chunk, chunk + 1, config.local_window - 1, chunk + 32}) {
    if (length < 1) continue;
    TinyModel model;
    AttentionConfig full;
    full.method = Method::full;
    Methods methods(model, {full, config});
    const SeqId id = 0;
    (void)methods.prefill(id, tiny_ids(length), 3 * chunk);
    for (const int32_t token : tiny_ids(3 * chunk, 2)) {
      const std::vector<float> expected = methods.decode({&id, 1}, {&token, 1}, 0);
      const std::vector<float> found = methods.decode({&id, 1}, {&token, 1}, 1);
      ASSERT_NO_FATAL_FAILURE(expect_logits_near(found, expected, kCollapse)) << "a prompt of " << length;
    }
  }
}

std::vector<AttentionCase> short_cases() {
  std::vector<AttentionCase> cases;
  for (const int64_t chunk : {1, 3, 4, 8, 16}) {
    cases.push_back({"sketch_chunk" + std::to_string(chunk), lossless(IndexKind::sketch, chunk)});
    cases.push_back({"landmarks_chunk" + std::to_string(chunk), lossless(IndexKind::landmarks, chunk)});
  }
  cases.push_back({"sketch_exact_below",
                   with(lossless(IndexKind::sketch, 4), [](AttentionConfig& c) { c.exact_below = 6; })});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Chunks, Lengths, ::testing::ValuesIn(short_cases()), name_of_case);

TEST(Lengths, APromptOfNoTokensIsRefusedWithASentence) {
  TinyModel model;
  Methods methods(model, {lossless(IndexKind::sketch, 4)});
  try {
    (void)methods.prefill(0, {}, 1);
    FAIL() << "an empty prompt was taken";
  } catch (const InvalidInput& error) {
    EXPECT_NE(std::string(error.what()).find("prompt is empty"), std::string::npos) << error.what();
  }
}

class Answers : public ::testing::TestWithParam<AttentionCase> {};

// 1,200 generated tokens are three blocks and make chunks that are chosen like any other.
TEST_P(Answers, HaveNoLimit) {
  TinyModel model;
  Methods methods(model, {GetParam().config});
  const SeqId id = 0;
  constexpr int64_t kTokens = 1200;
  (void)methods.prefill(id, tiny_ids(40), kTokens);
  const std::array<int64_t, kTiers> before = methods.method().statistics().held_bytes;
  for (const int32_t token : tiny_ids(kTokens, 8)) {
    const std::vector<float> logits = methods.decode({&id, 1}, {&token, 1});
    for (const float x : logits) ASSERT_TRUE(std::isfinite(x));
  }
  const AttentionStatistics after = methods.method().statistics();
  EXPECT_GT(after.held_bytes[0] + after.held_bytes[1], before[0] + before[1]);
  EXPECT_EQ(after.decode_steps, kTokens);
  EXPECT_LT(after.attended_tokens, static_cast<double>(after.context_tokens) / 2);
}

std::vector<AttentionCase> answer_cases() {
  const auto tiny_budget = [](AttentionConfig& c) {
    c.sparse_budget = 48;
    c.local_window = 16;
    c.rank = 20;
    c.factors = StorageType::int8;
  };
  return {{"sketch", with(lossless(IndexKind::sketch, 4), tiny_budget)},
          {"landmarks", with(lossless(IndexKind::landmarks, 8), tiny_budget)},
          {"sketch_crossing", with(with(lossless(IndexKind::sketch, 4), tiny_budget),
                                   [](AttentionConfig& c) { c.exact_below = 300; })}};
}

INSTANTIATE_TEST_SUITE_P(Methods, Answers, ::testing::ValuesIn(answer_cases()), name_of_case);

}  // namespace
}  // namespace shadowkv::testing
