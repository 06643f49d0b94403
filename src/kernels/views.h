// How kernels find the rows of many sequences: small structs of device pointers with address arithmetic that
// both twins of an op compile. A "row" is a sequence's index in the tables of the attention method that owns
// them; blocks may lie in either memory tier, the address in the table says where.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

#ifdef __CUDACC__
#define SHADOWKV_HD __host__ __device__
#else
#define SHADOWKV_HD
#endif

namespace shadowkv {

// One component of paged storage in one layer: token t of KV head h of sequence row r.
struct PagedView {
  std::byte* const* table = nullptr;  // device array of block addresses
  int64_t seq_stride = 0;             // table entries between sequence rows
  int64_t head_stride = 0;            // table entries between heads; 0 when all heads share a block
  int64_t block_tokens = 1;           // tokens (or chunks, or segments' tokens) that one block covers
  int64_t offset = 0;                 // bytes from a block's start to this component of this layer
  int64_t head_offset = 0;            // bytes between heads inside a block
  int64_t token_bytes = 0;            // bytes between tokens inside a block; 0 when all share one row
  DType dtype = DType::f32;

  SHADOWKV_HD std::byte* at(int64_t row, int64_t head, int64_t token) const {
    std::byte* block = table[row * seq_stride + head * head_stride + token / block_tokens];
    return block + offset + head * head_offset + (token % block_tokens) * token_bytes;
  }
};

// Rows of numbers in float32, bfloat16, or int8 with one bfloat16 scale a row: number = int8 * scale.
struct QuantizedView {
  PagedView data;
  PagedView scales;  // used when data.dtype is int8
};

// The tokens that a batch of a prefill slice or decode step brings, one entry a token.
struct TokenBatch {
  int64_t count = 0;
  const int32_t* rows = nullptr;       // [count] sequence row
  const int32_t* positions = nullptr;  // [count] position within the sequence
};

// The sequences of a decode step.
struct DecodeBatch {
  int64_t size = 0;
  const int32_t* rows = nullptr;    // [size] sequence row
  const int32_t* tokens = nullptr;  // [size] tokens held, this step's included
  int64_t max_tokens = 0;           // host bound on tokens[], for scratch and grids
};

// Which numbers of a head turn, and how fast. Turning is done in float32 (angles in float64 on the CPU).
struct RopeView {
  const float* inv_freq = nullptr;  // [tables, rotary_dim / 2] device
  int64_t rotary_dim = 0;
  bool interleaved = false;         // pairs (2i, 2i + 1); else (i, i + rotary_dim / 2)
  const int32_t* by_row = nullptr;  // [rows] the table that a sequence turns by; null: all by the first

  // [rotary_dim / 2]
  SHADOWKV_HD const float* frequencies(int64_t row) const {
    return by_row == nullptr ? inv_freq : inv_freq + by_row[row] * (rotary_dim / 2);
  }
};

// Chunks that have left the local window and may be chosen, the always attended first chunk counted:
// [1, sealed_chunks) is open to selection, tokens from sealed_chunks * chunk on lie in the ring.
SHADOWKV_HD constexpr int64_t sealed_chunks(int64_t tokens, int64_t chunk, int64_t local_window) {
  const int64_t left = tokens > local_window ? (tokens - local_window) / chunk : 0;
  return left > 1 ? left : 1;
}

// One layer's slots of every sequence: recently used chunks, keys rotated and ready. A sequence's region
// holds per layer: keys [kv_heads, slots, chunk, head_dim], values likewise, chunk ids int32 [kv_heads,
// slots] (0: empty, since the first chunk is never chosen), stamps int32 [kv_heads, slots] (length of the
// sequence at the slot's last use, 0: never). All zeros is an empty region.
struct SlotView {
  std::byte* const* regions = nullptr;  // [rows]
  const int32_t* counts = nullptr;      // [rows] slots per KV head
  int64_t layer = 0;
  int64_t kv_heads = 0;
  int64_t chunk = 0;
  int64_t head_dim = 0;
  DType dtype = DType::bf16;  // float32 or bfloat16

  SHADOWKV_HD int64_t slot_bytes() const { return chunk * head_dim * size_of(dtype); }
  SHADOWKV_HD int64_t layer_bytes(int64_t slots) const {
    // A multiple of 16, so that every layer's rows can be read 16 bytes at a time.
    return (kv_heads * slots * (2 * slot_bytes() + 8) + 15) / 16 * 16;
  }
  SHADOWKV_HD std::byte* keys(int64_t row, int64_t head, int64_t slot) const {
    const int64_t slots = counts[row];
    return regions[row] + layer * layer_bytes(slots) + (head * slots + slot) * slot_bytes();
  }
  SHADOWKV_HD std::byte* values(int64_t row, int64_t head, int64_t slot) const {
    return keys(row, head, slot) + kv_heads * counts[row] * slot_bytes();
  }
  SHADOWKV_HD int32_t* chunks(int64_t row, int64_t head) const {
    const int64_t slots = counts[row];
    std::byte* ids = regions[row] + layer * layer_bytes(slots) + 2 * kv_heads * slots * slot_bytes();
    return reinterpret_cast<int32_t*>(ids) + head * slots;
  }
  SHADOWKV_HD int32_t* stamps(int64_t row, int64_t head) const {
    return chunks(row, head) + kv_heads * counts[row];
  }
};

// One layer's always attended keys and values of every sequence: the first chunk, outlier chunks, and a ring
// of the latest tokens. A sequence's region holds per layer: keys [kv_heads, capacity, head_dim], values
// likewise, outlier chunk ids int32 [kv_heads, outliers] (-1: none). Ring row of position p: p % ring_tokens.
struct ResidentView {
  std::byte* const* regions = nullptr;  // [rows]
  const int32_t* outliers = nullptr;    // [rows] outlier chunks per KV head
  int64_t layer = 0;
  int64_t kv_heads = 0;
  int64_t chunk = 0;
  int64_t local_window = 0;
  int64_t ring_tokens = 0;  // at least local_window + chunk
  int64_t head_dim = 0;
  DType dtype = DType::bf16;  // float32 or bfloat16

  SHADOWKV_HD int64_t capacity(int64_t outlier_chunks) const {
    return chunk * (1 + outlier_chunks) + ring_tokens;
  }
  SHADOWKV_HD int64_t token_bytes() const { return head_dim * size_of(dtype); }
  SHADOWKV_HD int64_t layer_bytes(int64_t outlier_chunks) const {
    // A multiple of 16, so that every layer's rows can be read 16 bytes at a time.
    const int64_t ids = (kv_heads * outlier_chunks * 4 + 15) / 16 * 16;
    return 2 * kv_heads * capacity(outlier_chunks) * token_bytes() + ids;
  }
  SHADOWKV_HD std::byte* keys(int64_t row, int64_t head, int64_t entry) const {
    const int64_t n = outliers[row];
    return regions[row] + layer * layer_bytes(n) + (head * capacity(n) + entry) * token_bytes();
  }
  SHADOWKV_HD std::byte* values(int64_t row, int64_t head, int64_t entry) const {
    return keys(row, head, entry) + kv_heads * capacity(outliers[row]) * token_bytes();
  }
  SHADOWKV_HD int32_t* outlier_chunks(int64_t row, int64_t head) const {
    const int64_t n = outliers[row];
    std::byte* ids = regions[row] + layer * layer_bytes(n) + 2 * kv_heads * capacity(n) * token_bytes();
    return reinterpret_cast<int32_t*>(ids) + head * n;
  }
  SHADOWKV_HD int64_t ring_entry(int64_t row, int64_t position) const {
    return chunk * (1 + outliers[row]) + position % ring_tokens;
  }
};

}  // namespace shadowkv
