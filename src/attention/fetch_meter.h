// Bytes of values that steps fetch from host memory. The device counts chunks that no slot held, over all
// sequences of a part; how much of their values lies in host memory the host knows alone.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace shadowkv {

class FetchMeter {
 public:
  static constexpr std::size_t kKinds = 2;  // parts of a step that wait for the link, and others

  // A sequence took a step in a part of that kind; that share of its values lay in host memory.
  void add_step(std::size_t kind, double host_share) {
    steps_[kind] += 1;
    shares_[kind] += host_share;
  }
  // misses: chunks that were fetched so far, by kind. Returns bytes so far.
  int64_t read(const std::array<int64_t, kKinds>& misses, int64_t chunk_bytes) {
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      const int64_t fetched = (misses[kind] - misses_[kind]) * chunk_bytes;
      if (steps_[kind] > 0) {
        bytes_ += std::llround(static_cast<double>(fetched) * shares_[kind] / steps_[kind]);
      }
      steps_[kind] = shares_[kind] = 0;
    }
    misses_ = misses;
    return bytes_;
  }

 private:
  std::array<int64_t, kKinds> misses_{};           // at the last reading
  std::array<double, kKinds> steps_{}, shares_{};  // since then
  int64_t bytes_ = 0;
};

}  // namespace shadowkv
