// Keys as low-rank factors of their form before rotation: every token's row of left factors, against its
// segment's mean and basis. Section 4.1 of the paper, with the mean taken out first.
#pragma once

#include "attention/attention.h"
#include "attention/segments.h"
#include "cache/paged_store.h"
#include "kernels/kernels.h"

namespace shadowkv {

class LowRankKeys {
 public:
  LowRankKeys(const AttentionConfig& config, const AttentionShape& shape, Segments& segments, Device& device);

  void reserve(int64_t row, int64_t tokens) { store_.reserve(row, tokens); }
  void release(int64_t row) { store_.release(row); }
  void share(int64_t from, int64_t to, int64_t tokens) { store_.share(from, to, tokens); }
  void move(int64_t row, Tier to) { store_.move(row, to); }
  void upload_tables(Queue& queue) { store_.upload_tables(queue); }
  [[nodiscard]] int64_t bytes_for(int64_t tokens) const { return store_.bytes_for(tokens); }
  [[nodiscard]] int64_t shared_bytes(int64_t tokens) const { return store_.shared_bytes(tokens); }
  [[nodiscard]] int64_t held_bytes(int64_t row, Tier tier) const { return store_.held_bytes(row, tier); }
  [[nodiscard]] int64_t held_bytes(Tier tier) const { return store_.held_bytes(tier); }

  // Memory of a row's first tokens, and bytes of it (PagedStore::add_memory).
  void add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const;
  [[nodiscard]] int64_t memory_bytes(int64_t tokens) const { return store_.memory_bytes(tokens); }

  void fill(int64_t row, int64_t tokens, uint64_t seed);  // made-up factors; room must be there
  // Projects keys before rotation, [T, kv_heads, head_dim], onto their segments' bases.
  void append(Queue& queue, int64_t layer, const TensorView& k_raw, const TokenBatch& tokens);
  // Rotated keys of chunks that no slot holds -> out [B, kv_heads, M, chunk * head_dim].
  struct Chunks {
    DecodeBatch batch;
    TensorView ids;      // [B, kv_heads, M]
    TensorView found;    // [B, kv_heads, M] their slots
    TensorView missing;  // [B, kv_heads, M, 2] those that have none
  };
  void rebuild(Queue& queue, int64_t layer, const Chunks& chunks, const RopeView& rope, TensorView out);
  // The same, and exact scores of all chunks, those in slots included.
  struct Scoring {
    TensorView q;  // [B, heads, head_dim] rotated
    SlotView held;
    TensorView scores;  // [B, heads, M]
  };
  void rebuild_and_score(Queue& queue, int64_t layer, const Chunks& chunks, const RopeView& rope,
                         TensorView out, const Scoring& scoring);

 private:
  [[nodiscard]] QuantizedView factors(int64_t layer);
  [[nodiscard]] RebuildKeysParams rebuilding(Queue& queue, int64_t layer, const Chunks& chunks,
                                             const RopeView& rope, TensorView out);

  AttentionShape shape_;
  Segments& segments_;
  Device& device_;
  int64_t rank_;
  int64_t chunk_;
  DType type_;
  PagedStore store_;
};

}  // namespace shadowkv
