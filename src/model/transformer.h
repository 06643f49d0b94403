// The forward pass of a decoder-only transformer. It owns projections, norms, the MLP and the logits;
// attention is handed queries, keys and values before rotation and decides everything else.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "attention/attention.h"
#include "base/device.h"
#include "model/config.h"
#include "model/weights.h"

namespace shadowkv {

using StepProgress = std::function<void(double share)>;  // 0..1; may throw to stop

class Transformer {
 public:
  // weights must outlive this.
  Transformer(const ModelConfig& config, const ModelWeights& weights, Device& device);

  // Reads a whole prompt, one layer after the other, each in slices of at most slice_tokens queries, so that
  // only one layer's raw keys and values exist at a time. Returns the logits of the last position, [vocab].
  std::vector<float> prefill(Attention& attention, SeqId sequence, std::span<const int32_t> ids,
                             int64_t slice_tokens, const StepProgress& progress);
  // One token for each sequence; returns logits [sequences, vocab].
  std::vector<float> decode(Attention& attention, std::span<const SeqId> sequences,
                            std::span<const int32_t> ids);

  // Bytes of activations that a prefill of that many tokens takes.
  [[nodiscard]] int64_t prefill_bytes(int64_t tokens, int64_t slice_tokens) const;

 private:
  struct Slice;  // scratch of a layer over some rows

  void embed_ids(std::span<const int32_t> ids, TensorView hidden);
  void attention_input(const LayerWeights& weights, const TensorView& hidden, const Slice& slice);
  void finish_layer(const LayerWeights& weights, const TensorView& hidden, const Slice& slice);
  [[nodiscard]] std::vector<float> logits(const TensorView& hidden);
  [[nodiscard]] int64_t slice_bytes(int64_t rows) const;
  [[nodiscard]] Slice slice_of(const Buffer& memory, int64_t rows) const;

  const ModelConfig& config_;
  const ModelWeights& weights_;
  Device& device_;
};

}  // namespace shadowkv
