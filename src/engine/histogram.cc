// DurationHistogram and TokenHistogram of service.h.
#include <algorithm>
#include <cmath>

#include "shadowkv/service.h"

namespace shadowkv {
namespace {

constexpr double kFirstBound = 1e-5;  // seconds

}  // namespace

double DurationHistogram::upper_bound(int bucket) {
  return kFirstBound * std::exp2(static_cast<double>(bucket) / 4);
}

void DurationHistogram::add(double seconds) {
  count_in(seconds > kFirstBound ? std::ceil(4 * std::log2(seconds / kFirstBound)) : 0, seconds);
  max_ = std::max(max_, seconds);
}

double DurationHistogram::quantile(double share) const {
  const double wanted = std::ceil(std::clamp(share, 0.0, 1.0) * static_cast<double>(count()));
  int64_t seen = 0;
  for (int bucket = 0; bucket < kBuckets && count() > 0; ++bucket) {
    seen += in_bucket(bucket);
    if (seen > 0 && static_cast<double>(seen) >= wanted) return std::min(upper_bound(bucket), max_);
  }
  return 0;
}

double TokenHistogram::upper_bound(int bucket) {
  return std::exp2(bucket);
}

void TokenHistogram::add(double tokens) {
  count_in(tokens > 1 ? std::ceil(std::log2(tokens)) : 0, tokens);
}

}  // namespace shadowkv
