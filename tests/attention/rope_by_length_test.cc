// A rope rule by length is fixed when a sequence begins, by the most that it may hold: short and long
// sequences of one model are, to the bit on the CPU, those of two models that know one rule each, in one
// batch too.
#include <gtest/gtest.h>

#include "support/tiny_model.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kPrompt = 90, kSteps = 12, kMore = 40;
constexpr int64_t kShort = kPrompt + kSteps + kMore + kSteps, kLong = kShort + 1;

const std::vector<float> kLongDivisors = {1, 3, 9, 2, 5, 8, 4, 7},
                         kShortDivisors = {1, 1, 2, 1, 1.5, 2, 1, 3};

TinyShape both_rules() {
  return {.divisors = kLongDivisors, .short_divisors = kShortDivisors, .short_context = kShort};
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
  const Rows of_short = life(both_rules(), kShort), of_long = life(both_rules(), kLong);
  EXPECT_EQ(of_short, life({.divisors = kShortDivisors}, kShort));
  EXPECT_EQ(of_long, life({.divisors = kLongDivisors}, kLong));
  EXPECT_NE(of_short.front(), of_long.front());
}

TEST_P(RopeByLength, BothKindsInOneBatchGoOnAsAlone) {
  Rows together, of_short, of_long;
  TinyModel model(both_rules());
  const std::vector<SeqId> ids = {0, 1, 2};
  Methods methods(model, {config()});
  for (const SeqId id : ids)
    (void)methods.prefill(id, tiny_ids(kPrompt), (id == 1 ? kLong : kShort) - kPrompt);
  step(methods, ids, 2, together);
  Methods again(model, {config()});
  (void)again.prefill(0, tiny_ids(kPrompt), kShort - kPrompt);
  step(again, std::span(ids).first(1), 2, of_short);
  again.end(0);
  (void)again.prefill(0, tiny_ids(kPrompt), kLong - kPrompt);  // the same row
  step(again, std::span(ids).first(1), 2, of_long);
  for (std::size_t i = 0; i < together.size(); ++i) {
    std::vector<float> expected = of_short[i];
    expected.insert(expected.end(), of_long[i].begin(), of_long[i].end());
    expected.insert(expected.end(), of_short[i].begin(), of_short[i].end());
    ASSERT_EQ(together[i], expected) << "step " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, RopeByLength, ::testing::Range(0, 5));

}  // namespace
}  // namespace shadowkv::testing
