#include "divergence.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace shadowkv::apps {
namespace {

template <typename T>
int64_t index_of_largest(std::span<const T> row) {
  return std::max_element(row.begin(), row.end()) - row.begin();
}

// The smallest value that at least `share` of all values do not exceed; sorted and not empty.
double percentile(const std::vector<double>& sorted, double share) {
  const auto rank = static_cast<int64_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[static_cast<std::size_t>(std::max<int64_t>(rank, 1) - 1)];
}

}  // namespace

int64_t argmax(std::span<const float> logits) {
  return index_of_largest(logits);
}

std::vector<double> log_probabilities(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - top);
  const double log_sum = top + std::log(sum);
  std::vector<double> row(logits.size());
  std::transform(logits.begin(), logits.end(), row.begin(), [=](float logit) { return logit - log_sum; });
  return row;
}

double divergence(std::span<const double> reference, std::span<const double> other) {
  double sum = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double p = std::exp(reference[i]);
    if (p > 0) sum += p * (reference[i] - other[i]);
  }
  return sum < 0 ? 0.0 : sum;  // below 0 is rounding; NaN stays
}

void Divergences::add(std::span<const double> reference, std::span<const double> other) {
  values_.push_back(divergence(reference, other));
  same_top_ += index_of_largest(reference) == index_of_largest(other) ? 1 : 0;
}

DivergenceSummary Divergences::summary() const {
  DivergenceSummary result;
  if (values_.empty()) return result;
  std::vector<double> sorted = values_;
  std::sort(sorted.begin(), sorted.end());
  const auto steps = static_cast<double>(sorted.size());
  result.steps = static_cast<int64_t>(sorted.size());
  result.mean = std::accumulate(sorted.begin(), sorted.end(), 0.0) / steps;
  result.median = percentile(sorted, 0.5);
  result.p90 = percentile(sorted, 0.9);
  result.p99 = percentile(sorted, 0.99);
  result.max = sorted.back();
  result.same_top = static_cast<double>(same_top_) / steps;
  return result;
}

}  // namespace shadowkv::apps
