#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <set>

#include "shadowkv/shadowkv.h"

namespace shadowkv {
namespace {

using ::testing::HasSubstr;

const std::vector<float> kLogits = {0.5f, 2.0f, -1.0f, 1.5f, 0.0f, 1.0f, -3.0f, 0.25f};

// Share of each token among many draws.
std::vector<double> shares(const SamplingParams& params, const std::vector<float>& logits, int draws) {
  Sampler sampler(params);
  std::vector<double> counts(logits.size());
  for (int i = 0; i < draws; ++i) counts[static_cast<std::size_t>(sampler.pick(logits))] += 1.0 / draws;
  return counts;
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (const float x : logits) sum += std::exp(double{x} / temperature);
  for (const float x : logits) p.push_back(std::exp(double{x} / temperature) / sum);
  return p;
}

TEST(Sampler, TemperatureZeroTakesTheLargestAndTheFirstOfEquals) {
  Sampler sampler(SamplingParams{});
  EXPECT_EQ(sampler.pick(kLogits), 1);
  EXPECT_EQ(sampler.pick(std::vector<float>{1, 5, 5, 2}), 1);
}

TEST(Sampler, OneCandidateIsTheGreedyChoiceWhateverTheTemperature) {
  Sampler top_k({.temperature = 2.0, .top_k = 1, .seed = 3});
  Sampler top_p({.temperature = 2.0, .top_p = 1e-9, .seed = 3});
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(top_k.pick(kLogits), 1);
    ASSERT_EQ(top_p.pick(kLogits), 1);
  }
}

TEST(Sampler, TheSameSeedDrawsTheSameTokens) {
  const SamplingParams params{.temperature = 1.0, .seed = 42};
  Sampler a(params), b(params);
  Sampler other({.temperature = 1.0, .seed = 43});
  int differ = 0;
  for (int i = 0; i < 200; ++i) {
    const int32_t drawn = a.pick(kLogits);
    ASSERT_EQ(drawn, b.pick(kLogits));
    differ += drawn != other.pick(kLogits) ? 1 : 0;
  }
  EXPECT_GT(differ, 50);
}

TEST(Sampler, WhatItPicksDependsOnHowManyItPickedAlone) {
  const SamplingParams params{.temperature = 1.0, .seed = 8};
  Sampler a(params), b(params);
  for (int i = 0; i < 20; ++i) (void)a.pick(kLogits);
  b.skip(20);
  EXPECT_EQ(b.picked(), a.picked());
  for (int i = 0; i < 50; ++i) ASSERT_EQ(a.pick(kLogits), b.pick(kLogits));
}

TEST(Sampler, AnyTemperatureIsTaken) {
  for (const double temperature : {1e-300, 1e-30, 1e30, 1e300}) {
    Sampler sampler({.temperature = temperature, .seed = 3});
    std::set<int32_t> picked;
    for (int i = 0; i < 200; ++i) picked.insert(sampler.pick(kLogits));
    EXPECT_EQ(picked.size(), temperature < 1 ? 1u : kLogits.size()) << temperature;
  }
}

// Chi-square of 20,000 draws: 24.3 is passed by one sampler in a thousand of 8 tokens (7 degrees of freedom).
TEST(Sampler, TokensAreDrawnAsOftenAsTheirSoftmaxSays) {
  constexpr int kDraws = 20'000;
  for (const double temperature : {0.5, 1.0, 2.0}) {
    const auto found = shares({.temperature = temperature, .seed = 5}, kLogits, kDraws);
    const auto expected = softmax(kLogits, temperature);
    double chi = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      chi += kDraws * (found[i] - expected[i]) * (found[i] - expected[i]) / expected[i];
    }
    EXPECT_LT(chi, 24.3) << "temperature " << temperature;
  }
}

TEST(Sampler, TopKKeepsTheBestAndTheirRatios) {
  const auto found = shares({.temperature = 1.0, .top_k = 3, .seed = 1}, kLogits, 20'000);
  const std::set<std::size_t> kept = {1, 3, 5};
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i] > 0, kept.contains(i)) << i;
  EXPECT_NEAR(found[1] / found[3], std::exp(0.5), 0.1);
}

// The shares, largest first, are 0.4096, 0.2484, 0.1507, ...: two make 0.658, three 0.809.
TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  const auto kept = [](double top_p) {
    int count = 0;
    for (const double share : shares({.temperature = 1.0, .top_p = top_p, .seed = 2}, kLogits, 4'000)) {
      count += share > 0 ? 1 : 0;
    }
    return count;
  };
  EXPECT_EQ(kept(0.30), 1);
  EXPECT_EQ(kept(0.60), 2);
  EXPECT_EQ(kept(0.75), 3);
  EXPECT_EQ(kept(1.0), 8);
}

TEST(Sampler, ImpossibleTokensAreNeverDrawn) {
  const float none = -std::numeric_limits<float>::infinity();
  const auto found = shares({.temperature = 3.0, .seed = 9}, {0.0f, none, 1.0f, none}, 4'000);
  EXPECT_EQ(found[1] + found[3], 0.0);
}

TEST(Sampler, ATopKOverTheVocabularyMeansAll) {
  EXPECT_EQ(shares({.temperature = 1.0, .top_k = 1 << 20, .seed = 4}, kLogits, 500),
            shares({.temperature = 1.0, .seed = 4}, kLogits, 500));
}

TEST(Sampler, BadParametersAreNamedWithTheirValue) {
  const auto refuses = [](const SamplingParams& params, const std::string& part) {
    try {
      const Sampler sampler(params);
      ADD_FAILURE() << "taken; expected \"" << part << "\"";
    } catch (const InvalidInput& error) {
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  };
  refuses({.temperature = -0.5}, "temperature = -0.5");
  refuses({.temperature = std::numeric_limits<double>::infinity()}, "temperature = inf");
  refuses({.temperature = std::numeric_limits<double>::quiet_NaN()}, "temperature = nan");
  refuses({.top_k = -1}, "top-k = -1");
  refuses({.top_p = 0.0}, "top-p = 0");
  refuses({.top_p = 1.25}, "top-p = 1.25");
  EXPECT_THROW((void)Sampler(SamplingParams{}).pick({}), InvalidInput);
}

}  // namespace
}  // namespace shadowkv
