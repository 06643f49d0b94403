// The arithmetic of made-up benchmark state, one definition for every twin.
#pragma once

#include <cstdint>

#include "kernels/views.h"

namespace shadowkv {

// splitmix64: the n-th number of a seed's stream.
SHADOWKV_HD inline uint64_t random_bits(uint64_t seed, uint64_t n) {
  uint64_t x = seed + 0x9e3779b97f4a7c15ull * (n + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// [low, high) from the upper bits.
SHADOWKV_HD inline float random_uniform(uint64_t bits, float low, float high) {
  return low + (high - low) * static_cast<float>(bits >> 40) * 0x1.0p-24f;
}

// What ForcedHits (kernels.h) puts in place of one KV head's choice.
struct ForcedChoice {
  int64_t candidates;
  int64_t picks;
  int64_t misses;  // of the picks, at every step
  int64_t tokens;  // of the sequence
  int64_t sealed;  // its sealed chunks
  int64_t head;

  // The index of pick i among the candidates.
  SHADOWKV_HD int32_t pick(int64_t i) const { return static_cast<int32_t>(i * (candidates / picks)); }
  // The chunk of candidate i.
  SHADOWKV_HD int32_t chunk(int64_t i) const {
    // In whole units, so that strata stand still while a sequence grows by a few chunks.
    const int64_t unit = 8 * candidates;
    const int64_t open = sealed - 1 >= unit ? (sealed - 1) / unit * unit : sealed - 1;
    const int64_t first = i * open / candidates;
    const int64_t size = (i + 1) * open / candidates - first;
    const int64_t every = candidates / picks;
    // How often this candidate has changed: picks change `misses` a step in turn, others at every step.
    const int64_t changes = i % every == 0 ? (tokens * misses + i / every) / picks : tokens;
    const uint64_t key = static_cast<uint64_t>(i) << 32 | static_cast<uint64_t>(head);
    // One further at each change, so that a change never finds the chunk it had.
    const uint64_t offset = random_bits(key, 0) + static_cast<uint64_t>(changes);
    return static_cast<int32_t>(1 + first +
                                static_cast<int64_t>(offset % static_cast<uint64_t>(size > 0 ? size : 1)));
  }
};

}  // namespace shadowkv
