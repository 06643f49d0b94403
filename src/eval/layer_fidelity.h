// How near a method's attention came to exact attention in one layer, for the method's own queries: what it
// did not look at, and what it looked at but held inexactly.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace shadowkv::eval {

// Keys and values of all tokens as exact attention has them: [tokens, kv_heads, head_dim], keys rotated.
struct ExactKeysValues {
  std::vector<float> k, v;
};

// A layer of one decode step of one sequence.
struct AttendedLayer {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 0;                                      // of q . k
  std::span<const float> q;                             // [heads, head_dim], rotated
  std::span<const float> output;                        // [heads, head_dim]
  std::span<const std::vector<int32_t>> attended = {};  // [kv_heads] positions
};

// Of one KV head, means over its query heads but for `overlap`. Errors are lengths of differences in shares
// of the exact output's.
struct HeadFidelity {
  double mass = 0;             // share of exact attention's weights that falls on what was attended
  double overlap = 0;          // share of what was attended that is among as many of the weightiest tokens
  double error = 0;            // of the output
  double selection_error = 0;  // of exact attention over what was attended alone
  double storage_error = 0;    // of the output, from exact attention over what was attended
};

// [kv_heads]. Throws InvalidInput where the sizes do not fit together or a position is out of range.
[[nodiscard]] std::vector<HeadFidelity> fidelity_of(const ExactKeysValues& exact, const AttendedLayer& layer);

// Means over steps, by layer and KV head.
class LayerFidelities {
 public:
  void add(int64_t layer, std::span<const HeadFidelity> heads);

  [[nodiscard]] int64_t layers() const { return static_cast<int64_t>(sums_.size()); }
  [[nodiscard]] int64_t kv_heads() const;
  [[nodiscard]] HeadFidelity at(int64_t layer, int64_t head) const;
  [[nodiscard]] HeadFidelity of_layer(int64_t layer) const;
  [[nodiscard]] HeadFidelity mean() const;
  [[nodiscard]] int64_t worst_layer() const;  // by mass

 private:
  struct Sum {
    HeadFidelity sum;
    int64_t count = 0;
  };
  std::vector<std::vector<Sum>> sums_;  // [layers][kv_heads]
};

}  // namespace shadowkv::eval
