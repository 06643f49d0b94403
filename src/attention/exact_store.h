// Plain keys and values of whole sequences in paged device blocks, and exact attention over them: all of
// `full`, and what short sequences use under every other method.
#pragma once

#include <span>

#include "attention/attention.h"
#include "attention/exact_prefill.h"
#include "cache/paged_store.h"
#include "kernels/kernels.h"

namespace shadowkv {

class ExactStore {
 public:
  // type: of stored keys and values; int8 adds a scale a row.
  ExactStore(const AttentionShape& shape, DType type, Device& device);

  [[nodiscard]] int64_t block_tokens() const { return store_.config().block_tokens; }
  [[nodiscard]] int64_t bytes_for(int64_t tokens) const { return store_.bytes_for(tokens); }
  [[nodiscard]] int64_t shared_bytes(int64_t tokens) const { return store_.shared_bytes(tokens); }
  [[nodiscard]] int64_t held_bytes(int64_t row, Tier tier) const { return store_.held_bytes(row, tier); }
  [[nodiscard]] int64_t held_bytes(Tier tier) const { return store_.held_bytes(tier); }

  [[nodiscard]] int64_t moved_bytes(Tier to) const { return store_.moved_bytes(to); }

  void reserve(int64_t row, int64_t tokens) { store_.reserve(row, tokens); }
  void release(int64_t row) { store_.release(row); }
  void share(int64_t from, int64_t to, int64_t tokens) { store_.share(from, to, tokens); }
  void move(int64_t row, Tier to) { store_.move(row, to); }
  void upload_tables(Queue& queue) { store_.upload_tables(queue); }

  // Memory of a row's first tokens, and bytes of it (PagedStore::add_memory).
  void add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const;
  [[nodiscard]] int64_t memory_bytes(int64_t tokens) const { return store_.memory_bytes(tokens); }

  void fill(int64_t row, int64_t tokens, uint64_t seed);  // made-up keys and values; room must be there
  // Rotated keys and values of tokens that there is room for.
  void append(int64_t layer, const TensorView& k, const TensorView& v, const TokenBatch& tokens);
  // Reads the first tokens of a row back: k, v [tokens, kv_heads, head_dim].
  void load(int64_t layer, int64_t row, TensorView k, TensorView v);
  // q [B, heads, head_dim] rotated -> out, lse.
  void attend(int64_t layer, const TensorView& q, const DecodeBatch& batch, TensorView out, TensorView lse);

 private:
  enum Part { keys, values };
  [[nodiscard]] QuantizedView view(int64_t layer, Part part);

  AttentionShape shape_;
  DType type_;
  Device& device_;
  PagedStore store_;
};

}  // namespace shadowkv
