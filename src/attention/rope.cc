#include "attention/rope.h"

#include <cmath>

namespace shadowkv {

std::vector<float> inverse_frequencies(const RopeConfig& rope) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < rope.rotary_dim / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim);
    const double divisor =
        rope.divisors.empty() ? 1.0 : static_cast<double>(rope.divisors[static_cast<std::size_t>(i)]);
    frequencies.push_back(static_cast<float>(std::pow(rope.theta, exponent) / divisor));
  }
  return frequencies;
}

}  // namespace shadowkv
