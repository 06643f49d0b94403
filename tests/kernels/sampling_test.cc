#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/devices.h"
#include "kernels/kernels.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

class Sampling : public ::testing::TestWithParam<TestDevice> {
 protected:
  std::vector<int32_t> draw(const std::vector<float>& logits, const std::vector<SamplingRow>& how) {
    const auto count = static_cast<int64_t>(how.size());
    const Array from = upload(*device_, logits, {count, static_cast<int64_t>(logits.size()) / count});
    const Array rows =
        upload_bytes(*device_, how.data(), DType::u8, {count * static_cast<int64_t>(sizeof(SamplingRow))});
    const Array ids = allocate(*device_, DType::i32, {count});
    sample_tokens(
        device_->compute(),
        {.logits = from.view, .rows = reinterpret_cast<const SamplingRow*>(rows.view.data), .ids = ids.view});
    return download<int32_t>(*device_, ids.view);
  }
  int32_t draw_one(const std::vector<float>& logits, const SamplingRow& how) {
    return draw(logits, std::vector<SamplingRow>{how})[0];
  }

  std::unique_ptr<Device> device_ = GetParam().make();
};
INSTANTIATE_TEST_SUITE_P(Devices, Sampling, ::testing::ValuesIn(test_devices()), name_of_device);

// The rule as sampling_math.h has it, step by step over a sorted list.
int32_t expected_token(const std::vector<float>& logits, const SamplingRow& how) {
  const auto largest = std::max_element(logits.begin(), logits.end());
  if (how.steepness == 0.0f) return static_cast<int32_t>(largest - logits.begin());
  struct Token {
    uint32_t distance;
    int32_t id;
    uint64_t weight;
  };
  std::vector<Token> tokens;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const uint32_t distance = sampling_distance(logits[i], *largest, how);
    if (distance != kNoDistance)
      tokens.push_back({distance, static_cast<int32_t>(i), sampling_weight(distance)});
  }
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const Token& a, const Token& b) { return a.distance < b.distance; });
  const auto keep = [&](std::size_t most) { tokens.resize(std::min(tokens.size(), most)); };
  const auto sum = [&] {
    uint64_t total = 0;
    for (const Token& token : tokens) total += token.weight;
    return total;
  };
  if (how.top_k > 0) keep(static_cast<std::size_t>(how.top_k));
  if (how.share != SamplingRow::kWholeShare) {
    const uint64_t least = share_of(sum(), how.share);
    uint64_t reached = 0;
    std::size_t needed = 0;
    while (reached < least) reached += tokens[needed++].weight;
    keep(needed);
  }
  std::sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) { return a.id < b.id; });
  uint64_t left = draw_below(sum(), how);
  for (const Token& token : tokens) {
    if (left < token.weight) return token.id;
    left -= token.weight;
  }
  return -1;
}

constexpr uint64_t share(double top_p) {
  return top_p < 1 ? static_cast<uint64_t>(top_p * 0x1p64) : SamplingRow::kWholeShare;
}

// Every mixture of filters, each with numbers of its own.
std::vector<SamplingRow> many_ways() {
  std::vector<SamplingRow> ways;
  for (const float steepness : {0.0f, 0.7f, 1.44f, 30.0f}) {
    for (const int32_t top_k : {0, 1, 2, 50, 3000}) {
      for (const double top_p : {1.0, 0.999, 0.9, 0.5, 1e-9}) {
        const auto n = static_cast<uint64_t>(ways.size());
        ways.push_back(
            {.seed = 77 * n, .drawn = n % 7, .share = share(top_p), .top_k = top_k, .steepness = steepness});
        ways.push_back(ways.back());
        ways.back().gap = 0.3f * static_cast<float>(n % 20);
      }
    }
  }
  return ways;
}

TEST(SamplingMath, AWeightIsTheTokensShareOfTheLikeliest) {
  EXPECT_EQ(sampling_weight(0), uint64_t{1} << 40);
  EXPECT_EQ(sampling_weight(kNoDistance), 0u);
  EXPECT_EQ(sampling_distance(-1.0f, 1.0f, 0.5f), 1u << kDistanceBits);
  EXPECT_EQ(sampling_distance(kNever, 1.0f, 0.5f), kNoDistance);
  EXPECT_EQ(sampling_distance(0.0f, 40.0f, 1.0f), kNoDistance);
  for (uint32_t distance = 0; distance < 40u << kDistanceBits; distance += 97'777) {
    const double expected = std::exp2(40.0 - std::ldexp(distance, -kDistanceBits));
    const auto found = static_cast<double>(sampling_weight(distance));
    ASSERT_NEAR(found, expected, 1e-8 * expected + 1) << distance;
    ASSERT_GE(found, 1.0);
  }
}

TEST(SamplingMath, AGapPassesOverWhatLiesFurtherBelowTheLargest) {
  const SamplingRow row{.steepness = 0.5f, .gap = 2.0f};
  EXPECT_EQ(sampling_distance(-1.0f, 1.0f, row), 1u << kDistanceBits);
  EXPECT_EQ(sampling_distance(-1.001f, 1.0f, row), kNoDistance);
  EXPECT_EQ(sampling_distance(kNever, kNever, SamplingRow{.steepness = 0.5f}), kNoDistance);
}

TEST(SamplingMath, ProductsAndSharesAreExact) {
  constexpr uint64_t kAll = ~uint64_t{0};
  const WideProduct square = multiply_wide(kAll, kAll);
  EXPECT_EQ(square.high, kAll - 1);
  EXPECT_EQ(square.low, 1u);
  const WideProduct mixed = multiply_wide(0x123456789abcdef0, 0xfedcba9876543210);
  EXPECT_EQ(mixed.high, 0x121fa00ad77d7422u);
  EXPECT_EQ(mixed.low, 0x236d88fe5618cf00u);
  EXPECT_EQ(share_of(1000, share(0.5)), 500u);
  EXPECT_EQ(share_of(1001, share(0.5)), 501u);
  EXPECT_EQ(share_of(1000, 1), 1u);
  EXPECT_EQ(share_of(1000, share(0.9999)), 1000u);
}

TEST_P(Sampling, TheLikeliestTokenIsTheFirstOfTheLargest) {
  constexpr int64_t kRows = 5;
  for (const int64_t vocab : {1, 31, 1024, 49152}) {
    std::vector<float> logits = random_numbers(kRows * vocab, 7);
    if (vocab > 31)
      logits[static_cast<size_t>(2 * vocab + 30)] = logits[static_cast<size_t>(2 * vocab + 900)] = 50.0f;
    const std::vector<int32_t> found = draw(logits, std::vector<SamplingRow>(kRows));
    for (int64_t row = 0; row < kRows; ++row) {
      const auto first = logits.begin() + row * vocab;
      EXPECT_EQ(found[static_cast<size_t>(row)], std::max_element(first, first + vocab) - first);
    }
  }
}

TEST_P(Sampling, EveryWayDrawsTheTokenThatTheRuleSays) {
  const std::vector<SamplingRow> ways = many_ways();
  const auto count = static_cast<int64_t>(ways.size());
  for (const int64_t vocab : {1, 2, 129, 5001, 32064, 50257}) {
    const std::vector<float> logits =
        random_numbers(count * vocab, static_cast<uint32_t>(vocab), DType::f32, 3.0f);
    const std::vector<int32_t> found = draw(logits, ways);
    for (int64_t i = 0; i < count; ++i) {
      const std::vector<float> row(logits.begin() + i * vocab, logits.begin() + (i + 1) * vocab);
      const auto at = static_cast<std::size_t>(i);
      ASSERT_EQ(found[at], expected_token(row, ways[at])) << "row " << i << " of " << vocab;
      ASSERT_EQ(found[at], draw_token(row.data(), vocab, ways[at]));
    }
  }
}

// Many equal logits, as a few coarse numbers give: which of equals are kept decides.
TEST_P(Sampling, OfEqualTokensTheLowestAreKept) {
  const std::vector<SamplingRow> ways = many_ways();
  for (const int64_t vocab : {300, 9000}) {
    std::vector<float> logits = random_numbers(vocab, 5);
    for (float& x : logits) x = std::nearbyint(x);
    logits[7] = kNever;
    std::vector<float> rows;
    for (std::size_t i = 0; i < ways.size(); ++i) rows.insert(rows.end(), logits.begin(), logits.end());
    const std::vector<int32_t> found = draw(rows, ways);
    for (std::size_t i = 0; i < ways.size(); ++i) ASSERT_EQ(found[i], expected_token(logits, ways[i])) << i;
  }
  const std::vector<float> alike(1000, 3.5f);
  for (uint64_t drawn = 0; drawn < 40; ++drawn) {
    const SamplingRow best{.seed = 1, .drawn = drawn, .top_k = 10, .steepness = 1.0f};
    EXPECT_LT(draw_one(alike, best), 10);
    const SamplingRow half{.seed = 1, .drawn = drawn, .share = share(0.5), .steepness = 1.0f};
    EXPECT_LT(draw_one(alike, half), 500);
  }
}

TEST_P(Sampling, WhatIsDrawnDependsOnNothingElseInTheBatch) {
  constexpr int64_t kVocab = 3000;
  const std::vector<SamplingRow> ways = many_ways();
  const std::vector<float> logits =
      random_numbers(static_cast<int64_t>(ways.size()) * kVocab, 9, DType::f32, 2.0f);
  const std::vector<int32_t> together = draw(logits, ways);
  for (std::size_t i = 0; i < ways.size(); i += 3) {
    const auto first = logits.begin() + static_cast<int64_t>(i) * kVocab;
    EXPECT_EQ(draw_one(std::vector<float>(first, first + kVocab), ways[i]), together[i]) << i;
  }
}

TEST_P(Sampling, ImpossibleTokensAreNeverDrawn) {
  std::vector<float> logits(2000, kNever);
  EXPECT_EQ(draw_one(logits, {.seed = 1, .top_k = 5, .steepness = 1.0f}), 0);
  EXPECT_EQ(draw_one(logits, {.seed = 1, .share = share(0.5), .steepness = 1.0f}), 0);
  logits[1234] = -3.0f;
  logits[77] = -3.0f;
  bool first = false, second = false;
  for (uint64_t drawn = 0; drawn < 40; ++drawn) {
    const int32_t id = draw_one(logits, {.seed = 1, .drawn = drawn, .steepness = 1.0f});
    ASSERT_TRUE(id == 77 || id == 1234) << id;
    (id == 77 ? first : second) = true;
  }
  EXPECT_TRUE(first && second);
}

TEST_P(Sampling, WrongShapesAreRefused) {
  const Array logits = allocate(*device_, DType::f32, {2, 8}), ids = allocate(*device_, DType::i32, {3});
  Queue& queue = device_->compute();
  EXPECT_THROW(sample_tokens(queue, {.logits = logits.view, .rows = nullptr, .ids = ids.view}), InvalidInput);
  const Array half = allocate(*device_, DType::bf16, {3, 8});
  EXPECT_THROW(sample_tokens(queue, {.logits = half.view, .rows = nullptr, .ids = ids.view}), InvalidInput);
  const Array none = allocate(*device_, DType::f32, {3, 0});
  EXPECT_THROW(sample_tokens(queue, {.logits = none.view, .rows = nullptr, .ids = ids.view}), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::testing
