// The arithmetic of made-up benchmark state, one definition for every twin.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/kernels.h"
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

// a * b / divisor in whole numbers, for products below 2^53; quick on a GPU.
SHADOWKV_HD inline int64_t share_of(int64_t a, int64_t b, int64_t divisor) {
  return static_cast<int64_t>(static_cast<double>(a) * static_cast<double>(b) / static_cast<double>(divisor));
}

// What ForcedHits (kernels.h) puts in place of one KV head's choice. All counts are below 2^31.
struct ForcedChoice {
  int32_t candidates;
  int32_t every;   // candidates of a pick
  int32_t misses;  // of the picks, at every step
  int32_t tokens;  // of the sequence
  int32_t sealed;  // its sealed chunks
  int32_t head;

  // The index of pick i among the candidates.
  SHADOWKV_HD int32_t pick(int32_t i) const { return i * every; }
  // The chunk of candidate i.
  SHADOWKV_HD int32_t chunk(int32_t i) const {
    // In whole units, so that strata stand still while a sequence grows by a few chunks.
    const int32_t unit = 8 * candidates;
    const int32_t open = sealed - 1 >= unit ? (sealed - 1) / unit * unit : sealed - 1;
    const auto first = static_cast<int32_t>(share_of(i, open, candidates));
    const auto size = static_cast<uint32_t>(share_of(i + 1, open, candidates) - first);
    const int32_t nth = i / every, picks = candidates / every;
    // How often this candidate has changed: picks change `misses` a step in turn, others at every step.
    const int64_t changed = int64_t{tokens} * misses + nth;
    const auto changes = static_cast<uint32_t>(i == nth * every ? share_of(changed, 1, picks) : tokens);
    const uint64_t key = static_cast<uint64_t>(i) << 32 | static_cast<uint64_t>(head);
    // One further at each change, so that a change never finds the chunk it had.
    const uint32_t start = static_cast<uint32_t>(random_bits(key, 0) >> 32), all = size > 0 ? size : 1;
    return 1 + first + static_cast<int32_t>((start % all + changes % all) % all);
  }
};

// ForcedHits, made ready for the forced choices of all KV heads of a batch.
struct Forcing {
  bool on;
  int32_t every, misses;
  int64_t local_window;

  Forcing(const ForcedHits& hits, int64_t candidates)
      : on(hits.share >= 0),
        every(on ? static_cast<int32_t>(candidates / hits.picks) : 0),
        misses(static_cast<int32_t>(std::llround((1 - hits.share) * static_cast<double>(hits.picks)))),
        local_window(hits.local_window) {}

  SHADOWKV_HD ForcedChoice of(const DecodeBatch& batch, const SlotView& slots, int32_t candidates,
                              int64_t bg) const {
    const int64_t tokens = batch.tokens[bg / slots.kv_heads];
    return {candidates,
            every,
            misses,
            static_cast<int32_t>(tokens),
            static_cast<int32_t>(sealed_chunks(tokens, slots.chunk, local_window)),
            static_cast<int32_t>(bg % slots.kv_heads)};
  }
};

}  // namespace shadowkv
