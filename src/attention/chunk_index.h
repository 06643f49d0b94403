// What indexes that keep a row of each chunk and KV head have in common: pages of chunks on the device, of
// which only whole chunks are shared or saved, since the next token makes the row of one that is not anew.
#pragma once

#include <utility>
#include <vector>

#include "attention/shadow_index.h"
#include "cache/paged_store.h"

namespace shadowkv {

class ChunkIndex : public ShadowIndex {
 public:
  void reserve(int64_t row, int64_t tokens) override { store_.reserve(row, chunks_of(tokens)); }
  void release(int64_t row) override { store_.release(row); }
  void share(int64_t from, int64_t to, int64_t tokens) override {
    store_.share(from, to, tokens / chunk_);
    store_.reserve(to, chunks_of(tokens));
  }
  void move(int64_t row, Tier to) override { store_.move(row, to); }
  void upload_tables(Queue& queue) override { store_.upload_tables(queue); }
  [[nodiscard]] int64_t bytes_for(int64_t tokens) const override {
    return store_.bytes_for(chunks_of(tokens));
  }
  [[nodiscard]] int64_t shared_bytes(int64_t tokens) const override {
    return store_.shared_bytes(tokens / chunk_);
  }
  [[nodiscard]] int64_t held_bytes(Tier tier) const override { return store_.held_bytes(tier); }
  void add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const override {
    store_.add_memory(row, tokens / chunk_, arrays_, to);
  }
  [[nodiscard]] int64_t memory_bytes(int64_t tokens) const override {
    return store_.memory_bytes(tokens / chunk_);
  }

 protected:
  // arrays: bytes that a chunk takes in each of the arrays that a block is made of, in order.
  ChunkIndex(int64_t chunk_size, std::vector<int64_t> arrays, Device& device)
      : chunk_(chunk_size),
        arrays_(std::move(arrays)),
        store_(device, {.block_tokens = block_tokens_for(chunk_size) / chunk_size,
                        .token_bytes = sum_of(arrays_),
                        .purpose = Purpose::index}) {}

  [[nodiscard]] int64_t chunk_size() const { return chunk_; }
  [[nodiscard]] int64_t chunks_of(int64_t tokens) const { return (tokens + chunk_ - 1) / chunk_; }
  [[nodiscard]] int64_t block_chunks() const { return store_.config().block_tokens; }
  // Of all blocks, from their start.
  [[nodiscard]] PagedView blocks(Queue& queue) { return store_.view(queue, 0, false); }

 private:
  static int64_t sum_of(const std::vector<int64_t>& arrays) {
    int64_t sum = 0;
    for (const int64_t bytes : arrays) sum += bytes;
    return sum;
  }

  int64_t chunk_;
  std::vector<int64_t> arrays_;
  PagedStore store_;
};

}  // namespace shadowkv
