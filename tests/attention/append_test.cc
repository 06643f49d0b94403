// Reading on: tokens that are read behind what a sequence holds attend to all of it.
#include <gtest/gtest.h>

#include <cmath>

#include "attention/cases.h"
#include "shadowkv/error.h"
#include "support/tolerances.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kPrompt = 600, kMore = 500, kSteps = 6;
// Of 8-bit factors and values, in nats (0.0012 was seen).
constexpr double kMostDivergence = 0.002;

std::vector<int32_t> part_of(const std::vector<int32_t>& ids, int64_t first, int64_t count) {
  return {ids.begin() + first, ids.begin() + first + count};
}

// Natural logarithms of what the logits say.
std::vector<double> log_shares(const std::vector<float>& logits) {
  double sum = 0;
  const float most = *std::max_element(logits.begin(), logits.end());
  for (const float x : logits) sum += std::exp(double{x} - most);
  std::vector<double> shares;
  for (const float x : logits) shares.push_back(double{x} - most - std::log(sum));
  return shares;
}

double divergence(const std::vector<float>& expected, const std::vector<float>& found) {
  const std::vector<double> p = log_shares(expected), q = log_shares(found);
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
  return sum;
}

// A prompt, the tokens read behind it in these parts, then forced steps: a row for all but the prompt.
struct Course {
  int64_t slice = 512, rows = int64_t{1} << 30;
  std::vector<int64_t> parts = {kMore};
};
std::vector<std::vector<float>> run(TinyModel& model, const AttentionConfig& config, const Course& course) {
  const std::vector<int32_t> ids = tiny_ids(kPrompt + kMore);
  Methods methods(model, {config});
  const SeqId id = 0;
  (void)methods.prefill(id, part_of(ids, 0, kPrompt), kMore + kSteps);
  int64_t held = kPrompt;
  std::vector<std::vector<float>> rows;
  for (const int64_t count : course.parts) {
    rows.push_back(methods.append(id, held, part_of(ids, held, count), course.slice, {}, course.rows));
    held += count;
  }
  for (const int32_t token : tiny_ids(kSteps, 2)) rows.push_back(methods.decode({&id, 1}, {&token, 1}));
  return rows;
}

std::vector<std::vector<float>> run_cold(TinyModel& model, const AttentionConfig& config) {
  return Methods(model, {config}).run(0, tiny_ids(kPrompt + kMore), tiny_ids(kSteps, 2));
}

TEST(ReadingOnInFull, EqualsReadingAllAtOnceToTheBit) {
  TinyModel model;
  AttentionConfig full;
  full.method = Method::full;
  const auto expected = run_cold(model, full);
  EXPECT_EQ(run(model, full, {}), expected);
  EXPECT_EQ(run(model, full, {.slice = 64, .rows = 48, .parts = {kMore}}), expected);
  const auto rows = run(model, full, {.parts = {1, 63, 300, kMore - 364}});
  EXPECT_EQ(std::vector(rows.begin() + 3, rows.end()), expected);
}

class ReadingOn : public ::testing::TestWithParam<AttentionCase> {
 protected:
  TinyModel model_{GetParam().shape};
};

TEST_P(ReadingOn, CutsChangeNothing) {
  const auto expected = run(model_, GetParam().config, {});
  for (const Course& course : {Course{.slice = 64, .rows = 64}, Course{.slice = 100, .rows = 37}}) {
    const auto rows = run(model_, GetParam().config, course);
    for (std::size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(rows[i], expected[i]) << "row " << i;
  }
}

// What the stored form lost is all that is lost: nothing in float32 at full rank, else what its roundings
// are.
TEST_P(ReadingOn, StaysNearAColdPrefillOfTheSameTokens) {
  AttentionConfig config = GetParam().config;
  config.rank = 1 << 20;
  const auto expected = run_cold(model_, config);
  const bool rounds = config.factors != StorageType::float32 || config.values != StorageType::float32;
  for (const Course& course : {Course{}, Course{.parts = {200, 1, 40, kMore - 241}}}) {
    const std::vector<float> found = run(model_, config, course)[course.parts.size() - 1];
    if (!rounds) expect_logits_near(found, expected[0], kCollapse);
    EXPECT_LT(divergence(expected[0], found), rounds ? kMostDivergence : 1e-9);
  }
}

// At a rank that leaves out a third and more of these random keys: nearer than the same tokens by decode
// steps, which attend to a few chunks only.
TEST_P(ReadingOn, IsNearerToAColdPrefillThanDecodeStepsAre) {
  const auto ids = tiny_ids(kPrompt + kMore);
  double reading_on = 0, steps = 0;
  for (const int64_t count : {5, 20, 60, 110}) {
    const auto more = part_of(ids, kPrompt, count);
    const std::vector<float> expected =
        Methods(model_, {GetParam().config}).prefill(0, part_of(ids, 0, kPrompt + count), 0);
    Methods methods(model_, {GetParam().config});
    for (const SeqId id : {0, 1}) (void)methods.prefill(id, part_of(ids, 0, kPrompt), count);
    reading_on += divergence(expected, methods.append(0, kPrompt, more));
    std::vector<float> last;
    const SeqId id = 1;
    for (const int32_t token : more) last = methods.decode({&id, 1}, {&token, 1});
    steps += divergence(expected, last);
  }
  EXPECT_LT(reading_on, steps);
}

TEST_P(ReadingOn, AfterGeneratedTokensEqualsFullAttentionWhereNothingIsLost) {
  AttentionConfig everything = GetParam().config, full;
  everything.sparse_budget = 1 << 20;
  everything.sparse_budget_share = 0;
  everything.rank = 1 << 20;
  everything.factors = everything.values = everything.landmarks = StorageType::float32;
  full.method = Method::full;
  std::vector<std::vector<std::vector<float>>> of;
  for (const AttentionConfig& config : {full, everything}) {
    Methods methods(model_, {config});
    const SeqId id = 0;
    std::vector<std::vector<float>> rows;
    (void)methods.prefill(id, tiny_ids(kPrompt), 400);
    int64_t held = kPrompt;
    for (const int64_t count : {3, 40, 260}) {
      for (const int32_t token : tiny_ids(11, 4)) rows.push_back(methods.decode({&id, 1}, {&token, 1}));
      rows.push_back(methods.append(id, held + 11, tiny_ids(count, 5)));
      held += 11 + count;
    }
    of.push_back(std::move(rows));
  }
  for (std::size_t i = 0; i < of[0].size(); ++i) {
    ASSERT_NO_FATAL_FAILURE(expect_logits_near(of[1][i], of[0][i], kCollapse)) << "row " << i;
  }
}

TEST_P(ReadingOn, ThatIsStoppedLeavesWhatWas) {
  const std::vector<int32_t> steps = tiny_ids(30, 2), more = tiny_ids(kMore, 3);
  Methods twin(model_, {GetParam().config}), methods(model_, {GetParam().config});
  const SeqId id = 0;
  for (Methods* each : {&twin, &methods}) (void)each->prefill(id, tiny_ids(kPrompt), kMore + 40);
  std::size_t step = 0;
  for (const double stop_at : {0.0, 0.4, 0.7, 0.99}) {
    const auto progress = [&](double share) {
      if (share >= stop_at) throw Interrupted("stopped by the test");
    };
    const auto held = kPrompt + static_cast<int64_t>(step);
    EXPECT_THROW((void)methods.append(id, held, more, 64, progress), Interrupted);
    for (int i = 0; i < 3; ++i, ++step) {
      const int32_t token = steps[step];
      ASSERT_EQ(methods.decode({&id, 1}, {&token, 1}), twin.decode({&id, 1}, {&token, 1})) << "step " << step;
    }
  }
  const auto held = kPrompt + static_cast<int64_t>(step);
  EXPECT_EQ(methods.append(id, held, more), twin.append(id, held, more));
}

TEST_P(ReadingOn, TakesWhatWasSaidAndGivesAllBack) {
  for (const int64_t prompt : {int64_t{3}, int64_t{512}, kPrompt}) {
    Methods methods(model_, {GetParam().config});
    const SeqId id = 0;
    (void)methods.prefill(id, tiny_ids(prompt), 1200);
    int64_t tokens = prompt;
    for (const int64_t count : {5, 700, 250}) {
      const auto total = [&] {
        const auto held = methods.method().statistics().held_bytes;
        return held[0] + held[1];
      };
      const int64_t before = total();
      const Footprint more = methods.method().append_bytes(id, count);
      (void)methods.append(id, tokens, tiny_ids(count, 4));
      tokens += count;
      EXPECT_LE(total(), before + more.device + more.pinned_host + more.either);
    }
    const MemoryUse use = model_.device().memory();
    const auto held = methods.method().statistics().held_bytes;
    int64_t counted = 0;
    for (const Purpose purpose :
         {Purpose::keys_values, Purpose::index, Purpose::factors, Purpose::values, Purpose::slots}) {
      counted += use.of(Tier::device, purpose) + use.of(Tier::pinned_host, purpose);
    }
    EXPECT_EQ(held[0] + held[1], counted) << "nothing is left of reading on";
    methods.end(id);
    EXPECT_EQ(methods.method().statistics().held_bytes[0], 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Configurations, ReadingOn, ::testing::ValuesIn(lossy_cases()), name_of_case);

// Segments of 512 tokens, at least 128 of them: a turn that brings enough into one gives it a basis.
TEST(ReadingOnBySegments, GivesBasesToSegmentsThatItBeginsAndFills) {
  const auto factors = [](const std::vector<int64_t>& parts) {
    TinyModel model;
    Methods methods(model, {lossless(IndexKind::sketch, 4)});
    int64_t tokens = parts[0];
    (void)methods.prefill(0, tiny_ids(tokens), 2000);
    for (std::size_t i = 1; i < parts.size(); ++i) {
      (void)methods.append(0, tokens, tiny_ids(parts[i], 4));
      tokens += parts[i];
    }
    return model.device().memory().of(Tier::device, Purpose::factors);
  };
  EXPECT_EQ(factors({512, 512}), factors({1024})) << "as a prompt of that length";
  EXPECT_EQ(factors({300, 724}), factors({1024}));
  EXPECT_LT(factors({512, 100, 412}), factors({1024})) << "fixed by the first tokens that come into it";
  EXPECT_LT(factors({600, 424}), factors({1024})) << "likewise: 88 tokens of the prompt";
}

TEST(ReadingOnTogether, IsRefusedUnderSeveralMethods) {
  TinyModel model;
  AttentionConfig full;
  full.method = Method::full;
  Methods methods(model, {full, lossless(IndexKind::sketch, 4)});
  (void)methods.prefill(0, tiny_ids(50), 50);
  EXPECT_THROW((void)methods.append(0, 50, tiny_ids(20)), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::testing
