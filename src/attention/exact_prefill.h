// Exact causal attention over a prompt, one layer at a time, and that layer's raw keys and values until the
// layer is closed: what every method builds its own state from. At most one sequence's layer is held.
#pragma once

#include <map>

#include "attention/attention.h"
#include "kernels/views.h"

namespace shadowkv {

// A layer's keys and values of positions 0 .. tokens - 1 of one sequence, in the activations' type.
struct RawLayer {
  TensorView k_raw;                    // [tokens, kv_heads, head_dim] before rotation
  TensorView k;                        // [tokens, kv_heads, head_dim] rotated
  TensorView v;                        // [tokens, kv_heads, head_dim]
  const int32_t* positions = nullptr;  // [tokens] device: 0, 1, ...

  [[nodiscard]] int64_t tokens() const { return k.shape[0]; }
  // Tokens [first, first + count).
  [[nodiscard]] RawLayer part(int64_t first, int64_t count) const {
    return {.k_raw = k_raw.rows(first, count),
            .k = k.rows(first, count),
            .v = v.rows(first, count),
            .positions = positions + first};
  }
};

class ExactPrefill {
 public:
  ExactPrefill(const AttentionShape& shape, Device& device);

  // Room for a sequence of that many tokens, those included that it held before.
  void begin(int64_t prompt_tokens);
  // Takes in a slice's keys and values, turns its queries where they are, and attends.
  void run(const LayerInput& input, TensorView out);
  // Of the slices run since the layer's first, and of all positions before them.
  [[nodiscard]] RawLayer layer() const;
  // Where a method that reads on puts what it holds of the first `tokens` positions, before a layer's first
  // slice; k_raw only where it wants it back from layer().
  [[nodiscard]] RawLayer past(int64_t tokens) const;
  void end();  // frees the workspace

  // Which of the rope's tables a sequence turns by, told by the methods that share this, which all mean the
  // same; the first for those of whom nothing was told.
  void set_table(SeqId sequence, int64_t table);
  void forget_table(SeqId sequence) { tables_.erase(sequence); }
  [[nodiscard]] int64_t table(SeqId sequence) const;

  // Bytes of a prompt's workspace.
  [[nodiscard]] int64_t workspace_bytes(int64_t prompt_tokens) const;

  [[nodiscard]] const AttentionShape& shape() const { return shape_; }
  // All tables, kernels to look up rows in; then that of one sequence, or a table's.
  [[nodiscard]] RopeView rope(const int32_t* by_row) const;
  [[nodiscard]] RopeView rope_of(int64_t table) const;
  [[nodiscard]] Device& device() const { return device_; }

 private:
  [[nodiscard]] int64_t token_bytes() const {
    return shape_.kv_width() * size_of(device_.activation_dtype());
  }
  // which: 0 k_raw, 1 k, 2 v; [capacity_, kv_heads, head_dim]
  [[nodiscard]] TensorView keys_values(int which) const;

  AttentionShape shape_;
  Device& device_;
  Buffer inv_freq_;   // [tables, rotary_dim / 2] float32
  Buffer workspace_;  // k_raw, k, v of capacity_ tokens, then positions
  int64_t capacity_ = 0;
  int64_t tokens_ = 0;               // taken in of the current layer
  std::map<SeqId, int64_t> tables_;  // of sequences that turn by another than the first
};

}  // namespace shadowkv
