// How models are made to read further than they were trained: the pairs of a head turn more slowly, each by a
// divisor of its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/rope.h"

namespace shadowkv {

// All pairs alike. Throws InvalidInput, beginning with `where`, for a factor below 1.
[[nodiscard]] std::vector<float> linear_divisors(const RopeConfig& rope, double factor,
                                                 const std::string& where);

// Tokens that a factor stretches an original context to, no more than a model may have.
[[nodiscard]] int64_t stretched_context(int64_t original_context, double factor);

// Dynamic NTK: within the original context nothing is divided; a sequence of n tokens beyond it turns by the
// base times s^(d / (d - 2)), where d numbers turn and s = factor n / original_context - (factor - 1). As
// one that grows must not change the keys that it holds, n is fixed when it begins: the first of a finite
// ladder of lengths that it may not outgrow. Its rungs are the original context, four evenly spaced ones in
// each doubling from there, and the context.
struct DynamicScaling {
  double factor = 0;
  int64_t original_context = 0;  // tokens
  int64_t context = 0;           // tokens, the last rung
};
// Sets divisors of all rungs.
void scale_by_dynamic(RopeConfig& rope, const DynamicScaling& scaling, const std::string& where);

// Llama 3.1's: pairs that turn less than low_freq_factor times over the original context are divided by
// factor, those that turn more than high_freq_factor times are left alone, between them it goes smoothly.
struct Llama3Scaling {
  double factor = 0;
  double low_freq_factor = 0;
  double high_freq_factor = 0;
  int64_t original_context = 0;  // tokens
};
[[nodiscard]] std::vector<float> llama3_divisors(const RopeConfig& rope, const Llama3Scaling& scaling,
                                                 const std::string& where);

// YaRN (arXiv 2309.00071): pairs that turn more than beta_fast times over the original context are left
// alone, those that turn less than beta_slow times are divided by factor, between them goes a ramp over the
// pairs' numbers; turned numbers grow by attention_factor.
struct YarnScaling {
  double factor = 0;
  int64_t original_context = 0;  // tokens
  double beta_fast = 32;
  double beta_slow = 1;
  double attention_factor = 0;  // 0: yarn_magnitude(factor)
  bool truncate = true;         // whether the ramp's ends are whole pairs
};
// 1 + weight ln(factor) / 10; some models weigh the logarithm.
[[nodiscard]] double yarn_magnitude(double factor, double weight = 1);
// Sets divisors and magnitude.
void scale_by_yarn(RopeConfig& rope, const YarnScaling& scaling, const std::string& where);

// LongRoPE (arXiv 2402.13753): divisors found by search, others for texts beyond the original context than
// within it; turned numbers grow by attention_factor. Which divisors hold is fixed when a sequence begins, by
// the length that it may reach: one that grows past the original context must not change those of the keys
// that it holds.
struct LongRopeScaling {
  std::vector<float> short_divisors, long_divisors;  // [rotary_dim / 2]
  int64_t context = 0;                               // tokens that the model is made for
  int64_t original_context = 0;
  double factor = 0;            // 0: context / original_context
  double attention_factor = 0;  // 0: longrope_magnitude(factor, original_context)
};
// sqrt(1 + ln(factor) / ln(original_context)), 1 where factor is at most 1.
[[nodiscard]] double longrope_magnitude(double factor, int64_t original_context);
// Sets divisors of both kinds and magnitude.
void scale_by_longrope(RopeConfig& rope, const LongRopeScaling& scaling, const std::string& where);

}  // namespace shadowkv
