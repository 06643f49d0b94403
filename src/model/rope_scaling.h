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

}  // namespace shadowkv
