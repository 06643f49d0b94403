#include "base/checksum.h"

#include <array>
#include <bit>
#include <cstring>

namespace shadowkv {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::size_t kLanes = 4;  // words that are taken in side by side
constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;
constexpr std::array<uint64_t, kLanes> kStarts = {0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0,
                                                  0x082efa98ec4e6c89};

// One to one in the state for any word, and in the word for any state.
uint64_t take(uint64_t state, uint64_t word) {
  state = (state ^ word) * kOdd;
  return state ^ (state >> 29);
}

}  // namespace

uint64_t checksum(std::span<const std::byte> bytes, uint64_t seed) {
  std::array<uint64_t, kLanes> lanes = kStarts, words{};
  std::size_t at = 0;
  for (; at + sizeof(words) <= bytes.size(); at += sizeof(words)) {
    std::memcpy(words.data(), bytes.data() + at, sizeof(words));
    for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = take(lanes[i], words[i]);
  }
  if (at < bytes.size()) {
    words = {};
    std::memcpy(words.data(), bytes.data() + at, bytes.size() - at);
    for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = take(lanes[i], words[i]);
  }
  uint64_t sum = take(seed, bytes.size());
  for (const uint64_t lane : lanes) sum = take(sum, lane);
  return sum ^ (sum >> 32);
}

}  // namespace shadowkv
