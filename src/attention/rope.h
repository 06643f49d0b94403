// Rotary position embedding as data, and the table of frequencies that the kernels read.
#pragma once

#include <cstdint>
#include <vector>

namespace shadowkv {

// Pair i of a head turns by position * theta^(-2i / rotary_dim) / divisors[i].
struct RopeConfig {
  double theta = 10000.0;
  int64_t rotary_dim = 0;    // leading numbers of a head that turn; even
  bool interleaved = false;  // pairs are neighbours (2i, 2i + 1), as GGUF llama files store them; else halves
                             // (i, i + rotary_dim / 2)
  std::vector<float> divisors;  // [rotary_dim / 2], positive; empty: 1 each
  double magnitude = 1.0;       // that turned queries and keys are multiplied by, in effect: see scale()
};

// [rotary_dim / 2] radians a position.
[[nodiscard]] std::vector<float> inverse_frequencies(const RopeConfig& rope);

}  // namespace shadowkv
