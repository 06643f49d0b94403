// How far the logits of whole models may lie from each other: |found - expected| <= absolute + relative *
// |expected|. One row a comparison; every row says where the difference comes from.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <span>

namespace shadowkv::testing {

struct LogitTolerance {
  double absolute;
  double relative;
};

// Sparse attention that may choose everything, in float32 throughout: attention is summed in another order,
// and keys are rebuilt as mean + factors * basis, two float32 products of full rank.
inline constexpr LogitTolerance kCollapse{1e-4, 1e-4};
// The same with weights of a trained model, whose residual stream grows large over 30 layers.
inline constexpr LogitTolerance kCollapseDeep{5e-4, 1e-4};
// transformers against ours on tiny models: other order of float32 sums, and it keeps rotary angles as
// float32 products (an error of 4e-6 radians at position 71) where ours are float64.
inline constexpr LogitTolerance kGolden{1e-4, 1e-4};
// The same at 616 positions (4e-5 radians) through 30 layers.
inline constexpr LogitTolerance kGoldenDeep{3e-4, 1e-4};
// A Hugging Face folder against the GGUF file of the same numbers: rotary pairs stand side by side instead of
// in halves, so that sums over a head run in another order. Most seen over 64 steps: 2.3e-5.
inline constexpr LogitTolerance kSameModel{3e-5, 3e-5};

// What shadow at its defaults changes in the tiny models' logits: the mean over the steps of the difference's
// length as a share of the spread's. Factors and values in 8 bits alone: a number is off by up to 1/254 of
// its row's largest, and two layers of peaked attention make ten times as much of that. Most seen: 0.031.
inline constexpr double kEightBits = 0.04;
// Chosen at the default budget, 512 of 1,200 tokens, at the default rank. The keys of random models have
// neither a low rank nor few that matter, those of trained models have both. Most seen: 0.094.
inline constexpr double kChosen = 0.13;
// The same where heads are normed: random ones then attend to all tokens nearly alike, so that what is not
// chosen is missed. Seen: 0.190.
inline constexpr double kChosenEvenly = 0.25;

// By how much the CPU's logit of its own choice may lie above that of the choice that a GPU makes instead.
// The tiny models' logits have a spread of about 1 (their matrices are random); a GPU keeps activations in
// bfloat16 (2^-9 a rounding, some thirty of them in a row in two layers), the CPU in float32.
inline constexpr float kGpuDoubt = 0.05f;
// With keys and values, or factors and values, in 8 bits: a rounding that falls the other way moves a number
// by 1/127 of its row's largest.
inline constexpr float kGpuDoubtInt8 = 0.15f;

// How many times as much as matrices in bfloat16 those in codes may change logits: bfloat16 rounds a weight
// by 0.11 % of it on average, codes of Gaussian rows of 64 by 0.6 %.
inline constexpr double kInt8WeightsChange = 12;

inline void expect_logits_near(std::span<const float> found, std::span<const float> expected,
                               LogitTolerance tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  double worst = 0;
  std::size_t at = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double allowed = tolerance.absolute + tolerance.relative * std::abs(double{expected[i]});
    const double share = std::abs(double{found[i]} - double{expected[i]}) / allowed;
    if (!(share <= worst)) {
      worst = share;
      at = i;
    }
  }
  ASSERT_LE(worst, 1.0) << "logit " << at << ": found " << found[at] << ", expected " << expected[at];
}

}  // namespace shadowkv::testing
