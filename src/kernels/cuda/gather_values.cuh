// Which values of misses go where: what both ways of gathering share.
#pragma once

#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {

struct GatherParams {
  DecodeBatch batch;
  const int32_t* chunks;    // [B, G, M]
  const int32_t* assigned;  // [B, G, K]
  const int32_t* source;    // [B, G, K]
  QuantizedView values;
  SlotView slots;
  int64_t candidates;
  int64_t entries;
};

// A miss: first token, and where its rows go.
struct Miss {
  int64_t row;
  int64_t head;
  int64_t token;
  std::byte* to;
};

__device__ inline Miss miss_of(const GatherParams& p, int64_t item) {
  const int64_t bg = item / p.entries, b = bg / p.slots.kv_heads, g = bg % p.slots.kv_heads;
  const int64_t row = p.batch.rows[b], chunk = p.chunks[bg * p.candidates + p.source[item]];
  return {row, g, chunk * p.slots.chunk, p.slots.values(row, g, p.assigned[item])};
}

// 16 codes of one row into 16 bfloat16 numbers.
__device__ inline void store_codes(const uint4& codes, float scale, std::byte* to) {
  const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t word = words[2 * half + i / 4];
      x[i] = static_cast<float>(static_cast<int8_t>(word >> (8 * (i % 4)))) * scale;
    }
    Bf16x8::from_floats(x).store(to + 16 * half);
  }
}

// Whether values come by gather_in_bulk(): whole pieces of 16 bytes, on a device that has bulk copies.
bool comes_in_bulk(Queue& queue, const GatherValuesParams& p);
void gather_in_bulk(Queue& queue, const GatherParams& params);

}  // namespace shadowkv::cuda
