#include "attention/rope.h"

#include <cmath>

namespace shadowkv {

std::vector<float> inverse_frequencies(const RopeConfig& rope) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < rope.rotary_dim / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim);
    frequencies.push_back(static_cast<float>(std::pow(rope.theta, exponent)));
  }
  return frequencies;
}

}  // namespace shadowkv
