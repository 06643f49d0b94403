#include "divergence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace shadowkv::apps {
namespace {

double sum_of_probabilities(const std::vector<double>& row) {
  return std::accumulate(row.begin(), row.end(), 0.0, [](double sum, double x) { return sum + std::exp(x); });
}

TEST(Divergence, ProbabilitiesOfHugeLogitsSumToOne) {
  EXPECT_NEAR(sum_of_probabilities(log_probabilities(std::vector<float>{1e30f, -1e30f, 0.0f})), 1.0, 1e-12);
  EXPECT_NEAR(sum_of_probabilities(log_probabilities(std::vector<float>{-500.0f, -501.0f})), 1.0, 1e-12);
}

TEST(Divergence, AShiftOfAllLogitsChangesNothing) {
  const auto a = log_probabilities(std::vector<float>{1, 2, 4});
  const auto b = log_probabilities(std::vector<float>{101, 102, 104});
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-12);
}

TEST(Divergence, EqualsItsDefinitionOnTwoCoins) {
  const std::vector<double> fair = {std::log(0.5), std::log(0.5)};
  const std::vector<double> bent = {std::log(0.9), std::log(0.1)};
  EXPECT_NEAR(divergence(fair, bent), 0.5 * std::log(0.5 / 0.9) + 0.5 * std::log(0.5 / 0.1), 1e-15);
  EXPECT_NEAR(divergence(bent, fair), 0.9 * std::log(0.9 / 0.5) + 0.1 * std::log(0.1 / 0.5), 1e-15);
  EXPECT_EQ(divergence(bent, bent), 0.0);
}

TEST(Divergence, AnImpossibleTokenOfTheReferenceCountsNothing) {
  const double never = -std::numeric_limits<double>::infinity();
  const std::vector<double> sure = {0.0, never};
  EXPECT_NEAR(divergence(sure, std::vector<double>{std::log(0.5), std::log(0.5)}), std::log(2.0), 1e-15);
  EXPECT_EQ(divergence(sure, sure), 0.0);
}

TEST(Divergence, ArgmaxTakesTheFirstOfEquals) {
  EXPECT_EQ(argmax(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_EQ(argmax(std::vector<float>{-2}), 0);
}

TEST(Divergence, TheSummaryOfAHundredStepsHasItsPercentiles) {
  Divergences all;
  const std::vector<double> reference = {0.0, -std::numeric_limits<double>::infinity()};
  for (int i = 100; i >= 1; --i) {  // KL = i / 100; from 70 on the other token is likelier
    const double p = std::exp(-i / 100.0);
    all.add(reference, std::vector<double>{std::log(p), std::log(1 - p)});
  }
  const DivergenceSummary summary = all.summary();
  EXPECT_EQ(summary.steps, 100);
  EXPECT_NEAR(summary.mean, 0.505, 1e-12);
  EXPECT_NEAR(summary.median, 0.50, 1e-12);
  EXPECT_NEAR(summary.p90, 0.90, 1e-12);
  EXPECT_NEAR(summary.p99, 0.99, 1e-12);
  EXPECT_NEAR(summary.max, 1.00, 1e-12);
  EXPECT_NEAR(summary.same_top, 0.69, 1e-12);
}

TEST(Divergence, NoStepsGiveAnEmptySummary) {
  EXPECT_EQ(Divergences().summary().steps, 0);
}

}  // namespace
}  // namespace shadowkv::apps
