// Where the keys of chosen chunks come from. One interface, two kinds: low_rank_keys.cc (rebuilt from
// factors) and whole_keys.cc (kept as they are).
#pragma once

#include <memory>

#include "attention/attention.h"
#include "attention/segments.h"
#include "base/memory_piece.h"
#include "kernels/kernels.h"

namespace shadowkv {

class ChunkKeys {
 public:
  virtual ~ChunkKeys() = default;

  virtual void reserve(int64_t row, int64_t tokens) = 0;
  virtual void release(int64_t row) = 0;
  virtual void share(int64_t from, int64_t to, int64_t tokens) = 0;  // as PagedStore::share
  virtual void move(int64_t row, Tier to) = 0;
  virtual void upload_tables(Queue& queue) = 0;
  [[nodiscard]] virtual int64_t bytes_for(int64_t tokens) const = 0;
  [[nodiscard]] virtual int64_t shared_bytes(int64_t tokens) const = 0;  // that sharing copies not
  [[nodiscard]] virtual int64_t held_bytes(Tier tier) const = 0;         // of all rows, shared ones once

  // Memory of a row's first tokens, and bytes of it (PagedStore::add_memory).
  virtual void add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const = 0;
  [[nodiscard]] virtual int64_t memory_bytes(int64_t tokens) const = 0;

  virtual void fill(int64_t row, int64_t tokens, uint64_t seed) = 0;  // made-up state; room must be there
  // Takes in keys of tokens that there is room for, [T, kv_heads, head_dim] before and after rotation.
  struct NewKeys {
    TensorView raw;
    TensorView rotated;
  };
  virtual void append(Queue& queue, int64_t layer, const NewKeys& keys, const TokenBatch& tokens) = 0;

  // Of a token that is there, whose key before rotation is `raw`, [kv_heads, head_dim]; waits for the device.
  struct OneKey {
    int64_t row = 0;
    int64_t position = 0;
    TensorView raw;
  };
  [[nodiscard]] virtual KeyError error_of(int64_t /*layer*/, const OneKey& /*key*/) { return {}; }

  // Rotated keys of chunks that no slot holds -> out [B, kv_heads, M, chunk * head_dim].
  struct Chunks {
    DecodeBatch batch;
    TensorView ids;      // [B, kv_heads, M]
    TensorView found;    // [B, kv_heads, M] their slots
    TensorView missing;  // [B, kv_heads, M, 2] those that have none
  };
  virtual void rebuild(Queue& queue, int64_t layer, const Chunks& chunks, const RopeView& rope,
                       TensorView out) = 0;
  // The same, and exact scores of all chunks, those in slots included.
  struct Scoring {
    TensorView q;  // [B, heads, head_dim] rotated
    SlotView held;
    TensorView scores;  // [B, heads, M]
  };
  virtual void rebuild_and_score(Queue& queue, int64_t layer, const Chunks& chunks, const RopeView& rope,
                                 TensorView out, const Scoring& scoring) = 0;
};

// segments: whose means and bases describe the keys.
[[nodiscard]] std::unique_ptr<ChunkKeys> make_low_rank_keys(const AttentionConfig& config,
                                                            const AttentionShape& shape, Segments& segments,
                                                            Device& device);
[[nodiscard]] std::unique_ptr<ChunkKeys> make_whole_keys(const AttentionConfig& config,
                                                         const AttentionShape& shape, Device& device);

}  // namespace shadowkv
