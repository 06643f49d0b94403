// Values of all tokens, by layer and KV head in runs of 4,096 tokens, each run on the device while there is
// room or in pinned host memory; with int8 their scales stay on the device.
#pragma once

#include <optional>
#include <span>

#include "attention/attention.h"
#include "cache/paged_store.h"
#include "kernels/kernels.h"

namespace shadowkv {

class ValueStore {
 public:
  ValueStore(const AttentionConfig& config, const AttentionShape& shape, Device& device);

  void reserve(int64_t row, int64_t tokens);
  void release(int64_t row);
  void share(int64_t from, int64_t to, int64_t tokens);  // as PagedStore::share
  // All of a row into host memory, and back what never lies there otherwise.
  void pause(int64_t row);
  void resume(int64_t row);
  void upload_tables(Queue& queue) {
    runs_.upload_tables(queue);
    if (scales_) scales_->upload_tables(queue);
  }
  [[nodiscard]] int64_t run_bytes_for(int64_t tokens) const { return runs_.bytes_for(tokens); }
  [[nodiscard]] int64_t scale_bytes_for(int64_t tokens) const {
    return scales_ ? scales_->bytes_for(tokens) : 0;
  }
  // That sharing so many tokens copies not.
  [[nodiscard]] int64_t shared_run_bytes(int64_t tokens) const { return runs_.shared_bytes(tokens); }
  [[nodiscard]] int64_t shared_scale_bytes(int64_t tokens) const {
    return scales_ ? scales_->shared_bytes(tokens) : 0;
  }
  // Of one layer's values of that many tokens, without scales.
  [[nodiscard]] int64_t layer_bytes(int64_t tokens) const {
    return tokens * shape_.kv_heads * shape_.head_dim * size_of(type_);
  }
  // Moves of runs between the memories, as PagedStore has them.
  void end_step(std::span<const int64_t> rows) { runs_.end_step(rows); }
  void keep_free(int64_t bytes) { runs_.keep_free(bytes); }
  [[nodiscard]] int64_t movable_bytes() const { return runs_.movable_bytes(); }
  int64_t release_device(int64_t bytes) { return runs_.release_device(bytes); }
  [[nodiscard]] bool quantized() const { return scales_.has_value(); }
  [[nodiscard]] int64_t held_bytes(int64_t row, Tier tier) const;
  [[nodiscard]] int64_t held_bytes(Tier tier) const;

  // Of one layer's values of tokens [first, end), and of all layers', what lies in host memory, without
  // scales.
  [[nodiscard]] int64_t host_bytes(int64_t row, int64_t layer, int64_t first, int64_t end) const {
    return runs_.bytes_of({row, layer * shape_.kv_heads, shape_.kv_heads, first, end}, Tier::pinned_host);
  }
  [[nodiscard]] int64_t host_bytes(int64_t row, int64_t first, int64_t end) const {
    return runs_.bytes_of({row, 0, shape_.layers * shape_.kv_heads, first, end}, Tier::pinned_host);
  }
  // Share of what a row's runs hold that lies in host memory.
  [[nodiscard]] double host_share(int64_t row) const;
  // As PagedStore has it, scales included.
  [[nodiscard]] int64_t moved_bytes(Tier to) const {
    return runs_.moved_bytes(to) + (scales_ ? scales_->moved_bytes(to) : 0);
  }

  // Memory of a row's first tokens, and bytes of it (PagedStore::add_memory).
  void add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const;
  [[nodiscard]] int64_t memory_bytes(int64_t tokens) const {
    return runs_.memory_bytes(tokens) + (scales_ ? scales_->memory_bytes(tokens) : 0);
  }

  void fill(int64_t row, int64_t tokens, uint64_t seed);  // made-up values; room must be there
  // v [T, kv_heads, head_dim].
  void append(Queue& queue, int64_t layer, const TensorView& v, const TokenBatch& tokens);
  [[nodiscard]] QuantizedView view(Queue& queue, int64_t layer);

 private:
  AttentionShape shape_;
  Device& device_;
  DType type_;
  PagedStore runs_;
  std::optional<PagedStore> scales_;  // with int8
};

}  // namespace shadowkv
