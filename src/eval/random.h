// Random draws that are the same on every machine and standard library: prompts are named by their seed.
#pragma once

#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/check.h"

namespace shadowkv::eval {

// 64-bit FNV-1a: names prompts and seeds, no protection against forgery.
[[nodiscard]] uint64_t hash_of(std::string_view text, uint64_t start = 0xcbf29ce484222325u);
// "00c0ffee00c0ffee".
[[nodiscard]] std::string hash_text(uint64_t hash);

// SplitMix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  // One stream a name, such as "niah_single_1 4096 3": samples do not depend on which others are drawn.
  Random(uint64_t seed, std::string_view name) : state_(hash_of(name) ^ (seed * 0x9e3779b97f4a7c15u)) {}

  uint64_t next();
  // Uniform in [0, n), n >= 1.
  int64_t below(int64_t n);
  // Uniform in [least, most].
  int64_t between(int64_t least, int64_t most) { return least + below(most - least + 1); }

  template <typename T>
  [[nodiscard]] const T& pick(const std::vector<T>& items) {
    return items.at(static_cast<std::size_t>(below(static_cast<int64_t>(items.size()))));
  }
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (std::size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[static_cast<std::size_t>(below(static_cast<int64_t>(i)))]);
    }
  }
  // `count` of the numbers 0 to n - 1, each at most once, in the order drawn.
  [[nodiscard]] std::vector<int64_t> sample(int64_t n, int64_t count);

 private:
  uint64_t state_;
};

// `count` different results of `draw`, in the order drawn. The caller's draw has many more values than that.
template <typename Draw>
[[nodiscard]] std::vector<std::string> distinct(int64_t count, Draw draw) {
  std::vector<std::string> drawn;
  std::unordered_set<std::string> seen;
  while (static_cast<int64_t>(drawn.size()) < count) {
    std::string one = draw();
    if (seen.insert(one).second) drawn.push_back(std::move(one));
  }
  return drawn;
}

[[nodiscard]] std::string random_number(Random& random, int64_t digits);              // no leading zero
[[nodiscard]] std::string random_uuid(Random& random);                                // version 4
[[nodiscard]] std::string random_letters(Random& random, int64_t count, char first);  // 'a' or 'A' onwards

}  // namespace shadowkv::eval
