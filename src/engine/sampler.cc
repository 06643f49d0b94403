// Picking a token from logits. The random numbers are a function of the seed and of how many were drawn,
// nothing else, so a request's tokens do not depend on what runs beside it.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv {
namespace {

// splitmix64 of (seed, n): n-th number in [0, 1) of the seed's stream.
double uniform(uint64_t seed, uint64_t n) {
  uint64_t x = seed + 0x9e3779b97f4a7c15u * (n + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return static_cast<double>(x >> 11) * 0x1.0p-53;
}

// Ids in order of falling logit, ties by id; only the first `count` are in order.
std::vector<int32_t> best_ids(std::span<const float> logits, std::size_t count) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto better = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(), better);
  ids.resize(count);
  return ids;
}

}  // namespace

Sampler::Sampler(const SamplingParams& params) : params_(params) {
  require(params.temperature >= 0 && std::isfinite(params.temperature),
          "temperature = {} is out of range; it must be 0 (greedy) or more", params.temperature);
  require(params.top_k >= 0, "top-k = {} is out of range; it must be 0 (all) or more", params.top_k);
  require(params.top_p > 0 && params.top_p <= 1, "top-p = {} is out of range; it must lie in (0, 1]",
          params.top_p);
}

int32_t Sampler::pick(std::span<const float> logits) {
  require(!logits.empty(), "there are no logits to pick from");
  if (params_.temperature == 0) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  const std::size_t limit =
      params_.top_k > 0 ? std::min(logits.size(), static_cast<std::size_t>(params_.top_k)) : logits.size();
  const std::vector<int32_t> ids = best_ids(logits, limit);
  const auto logit = [&](std::size_t i) {
    return static_cast<double>(logits[static_cast<std::size_t>(ids[i])]);
  };
  std::vector<double> cumulative;
  double sum = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    sum += std::exp((logit(i) - logit(0)) / params_.temperature);
    cumulative.push_back(sum);
  }
  // The smallest set of best tokens whose share reaches top_p.
  const auto kept = std::lower_bound(cumulative.begin(), cumulative.end(), params_.top_p * sum);
  const std::size_t last = std::min(static_cast<std::size_t>(kept - cumulative.begin()), ids.size() - 1);
  const double drawn = uniform(params_.seed, drawn_++) * cumulative[last];
  const auto chosen =
      std::upper_bound(cumulative.begin(), cumulative.begin() + static_cast<std::ptrdiff_t>(last), drawn);
  return ids[static_cast<std::size_t>(chosen - cumulative.begin())];
}

}  // namespace shadowkv
