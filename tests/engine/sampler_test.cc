#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
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
  for (int i = 0; i < 20; ++i) b.take(i % 8);
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

std::vector<int32_t> picks(Sampler sampler, int count = 50) {
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back(sampler.pick(kLogits));
  return ids;
}

// What may be asked for without changing anything.
TEST(Sampler, NeutralValuesChangeNothing) {
  const SamplingParams plain{.temperature = 1.2, .top_k = 6, .top_p = 0.95, .seed = 21};
  const std::vector<int32_t> expected = picks(Sampler(plain));
  const std::vector<int32_t> prompt = {1, 3, 3};
  const auto expect_same = [&](const char* what, const std::function<void(SamplingParams&)>& change) {
    SamplingParams params = plain;
    change(params);
    EXPECT_EQ(picks(Sampler(params, {.prompt = prompt})), expected) << what;
  };
  expect_same("penalties", [](SamplingParams& p) {
    p.repetition_penalty = 1.0;
    p.presence_penalty = p.frequency_penalty = 0.0;
  });
  expect_same("min-p", [](SamplingParams& p) { p.min_p = 0.0; });
  expect_same("bias", [](SamplingParams& p) { p.logit_bias = {{2, 0.0}, {7, 0.0}}; });
  expect_same("logprobs", [](SamplingParams& p) { p.logprobs = 3; });
  expect_same("least tokens, nothing to end with", [](SamplingParams& p) { p.min_tokens = 20; });
}

TEST(Sampler, ABiasForcesForbidsAndShifts) {
  for (int32_t id = 0; id < std::ssize(kLogits); ++id) {
    EXPECT_EQ(picks(Sampler({.temperature = 1.0, .seed = 1, .logit_bias = {{id, 100.0}}})),
              std::vector<int32_t>(50, id));
  }
  const auto found =
      shares({.temperature = 1.0, .seed = 1, .logit_bias = {{1, -100.0}, {6, 5.0}}}, kLogits, 20'000);
  std::vector<float> shifted = kLogits;
  shifted[1] -= 100;
  shifted[6] += 5;
  const auto expected = softmax(shifted, 1.0);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found[i], expected[i], 0.02) << i;
}

// Greedy choices, by hand: logits of 2.0, 1.5 and 1.0 lead.
TEST(Sampler, ARepetitionPenaltyCountsPromptAndAnswerTheOthersTheAnswer) {
  const std::vector<int32_t> prompt = {1};
  const auto first = [&](const SamplingParams& params) {
    return picks(Sampler(params, {.prompt = prompt}), 3);
  };
  EXPECT_EQ(first({.repetition_penalty = 1.5}), (std::vector<int32_t>{3, 1, 1})) << "2 / 1.5, then 1.5 / 1.5";
  EXPECT_EQ(first({.presence_penalty = 0.75}), (std::vector<int32_t>{1, 3, 1}))
      << "1.25 of 1, then of 3 0.75";
  EXPECT_EQ(first({.frequency_penalty = 0.75}), (std::vector<int32_t>{1, 3, 1}));
  EXPECT_EQ(picks(Sampler({.presence_penalty = 0.25}), 4), std::vector<int32_t>(4, 1)) << "taken off once";
  EXPECT_EQ(picks(Sampler({.frequency_penalty = 0.25}), 4), (std::vector<int32_t>{1, 1, 1, 3}))
      << "1.5 is 1.5: the lower id, then 1.25";
}

TEST(Sampler, APenaltyMakesANegativeLogitMoreNegative) {
  const std::vector<float> logits = {-1.0f, -1.5f};
  const std::vector<int32_t> prompt = {0};
  Sampler twice({.repetition_penalty = 2.0}, {.prompt = prompt});
  EXPECT_EQ(twice.pick(logits), 1);
  Sampler half({.repetition_penalty = 0.5, .presence_penalty = 0.25}, {.prompt = prompt});
  EXPECT_EQ(half.pick(logits), 0) << "-0.5 while it is of the prompt alone";
}

// The shares of the likeliest are 0.4096, 0.2484, 0.1507, 0.0914, ...: 0.6, 0.37 and 0.22 of the first.
TEST(Sampler, MinPKeepsWhatIsProbableEnoughBesideTheLikeliest) {
  const auto kept = [](double min_p, double temperature) {
    int count = 0;
    for (const double share :
         shares({.temperature = temperature, .min_p = min_p, .seed = 2}, kLogits, 4'000)) {
      count += share > 0 ? 1 : 0;
    }
    return count;
  };
  EXPECT_EQ(kept(1.0, 1.0), 1);
  EXPECT_EQ(kept(0.61, 1.0), 1);
  EXPECT_EQ(kept(0.60, 1.0), 2);
  EXPECT_EQ(kept(0.36, 1.0), 3);
  EXPECT_EQ(kept(0.36, 0.5), 2) << "of the probabilities at that temperature";
  EXPECT_EQ(kept(1e-9, 1.0), 8);
}

TEST(Sampler, NothingEndsAnAnswerBeforeItsLeastTokens) {
  const std::vector<int32_t> ends = {1};
  Sampler sampler({.min_tokens = 3, .stop_ids = {3}}, {.end_tokens = ends});
  EXPECT_EQ(picks(sampler, 5), (std::vector<int32_t>{5, 5, 5, 1, 1}));
}

TEST(Sampler, LogprobsAreOfTheModelsOwnDistribution) {
  Sampler sampler({.temperature = 3.0,
                   .top_k = 2,
                   .seed = 8,
                   .repetition_penalty = 4.0,
                   .logit_bias = {{6, 100.0}},
                   .logprobs = 3});
  const auto shares_of_all = softmax(kLogits, 1.0);
  for (int i = 0; i < 5; ++i) {
    const int32_t id = sampler.pick(kLogits);
    ASSERT_EQ(id, 6);
    const auto told = sampler.logprobs();
    ASSERT_EQ(told.size(), 4u);
    const std::array<int32_t, 4> ids = {6, 1, 3, 5};
    for (std::size_t n = 0; n < 4; ++n) {
      EXPECT_EQ(told[n].id, ids[n]);
      EXPECT_NEAR(told[n].logprob, std::log(shares_of_all[static_cast<std::size_t>(ids[n])]), 1e-6);
    }
  }
  sampler.take(2);
  EXPECT_TRUE(sampler.logprobs().empty());
  Sampler many({.logprobs = 8});
  ASSERT_EQ(many.pick(std::vector<float>(8, 1.0f)), 0);
  for (int32_t n = 0; n < 8; ++n) EXPECT_EQ(many.logprobs()[static_cast<std::size_t>(n) + 1].id, n);
  EXPECT_NEAR(many.logprobs()[3].logprob, std::log(1.0 / 8), 1e-6);
}

TEST(Sampler, ACopyGoesOnByItself) {
  Sampler sampler({.temperature = 1.0, .seed = 5, .frequency_penalty = 1.0, .logprobs = 1});
  for (int i = 0; i < 7; ++i) (void)sampler.pick(kLogits);
  const std::vector<int32_t> expected = picks(sampler);
  Sampler other{SamplingParams{}};
  other = sampler;
  EXPECT_EQ(picks(sampler), expected) << "what a copy picked changed the sampler";
  EXPECT_EQ(picks(std::move(other)), expected);
}

TEST(Sampler, TakenTokensCountAsPicked) {
  const SamplingParams params{
      .temperature = 1.0, .seed = 8, .repetition_penalty = 1.5, .frequency_penalty = 0.5};
  Sampler a(params), b(params);
  for (int i = 0; i < 20; ++i) b.take(a.pick(kLogits));
  for (int i = 0; i < 50; ++i) ASSERT_EQ(a.pick(kLogits), b.pick(kLogits));
}

TEST(Sampler, TokensThatTheRowLacksAreNamed) {
  const auto refuses = [](Sampler sampler, const std::string& part) {
    try {
      (void)sampler.pick(kLogits);
      ADD_FAILURE() << "taken; expected \"" << part << "\"";
    } catch (const InvalidInput& error) {
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  };
  const std::vector<int32_t> eight = {8}, negative = {-1};
  refuses(Sampler({.logit_bias = {{8, 1.0}}}), "logit-bias names token 8; the vocabulary has 8");
  refuses(Sampler({.repetition_penalty = 2}, {.prompt = eight}), "tokens from 8 to 8");
  refuses(Sampler({.repetition_penalty = 2}, {.prompt = negative}), "tokens from -1 to -1");
  refuses(Sampler({.min_tokens = 1}, {.end_tokens = eight}), "token 8 was to end");
  refuses(Sampler({.logprobs = 9}), "logprobs = 9");
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
  refuses({.min_p = -0.1}, "min-p = -0.1");
  refuses({.min_p = 1.5}, "min-p = 1.5");
  refuses({.min_p = std::numeric_limits<double>::quiet_NaN()}, "min-p = nan");
  refuses({.repetition_penalty = 0.0}, "repetition-penalty = 0");
  refuses({.repetition_penalty = 11.0}, "repetition-penalty = 11");
  refuses({.presence_penalty = 2.5}, "presence-penalty = 2.5");
  refuses({.frequency_penalty = -3.0}, "frequency-penalty = -3");
  refuses({.logit_bias = {{4, 101.0}}}, "logit-bias of token 4 = 101");
  refuses({.logit_bias = {{-4, 1.0}}}, "logit-bias names token -4");
  refuses({.min_tokens = -1}, "min-tokens = -1");
  refuses({.stop_ids = {-2}}, "stop-ids names token -2");
  refuses({.stop = {"a", ""}}, "stop text 2 has 0 bytes");
  refuses({.stop = {std::string(1025, 'x')}}, "stop text 1 has 1025 bytes");
  refuses({.stop = {"a\xc3"}}, "stop text 1 is no UTF-8 from byte 1 on");
  refuses({.stop = std::vector<std::string>(65, "x")}, "65 stop texts");
  refuses({.logprobs = 21}, "logprobs = 21");
  refuses({.logprobs = -1}, "logprobs = -1");
  refuses({.regex = "a"}, "without a model");
  EXPECT_THROW((void)Sampler(SamplingParams{}).pick({}), InvalidInput);
}

}  // namespace
}  // namespace shadowkv
