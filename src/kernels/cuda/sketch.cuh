// What encoding and scoring of the sketch share: how words are stored, and the turning of keys and queries.
//
// Storage. Where a token has an even number of words and a block a whole number of 128 tokens, words lie in
// tiles of 128 tokens as the products want them; otherwise token after token. A tile is 16 rows of 8 tokens.
// For each four words of a token (step s), lane 4 r' + t of a warp multiplies word 4 s + t of row r' and of
// row r' + 8, so its words of two neighbouring tokens of both rows lie together, 16 bytes. Where two words
// are left, lane 4 r' + t takes word t % 2 of the even (t < 2) or the odd of two neighbours: its words of two
// such pairs of both rows lie together (sketch_tile_word).
#pragma once

#include "kernels/cuda/query_tile.cuh"
#include "kernels/sketch_math.h"

namespace shadowkv::cuda {

// ---- layout -----------------------------------------------------------------------------------------------

struct SketchLayout {
  bool tiled;
  int64_t token_words;  // apart, of tokens that lie one after the other
  int words;            // of a token
};

inline SketchLayout sketch_layout(const SketchView& sketch, int64_t head_dim) {
  const PagedView& words = sketch.words;
  const int64_t bytes = sketch_token_bytes(head_dim, sketch.bits);
  return {bytes % 8 == 0 && words.token_bytes == bytes && words.block_tokens % kSketchTileTokens == 0 &&
              is_aligned_16(words),
          words.token_bytes / 4, static_cast<int>(bytes / 4)};
}

// Word of a token, the token counted from its block's start.
__device__ inline uint32_t* sketch_word_at(uint32_t* block, const SketchLayout& layout, int64_t token,
                                           int word) {
  if (!layout.tiled) return block + token * layout.token_words + word;
  const int64_t tile = token / kSketchTileTokens * kSketchTileTokens;
  return block + tile * layout.words + sketch_tile_word(token - tile, word, layout.words);
}

// Start of the block that holds a token's words of one head.
__device__ inline uint32_t* sketch_block_of(const PagedView& words, int64_t row, int64_t head,
                                            int64_t token) {
  return reinterpret_cast<uint32_t*>(words.at(row, head, token - token % words.block_tokens));
}

// ---- turning ----------------------------------------------------------------------------------------------

// y = H S x (sketch_math.h) by one warp: number i = lane + 32 j lies in x[j]; those from head_dim on stay.
template <int kNumbers>
__device__ inline void turn_sketch(float (&x)[kNumbers], int head_dim) {
  const int lane = threadIdx.x % kWarp;
  int size[kNumbers];  // of the Hadamard block that number j of this lane belongs to; 0 beyond the head
#pragma unroll
  for (int j = 0; j < kNumbers; ++j) {
    const int i = lane + j * kWarp;
    size[j] = (head_dim & (head_dim - 1)) == 0 && i < head_dim ? head_dim : 0;
    for (int first = 0; size[j] == 0 && first < head_dim && i < head_dim;) {
      const int block = static_cast<int>(hadamard_block(first, head_dim));
      if (i < first + block) {
        size[j] = block;
        break;
      }
      first += block;
    }
    x[j] *= sketch_sign(i);
  }
#pragma unroll
  for (int half = 1; half < kWarp; half *= 2) {
#pragma unroll
    for (int j = 0; j < kNumbers; ++j) {
      const float other = __shfl_xor_sync(kAllLanes, x[j], half);
      if (half < size[j]) x[j] = fmaf(x[j], (lane & half) == 0 ? 1.0f : -1.0f, other);  // exactly
    }
  }
#pragma unroll
  for (int step = 1; step < kNumbers; step *= 2) {
#pragma unroll
    for (int j = 0; j < kNumbers; ++j) {
      if ((j & step) != 0 || j + step >= kNumbers || step * kWarp >= size[j]) continue;
      const float a = x[j], b = x[j + step];
      x[j] = a + b;
      x[j + step] = a - b;
    }
  }
#pragma unroll
  for (int j = 0; j < kNumbers; ++j) {
    if (size[j] > 0) x[j] *= 1.0f / sqrtf(static_cast<float>(size[j]));
  }
}

// Calls body with how many numbers a lane holds.
template <int kCount>
struct LaneNumbers {
  static constexpr int value = kCount;
};
template <typename Body>
void with_lane_numbers(int64_t head_dim, const Body& body) {
  if (head_dim <= 2 * kWarp) return body(LaneNumbers<2>());
  if (head_dim <= 4 * kWarp) return body(LaneNumbers<4>());
  body(LaneNumbers<8>());
}

}  // namespace shadowkv::cuda
