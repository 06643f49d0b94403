// Means with their uncertainty, and whether two methods differ on the same samples.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace shadowkv::eval {

struct Interval {
  double low = 0;
  double high = 0;
};

[[nodiscard]] double mean_of(std::span<const double> values);  // 0 of none

// 95 % interval of a mean of scores from 0 to 1 by Wilson's formula. Exact scores of 0 and 1 are what it is
// for; of scores in between it is wider than need be. Of none: 0 to 1.
[[nodiscard]] Interval score_interval(std::span<const double> scores);

// 95 % interval of the plain mean of several groups' means: the distances of their own intervals from their
// means, added by squares on either side. Empty groups are left out.
[[nodiscard]] Interval average_interval(std::span<const std::vector<double>> groups);

// Two-sided exact binomial test that wins and losses are as likely.
[[nodiscard]] double sign_test(int64_t wins, int64_t losses);

struct PairedDifference {
  int64_t samples = 0;
  double mean = 0;  // of b - a
  Interval interval;
  int64_t better = 0;  // samples where b scores more
  int64_t worse = 0;
  double p_value = 1;  // of the sign test
};
// a and b by group and sample, of the same shape: the mean of the groups' mean differences. Throws
// InvalidInput for other shapes.
[[nodiscard]] PairedDifference paired_difference(std::span<const std::vector<double>> a,
                                                 std::span<const std::vector<double>> b);

}  // namespace shadowkv::eval
