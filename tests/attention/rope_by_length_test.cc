// A rope rule by length is fixed when a sequence begins, by the most that it may hold: short, middling and
// long sequences of one model are, to the bit on the CPU, those of models that know one rule each, in one
// batch too.
#include <gtest/gtest.h>

#include "support/tiny_model.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kPrompt = 90, kSteps = 12, kMore = 40;
constexpr int64_t kShort = kPrompt + kSteps + kMore + kSteps, kMiddle = kShort + 1, kLong = kMiddle + 1;

const std::vector<float> kLongDivisors = {1, 3, 9, 2, 5, 8, 4, 7}, kMiddleDivisors = {1, 2, 4, 2, 3, 5, 2, 6},
                         kShortDivisors = {1, 1, 2, 1, 1.5, 2, 1, 3};

TinyShape all_rules() {
  return {.divisors = kLongDivisors, .shorter = {{kShort, kShortDivisors}, {kMiddle, kMiddleDivisors}}};
}

std::vector<AttentionConfig> methods() {
  AttentionConfig full;
  full.method = Method::full;
  AttentionConfig turns = sparse_from_the_start(IndexKind::sketch, 24, StorageType::int8);
  turns.exact_below = kPrompt + 5;
  AttentionConfig turns_reading = turns;
  turns_reading.exact_below = kPrompt + kSteps + 5;
  return {full, sparse_from_the_start(IndexKind::sketch, 24, StorageType::int8),
          sparse_from_the_start(IndexKind::landmarks, 24, StorageType::float32), turns, turns_reading};
}

class RopeByLength : public ::testing::TestWithParam<int> {
 protected:
  using Rows = std::vector<std::vector<float>>;

  [[nodiscard]] static AttentionConfig config() { return methods()[static_cast<std::size_t>(GetParam())]; }

  static void step(Methods& methods, std::span<const SeqId> ids, uint32_t seed, Rows& rows) {
    for (const int32_t token : tiny_ids(kSteps, seed)) {
      rows.push_back(methods.decode(ids, std::vector<int32_t>(ids.size(), token)));
    }
  }
  // A prompt, steps, reading on, and a fork's steps, of a sequence that may grow to `most`.
  static Rows life(const TinyShape& shape, int64_t most) {
    TinyModel model(shape);
    Methods methods(model, {config()});
    const std::vector<SeqId> first = {3}, forked = {1};
    Rows rows = {methods.prefill(3, tiny_ids(kPrompt), most - kPrompt)};
    step(methods, first, 2, rows);
    methods.fork(3, 1, kPrompt + kSteps, 3);
    rows.push_back(methods.append(3, kPrompt + kSteps, tiny_ids(kMore, 3)));
    step(methods, first, 4, rows);
    methods.end(3);
    rows.push_back(methods.decode(forked, std::vector<int32_t>{5}));
    return rows;
  }
};

TEST_P(RopeByLength, ASequenceIsOneOfAModelThatKnowsItsRuleAlone) {
  const Rows of_short = life(all_rules(), kShort), of_middle = life(all_rules(), kMiddle),
             of_long = life(all_rules(), kLong);
  EXPECT_EQ(of_short, life({.divisors = kShortDivisors}, kShort));
  EXPECT_EQ(of_middle, life({.divisors = kMiddleDivisors}, kMiddle));
  EXPECT_EQ(of_long, life({.divisors = kLongDivisors}, kLong));
  EXPECT_NE(of_short.front(), of_middle.front());
  EXPECT_NE(of_middle.front(), of_long.front());
}

TEST_P(RopeByLength, AllKindsInOneBatchGoOnAsAlone) {
  const std::vector<int64_t> most = {kMiddle, kShort, kLong};
  Rows together;
  TinyModel model(all_rules());
  const std::vector<SeqId> ids = {0, 1, 2};
  Methods methods(model, {config()});
  for (const SeqId id : ids)
    (void)methods.prefill(id, tiny_ids(kPrompt), most[static_cast<std::size_t>(id)] - kPrompt);
  step(methods, ids, 2, together);
  Methods again(model, {config()});
  Rows expected(together.size());
  for (const int64_t reach : most) {
    Rows alone;
    (void)again.prefill(0, tiny_ids(kPrompt), reach - kPrompt);  // the same row
    step(again, std::span(ids).first(1), 2, alone);
    again.end(0);
    for (std::size_t i = 0; i < alone.size(); ++i)
      expected[i].insert(expected[i].end(), alone[i].begin(), alone[i].end());
  }
  for (std::size_t i = 0; i < together.size(); ++i) ASSERT_EQ(together[i], expected[i]) << "step " << i;
}

INSTANTIATE_TEST_SUITE_P(Methods, RopeByLength, ::testing::Range(0, 5));

}  // namespace
}  // namespace shadowkv::testing
