#include "attention/rope.h"

#include <algorithm>
#include <cmath>

namespace shadowkv {
namespace {

void add_frequencies(const RopeConfig& rope, const std::vector<float>& divisors,
                     std::vector<float>& frequencies) {
  for (int64_t i = 0; i < rope.rotary_dim / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim);
    const double divisor =
        divisors.empty() ? 1.0 : static_cast<double>(divisors[static_cast<std::size_t>(i)]);
    frequencies.push_back(static_cast<float>(std::pow(rope.theta, exponent) / divisor));
  }
}

}  // namespace

int64_t RopeConfig::table_for(int64_t max_tokens) const {
  const auto found = std::ranges::lower_bound(shorter, max_tokens, {}, &ShorterRope::most_tokens);
  return found == shorter.end() ? 0 : 1 + (found - shorter.begin());
}

int64_t RopeConfig::reach(int64_t table) const {
  return table == 0 ? INT64_MAX : shorter.at(static_cast<std::size_t>(table - 1)).most_tokens;
}

std::vector<float> inverse_frequencies(const RopeConfig& rope) {
  std::vector<float> frequencies;
  add_frequencies(rope, rope.divisors, frequencies);
  return frequencies;
}

std::vector<float> frequency_tables(const RopeConfig& rope) {
  std::vector<float> frequencies = inverse_frequencies(rope);
  for (const ShorterRope& shorter : rope.shorter) add_frequencies(rope, shorter.divisors, frequencies);
  return frequencies;
}

}  // namespace shadowkv
