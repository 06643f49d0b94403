// The forward pass of a decoder-only transformer. It owns projections, norms, the MLP and the logits;
// attention is handed queries, keys and values before rotation and decides everything else.
#pragma once

#include <functional>
#include <initializer_list>
#include <span>
#include <vector>

#include "attention/attention.h"
#include "base/device.h"
#include "base/scratch.h"
#include "base/staged_upload.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/step_graphs.h"
#include "model/weights.h"

namespace shadowkv {

using StepProgress = std::function<void(double share)>;  // 0..1; may throw to stop

// A prompt being read: its hidden states, and how far it has come. It has memory of its own, so that decode
// steps of other sequences may run between its units.
struct PrefillRun {
  SeqId sequence = 0;
  int64_t past = 0;          // tokens that the sequence held before
  int64_t tokens = 0;        // of the prompt
  int64_t slice_tokens = 0;  // queries of a unit at most
  int64_t layer = 0;         // of the next unit; the model's layers when all are done
  int64_t first = 0;         // its first query; `tokens` when the layer is being closed
  int64_t closed = 0;        // tokens of the layer that are
  TensorView hidden;         // [tokens, hidden]
  Buffer memory;             // of hidden
  Buffer scratch;            // of a slice

  // Whether attention holds nothing of the layer yet: another prompt may be read meanwhile.
  [[nodiscard]] bool between_layers() const { return first == 0; }
  // Of all slices, 0 to 1.
  [[nodiscard]] double share(int64_t layers) const {
    const double of_layer = static_cast<double>(first) / static_cast<double>(tokens);
    return (static_cast<double>(layer) + of_layer) / static_cast<double>(layers);
  }
};

class Transformer {
 public:
  // weights must outlive this.
  Transformer(const ModelConfig& config, const ModelWeights& weights, Device& device);

  // Reads a whole prompt, one layer after the other, each in slices of at most slice_tokens queries, so that
  // only one layer's raw keys and values exist at a time. Returns the logits of the last position, [vocab].
  std::vector<float> prefill(Attention& attention, SeqId sequence, std::span<const int32_t> ids,
                             int64_t slice_tokens, const StepProgress& progress);

  // The same in units: begin, advance until is_done, end. Takes all memory that the units need.
  // With a past, the prompt goes on from so many tokens, and attention must have begun to append.
  [[nodiscard]] PrefillRun begin_prefill(SeqId sequence, std::span<const int32_t> ids, int64_t slice_tokens,
                                         int64_t past = 0);
  // One unit: the layer's next slice of at most `rows` queries, or closing the layer for its next `rows`
  // tokens, as near as attention can cut. Cuts change no result.
  void advance(Attention& attention, PrefillRun& run, int64_t rows);
  [[nodiscard]] bool is_done(const PrefillRun& run) const { return run.layer == config_.layers; }
  // Logits of the last position, [vocab], of a run that is done.
  [[nodiscard]] std::vector<float> end_prefill(const PrefillRun& run);

  // One token for each sequence; returns logits [sequences, vocab].
  std::vector<float> decode(Attention& attention, std::span<const SeqId> sequences,
                            std::span<const int32_t> ids);

  // The same, but only a token of each comes back, drawn on the device as how[i] says, from logits that are
  // changed and ranked as changes[i] says. [sequences] both, the latter empty where no sequence asks for it.
  struct Drawing {
    std::span<const SamplingRow> how;
    std::span<const LogitRow> changes = {};
  };
  struct Drawn {
    std::vector<int32_t> ids;
    std::vector<TokenRanks> ranks;  // [sequences], empty where no sequence asks for them
  };
  Drawn decode_sampled(Attention& attention, std::span<const SeqId> sequences, std::span<const int32_t> ids,
                       const Drawing& drawing);
  // The first token of an answer, from the logits of end_prefill(). drawing: of one sequence.
  Drawn end_prefill_sampled(const PrefillRun& run, const Drawing& drawing);

  // What attention did for a sequence in a layer of a step; out: [heads, head_dim], what it returned.
  using LayerTold =
      std::function<void(SeqId sequence, int64_t layer, const LayerTrace& trace, std::span<const float> out)>;
  // Who is told so in the steps from now on, for evaluation; null: nobody. Such a step waits for the device
  // after each layer and is not replayed from a recording; what is thrown ends it.
  void tell_layers_to(LayerTold told) { told_ = std::move(told); }

  // Recordings of decode steps so far.
  [[nodiscard]] const StepGraphs::Counts& recordings() const { return graphs_.counts(); }

  // Of the weights, by a sample of every matrix: another where any of them was trained or rounded otherwise.
  [[nodiscard]] uint64_t fingerprint();

  // Queries of a prefill unit, by the kind of device and what their activations take.
  [[nodiscard]] int64_t slice_tokens() const;
  // Bytes of activations that a prefill of that many tokens takes.
  [[nodiscard]] int64_t prefill_bytes(int64_t tokens, int64_t slice_tokens) const;

 private:
  struct Slice;  // scratch of a layer over some rows

  void upload_ids(std::span<const int32_t> ids, const TensorView& to);
  void prefill_slice(Attention& attention, const PrefillRun& run, int64_t rows);
  void project(Queue& queue, const TensorView& x, std::initializer_list<MatmulGroupParams::Product> products);
  void norm_heads(Queue& queue, const TensorView& x, const TensorView& weight);
  void add_product(Queue& queue, MatmulParams product, const TensorView& norm, const TensorView& free);
  void attention_input(Queue& queue, const LayerWeights& weights, const TensorView& hidden,
                       const Slice& slice);
  void finish_layer(Queue& queue, const LayerWeights& weights, const TensorView& hidden, const Slice& slice);
  // What a step says of its sequences, on the device.
  struct StepTables {
    TensorView ids;           // [sequences] int32
    const SamplingRow* how;   // [sequences]
    const LogitRow* changes;  // [sequences]; null where none changes or ranks anything
    LogitOps ops;
  };
  void step(Attention& attention, std::span<const SeqId> sequences, std::span<const int32_t> ids,
            const Drawing& drawing);
  void run_step(Attention& attention, const StepTables& tables);
  void draw(const TensorView& logits, const StepTables& tables);
  [[nodiscard]] TokenRanks* ranks(int64_t count);
  void run_layer(Attention& attention, int64_t layer, int64_t micro_batch, const MicroBatch& batch,
                 const TensorView& hidden, const Slice& slice);
  void tell(Attention& attention, int64_t layer, const MicroBatch& batch, const TensorView& mixed);
  [[nodiscard]] TensorView logits(const TensorView& hidden);
  template <typename T>
  [[nodiscard]] std::vector<T> download(const T* from, int64_t count);
  template <typename T>
  [[nodiscard]] std::vector<T> download_step(const T* from, int64_t batch, int64_t each);
  [[nodiscard]] int64_t slice_bytes(int64_t rows) const;
  [[nodiscard]] Slice slice_of(std::byte* memory, int64_t rows) const;

  const ModelConfig& config_;
  const ModelWeights& weights_;
  Device& device_;
  Scratch ids_, hidden_, slice_, normed_, logits_, drawn_, ranks_;  // of decode steps
  StagedUpload sampling_, changes_;                                 // likewise
  StepGraphs graphs_;
  LayerTold told_;
  std::vector<SeqId> told_of_;     // sequences of the step, as arranged, where somebody is told
  std::vector<int64_t> arranged_;  // places of the latest step, as Attention::arrange says
};

}  // namespace shadowkv
