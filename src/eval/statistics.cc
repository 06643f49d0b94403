#include "eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace shadowkv::eval {
namespace {

using Groups = std::span<const std::vector<double>>;

constexpr double kNormal95 = 1.959963984540054;

std::vector<std::span<const double>> not_empty(Groups groups) {
  std::vector<std::span<const double>> kept;
  for (const std::vector<double>& group : groups) {
    if (!group.empty()) kept.emplace_back(group);
  }
  return kept;
}

// Of the mean of the groups' means of differences.
Interval matched_interval(Groups groups) {
  const std::vector<std::span<const double>> kept = not_empty(groups);
  if (kept.empty()) return {-1, 1};
  const auto count = static_cast<double>(kept.size());
  double mean = 0, variance = 0;
  for (const std::span<const double> group : kept) {
    const double n = static_cast<double>(group.size()) + 2 / count;
    const double sum = std::accumulate(group.begin(), group.end(), 0.0);
    const double squares = std::inner_product(group.begin(), group.end(), group.begin(), 1 / count);
    mean += sum / n / count;
    variance += (squares / n - sum * sum / (n * n)) / n / (count * count);
  }
  const double half = kNormal95 * std::sqrt(variance);
  return {std::max(-1.0, mean - half), std::min(1.0, mean + half)};
}

double mean_of_groups(Groups groups) {
  std::vector<double> means;
  for (const std::span<const double> group : not_empty(groups)) means.push_back(mean_of(group));
  return mean_of(means);
}

}  // namespace

double mean_of(std::span<const double> values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

Interval score_interval(std::span<const double> scores) {
  if (scores.empty()) return {0, 1};
  const auto n = static_cast<double>(scores.size());
  const double p = mean_of(scores), z2 = kNormal95 * kNormal95;
  const double centre = (p + z2 / (2 * n)) / (1 + z2 / n);
  const double half = kNormal95 * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n);
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

Interval average_interval(Groups groups) {
  const std::vector<std::span<const double>> kept = not_empty(groups);
  if (kept.empty()) return {0, 1};
  double mean = 0, below = 0, above = 0;
  for (const std::span<const double> group : kept) {
    const double own = mean_of(group);
    const Interval interval = score_interval(group);
    mean += own;
    below += (own - interval.low) * (own - interval.low);
    above += (interval.high - own) * (interval.high - own);
  }
  const auto count = static_cast<double>(kept.size());
  return {(mean - std::sqrt(below)) / count, (mean + std::sqrt(above)) / count};
}

double sign_test(int64_t wins, int64_t losses) {
  const int64_t n = wins + losses;
  const int64_t rarer = std::min(wins, losses);
  double tail = 0;  // of the rarer outcome so rare or rarer
  for (int64_t k = 0; k <= rarer; ++k) {
    const auto of = static_cast<double>(n), at = static_cast<double>(k);
    tail +=
        std::exp(std::lgamma(of + 1) - std::lgamma(at + 1) - std::lgamma(of - at + 1) - of * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

PairedDifference paired_difference(Groups a, Groups b) {
  require(a.size() == b.size(), "{} groups cannot be paired with {}", a.size(), b.size());
  PairedDifference result;
  std::vector<std::vector<double>> differences(a.size());
  for (std::size_t g = 0; g < a.size(); ++g) {
    require(a[g].size() == b[g].size(), "{} samples cannot be paired with {}", a[g].size(), b[g].size());
    for (std::size_t i = 0; i < a[g].size(); ++i) {
      const double difference = b[g][i] - a[g][i];
      differences[g].push_back(difference);
      result.samples += 1;
      result.better += static_cast<int64_t>(difference > 0);
      result.worse += static_cast<int64_t>(difference < 0);
    }
  }
  result.mean = mean_of_groups(differences);
  result.interval = matched_interval(differences);
  result.p_value = sign_test(result.better, result.worse);
  return result;
}

}  // namespace shadowkv::eval
