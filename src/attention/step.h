// Bookkeeping that every method shares: which table row a sequence has, and the device tables and rotated
// projections of one decode step.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "attention/attention.h"
#include "attention/exact_prefill.h"
#include "base/scratch.h"
#include "cache/device_array.h"
#include "kernels/kernels.h"

namespace shadowkv {

// Sequence ids to the rows of device tables; rows are reused, lowest first.
class RowMap {
 public:
  int64_t add(SeqId id);                     // throws InvalidInput when the id is taken
  [[nodiscard]] int64_t at(SeqId id) const;  // throws InvalidInput when it is unknown
  [[nodiscard]] bool contains(SeqId id) const { return rows_.contains(id); }
  void remove(SeqId id) { rows_.erase(id); }

 private:
  std::map<SeqId, int64_t> rows_;
};

// For all tokens of a prompt the row of their sequence, as batches of tokens have it. Prompts may take turns.
class PromptRows {
 public:
  explicit PromptRows(Device& device) : rows_(device) {}

  // [tokens] on the device, valid until the next call.
  const int32_t* of(Queue& queue, int64_t row, int64_t tokens) {
    const auto value = static_cast<int32_t>(row);
    if (rows_.size() != tokens || rows_[0] != value) {
      rows_.assign(std::vector<int32_t>(static_cast<std::size_t>(tokens), value));
    }
    return rows_.upload(queue);
  }

 private:
  DeviceArray<int32_t> rows_;
};

// Which of the rope's tables the sequences of a method turn by, by row.
class RowTables {
 public:
  RowTables(const ExactPrefill& prefill, Device& device) : prefill_(prefill), tables_(device) {}

  // Of every row that is used; keeps nothing where there is one table.
  void set(int64_t row, int64_t table);
  [[nodiscard]] int64_t of(int64_t row) const { return row < tables_.size() ? tables_[row] : 0; }
  [[nodiscard]] RopeView rope_of(int64_t row) const { return prefill_.rope_of(of(row)); }  // of a row alone
  [[nodiscard]] RopeView rope(Queue& queue);                                               // of all

 private:
  const ExactPrefill& prefill_;
  DeviceArray<int32_t> tables_;
};

// The sequences of a decode step.
class Step {
 public:
  Step(const ExactPrefill& prefill, RowTables& tables, Device& device);

  // rows[i] will hold tokens[i] tokens when this step's is in.
  void begin(std::span<const int64_t> rows, std::span<const int64_t> tokens);
  // Rotates one layer's queries and keys into scratch, each on a queue: those of the step's sequences from
  // `first` on.
  void rotate_queries(Queue& queue, const LayerInput& input, int64_t first = 0);
  void rotate_keys(Queue& queue, const LayerInput& input, int64_t first = 0);

  [[nodiscard]] int64_t size() const { return batch_.size; }
  [[nodiscard]] const DecodeBatch& batch() const { return batch_; }
  [[nodiscard]] const TokenBatch& tokens() const { return tokens_; }  // the new token of each
  [[nodiscard]] const TensorView& q() const { return q_; }            // [B, heads, head_dim] rotated
  [[nodiscard]] const TensorView& k() const { return k_; }            // [B, kv_heads, head_dim] rotated

 private:
  void rotate(Queue& queue, const TensorView& x, const TensorView& out, int64_t first) const;

  AttentionShape shape_;
  Device& device_;
  RowTables& tables_;
  DeviceArray<int32_t> rows_, lengths_, positions_;
  DecodeBatch batch_;
  TokenBatch tokens_;
  RopeView rope_;
  Scratch q_scratch_, k_scratch_;
  TensorView q_, k_;
};

}  // namespace shadowkv
