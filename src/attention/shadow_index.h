// What says which chunks a query needs. One interface: sketch.cc (sign bits of every key), landmarks.cc (mean
// of every chunk's keys), quest.cc (bounds of every chunk's keys).
#pragma once

#include <memory>

#include "attention/attention.h"
#include "attention/exact_prefill.h"
#include "attention/segments.h"
#include "base/memory_piece.h"
#include "kernels/kernels.h"

namespace shadowkv {

class ShadowIndex {
 public:
  virtual ~ShadowIndex() = default;

  virtual void reserve(int64_t row, int64_t tokens) = 0;
  virtual void release(int64_t row) = 0;
  virtual void share(int64_t from, int64_t to, int64_t tokens) = 0;  // as PagedStore::share
  virtual void move(int64_t row, Tier to) = 0;
  [[nodiscard]] virtual int64_t bytes_for(int64_t tokens) const = 0;
  [[nodiscard]] virtual int64_t shared_bytes(int64_t tokens) const = 0;  // that sharing copies not
  [[nodiscard]] virtual int64_t held_bytes(Tier tier) const = 0;         // of all rows, shared ones once

  // Memory of a row's first tokens, and bytes of it (PagedStore::add_memory).
  virtual void add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const = 0;
  [[nodiscard]] virtual int64_t memory_bytes(int64_t tokens) const = 0;

  virtual void fill(int64_t row, int64_t tokens, uint64_t seed) = 0;  // made-up state; room must be there
  // Takes in one layer of sequence `row`, whose segments are fitted: tokens from `first` on, all before them
  // being taken in. tokens: one entry for each of all tokens. min_cosine [kv_heads, whole chunks] float32, or
  // empty: receives how well each chunk is described (less is worse), when the index wants outliers; then
  // `first` is 0.
  virtual void build(int64_t layer, int64_t row, const RawLayer& raw, int64_t first, const TokenBatch& tokens,
                     TensorView min_cosine) = 0;
  // Takes in the new token of each sequence of a step: k [B, kv_heads, head_dim] rotated, already in the
  // ring.
  virtual void append(Queue& queue, int64_t layer, const TensorView& k, const DecodeBatch& batch,
                      const TokenBatch& tokens, const ResidentView& resident) = 0;
  // scores [B, heads, C] of every chunk open to selection, -infinity elsewhere, and spans of them; as
  // sketch_scores in kernels.h.
  virtual void score(Queue& queue, int64_t layer, const TensorView& q, const DecodeBatch& batch,
                     TensorView scores, TensorView spans) = 0;
  // Whether chunks that it describes badly are to be kept whole.
  [[nodiscard]] virtual bool wants_outliers() const = 0;
  virtual void upload_tables(Queue& queue) = 0;
};

[[nodiscard]] std::unique_ptr<ShadowIndex> make_sketch(const AttentionConfig& config,
                                                       const AttentionShape& shape, Segments& segments,
                                                       Device& device);
[[nodiscard]] std::unique_ptr<ShadowIndex> make_landmarks(const AttentionConfig& config,
                                                          const AttentionShape& shape, Device& device);
[[nodiscard]] std::unique_ptr<ShadowIndex> make_bounds(const AttentionConfig& config,
                                                       const AttentionShape& shape, Device& device);

// Tokens a block of the device stores: 512, or the nearest multiple of the chunk below.
[[nodiscard]] int64_t block_tokens_for(int64_t chunk);

}  // namespace shadowkv
