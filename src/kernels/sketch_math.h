// The arithmetic of the sketch, one definition for every twin (reference: the random-sign Hadamard rotation
// makes every number of a key carry about as much, so that its sign alone says most).
//
// A key x (rotated by position, less its segment's centre) is turned by y = H S x: S flips signs by a fixed
// pattern, H is a normalised Hadamard matrix, block-diagonal in powers of two where head_dim is none (96 = 64
// + 32). Each number becomes a code c of `bits` bits whose level is l = 2 c - (2^bits - 1): -1, 1 or -3, -1,
// 1, 3. With two bits the inner levels take |y| below the row's root mean square. The token's scale s = |y|^2
// / (y . l) makes the estimate s * (q . l) exact for q = x.
//
// The query is turned likewise and rounded to integers of kQueryBits bits in two's complement, so that scores
// are sums of bit counts. Bit plane p of a token (p = 0 lowest) holds bit p of every number's code, number i
// at bit i % 32 of word i / 32; planes follow one another.
#pragma once

#include <cstdint>

#include "kernels/views.h"

namespace shadowkv {

inline constexpr int kQueryBits = 4;
inline constexpr float kQueryMax =
    (1 << (kQueryBits - 1)) - 1;  // largest magnitude of a rounded query number

// Words of one bit plane, and bytes of one token's sketch.
SHADOWKV_HD constexpr int64_t sketch_plane_words(int64_t head_dim) {
  return (head_dim + 31) / 32;
}
SHADOWKV_HD constexpr int64_t sketch_token_bytes(int64_t head_dim, int64_t bits) {
  return sketch_plane_words(head_dim) * 4 * bits;
}

// Tokens of a tile of words, where a twin stores blocks so (cuda/sketch.cuh), and where in it word `word` of
// a token of the tile lies, a token being `words` words, an even number. Fours of words come first, the two
// that may be left share a four with the next token's.
inline constexpr int64_t kSketchTileTokens = 128;
SHADOWKV_HD constexpr int64_t sketch_tile_word(int64_t token, int64_t word, int64_t words) {
  const int64_t row = token / 8, m = token % 8, four = word / 4 * 4;
  const bool shared = four + 4 > words;
  const int64_t pair = shared ? m / 4 : m / 2, e = (shared ? m / 2 % 2 : m % 2) * 2 + row / 8;
  const int64_t lane = 4 * (row % 8) + (shared ? m % 2 * 2 + word % 4 : word % 4);
  return ((four + pair) * 32 + lane) * 4 + e;
}

// +1 or -1, fixed for all time: stored sketches depend on it.
SHADOWKV_HD constexpr float sketch_sign(int64_t i) {
  uint32_t x = static_cast<uint32_t>(i) * 0x9e3779b9u + 0x7f4a7c15u;
  x ^= x >> 16;
  x *= 0x85ebca6bu;
  x ^= x >> 13;
  return (x >> 7) & 1u ? 1.0f : -1.0f;
}

// Size of the Hadamard block that starts at number `first` of head_dim: the largest power of two that fits.
SHADOWKV_HD constexpr int64_t hadamard_block(int64_t first, int64_t head_dim) {
  int64_t size = 1;
  while (size * 2 <= head_dim - first) size *= 2;
  return size;
}

}  // namespace shadowkv
