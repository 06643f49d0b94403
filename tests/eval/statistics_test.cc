#include "eval/statistics.h"

#include <gmock/gmock.h>

#include <cmath>

#include "shadowkv/error.h"

namespace shadowkv::eval {
namespace {

std::vector<double> outcomes(int right, int wrong) {
  std::vector<double> scores(static_cast<std::size_t>(right), 1.0);
  scores.insert(scores.end(), static_cast<std::size_t>(wrong), 0.0);
  return scores;
}

TEST(Statistics, ScoreIntervalIsWilsons) {
  const Interval half = score_interval(outcomes(8, 8));
  EXPECT_NEAR(half.low, 0.2800, 5e-5);
  EXPECT_NEAR(half.high, 0.7200, 5e-5);
  const Interval all = score_interval(outcomes(10, 0));
  EXPECT_NEAR(all.low, 0.7225, 5e-5);  // ten of ten do not prove a hundred per cent
  EXPECT_NEAR(all.high, 1, 1e-12);
  EXPECT_EQ(score_interval({}).low, 0);
}

TEST(Statistics, SignTestIsTheExactBinomial) {
  EXPECT_NEAR(sign_test(5, 0), 2.0 / 32, 1e-12);
  EXPECT_NEAR(sign_test(1, 7), 2 * 9.0 / 256, 1e-12);
  EXPECT_EQ(sign_test(3, 3), 1);
  EXPECT_EQ(sign_test(0, 0), 1);
}

TEST(Statistics, AverageIntervalIsThatOfOneGroupAndNarrowsWithMore) {
  const std::vector<std::vector<double>> one{outcomes(15, 5)};
  const Interval alone = average_interval(one), same = score_interval(one[0]);
  EXPECT_NEAR(alone.low, same.low, 1e-12);
  EXPECT_NEAR(alone.high, same.high, 1e-12);
  const std::vector<std::vector<double>> four(4, outcomes(15, 5));
  const Interval narrow = average_interval(four);
  EXPECT_NEAR(0.75 - narrow.low, (0.75 - alone.low) / 2, 1e-12);
  EXPECT_NEAR(narrow.high - 0.75, (alone.high - 0.75) / 2, 1e-12);
  EXPECT_EQ(average_interval({}).high, 1);
}

// 2 x 2 table of 53, 8, 16, 9 of 86 pairs: the adjusted interval of the discordant 16 and 8, by hand.
TEST(Statistics, PairedIntervalIsAgrestiAndMins) {
  std::vector<std::vector<double>> a(1), b(1);
  const auto add = [&](int times, double before, double after) {
    a[0].insert(a[0].end(), static_cast<std::size_t>(times), before);
    b[0].insert(b[0].end(), static_cast<std::size_t>(times), after);
  };
  add(53, 1, 1);
  add(8, 1, 0);
  add(16, 0, 1);
  add(9, 0, 0);
  const PairedDifference d = paired_difference(a, b);
  EXPECT_NEAR(d.mean, 8.0 / 86, 1e-12);
  const double se = std::sqrt(((16.5 + 8.5) - 8.0 * 8.0 / 88) / (88.0 * 88.0));
  EXPECT_NEAR(d.interval.low, 8.0 / 88 - 1.959964 * se, 1e-6);
  EXPECT_NEAR(d.interval.high, 8.0 / 88 + 1.959964 * se, 1e-6);
  EXPECT_EQ(d.better, 16);
  EXPECT_EQ(d.worse, 8);
}

TEST(Statistics, PairedDifferenceCancelsWhatBothShare) {
  const std::vector<std::vector<double>> a{{1, 0, 1, 0, 1, 0, 1, 0}, {1, 1}};
  std::vector<std::vector<double>> b = a;
  const PairedDifference same = paired_difference(a, b);
  EXPECT_EQ(same.mean, 0);
  EXPECT_EQ(same.samples, 10);
  EXPECT_LT(same.interval.low, 0);  // ten samples prove nothing
  EXPECT_EQ(same.interval.low, -same.interval.high);
  b[0][0] = 0;
  b[1][1] = 0.5;
  const PairedDifference worse = paired_difference(a, b);
  EXPECT_DOUBLE_EQ(worse.mean, (-0.125 - 0.25) / 2);  // groups weigh alike
  EXPECT_EQ(worse.worse, 2);
  EXPECT_EQ(worse.better, 0);
  EXPECT_LT(worse.interval.low, worse.mean);
  EXPECT_DOUBLE_EQ(worse.p_value, 0.5);
}

TEST(Statistics, OnlySamplesThatCorrespondCanBePaired) {
  const std::vector<std::vector<double>> a{{1, 0}}, b{{1}}, c{{1, 0}, {1}};
  EXPECT_THROW((void)paired_difference(a, b), InvalidInput);
  EXPECT_THROW((void)paired_difference(a, c), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::eval
