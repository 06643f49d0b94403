// Rotary position embedding as data, and the tables of frequencies that the kernels read.
#pragma once

#include <cstdint>
#include <vector>

namespace shadowkv {

// What holds for sequences that may hold up to so many tokens.
struct ShorterRope {
  int64_t most_tokens = 0;
  std::vector<float> divisors;  // [rotary_dim / 2], positive
};

// Pair i of a head turns by position * theta^(-2i / rotary_dim) / divisors[i].
struct RopeConfig {
  double theta = 10000.0;
  int64_t rotary_dim = 0;    // leading numbers of a head that turn; even
  bool interleaved = false;  // pairs are neighbours (2i, 2i + 1), as GGUF llama files store them; else halves
                             // (i, i + rotary_dim / 2)
  std::vector<float> divisors;  // [rotary_dim / 2], positive; empty: 1 each
  double magnitude = 1.0;       // that turned queries and keys are multiplied by, in effect: see scale()
  // A rule by length is fixed when a sequence begins, by the most that it may hold: the first of these that
  // reaches so far holds, beyond them the divisors above. most_tokens rises. Empty: no such rule.
  std::vector<ShorterRope> shorter{};

  // Of frequencies, one beside the other: the first is that of all sequences, or of the longest ones.
  [[nodiscard]] int64_t tables() const { return 1 + static_cast<int64_t>(shorter.size()); }
  [[nodiscard]] int64_t table_for(int64_t max_tokens) const;
  // Most tokens of a sequence that turns by the table.
  [[nodiscard]] int64_t reach(int64_t table) const;
};

// [rotary_dim / 2] radians a position, of the first table.
[[nodiscard]] std::vector<float> inverse_frequencies(const RopeConfig& rope);
// [tables, rotary_dim / 2]
[[nodiscard]] std::vector<float> frequency_tables(const RopeConfig& rope);

}  // namespace shadowkv
