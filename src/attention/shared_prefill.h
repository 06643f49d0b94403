// Several methods behind one exact prefill: the prompt is attended once, every method closes each layer from
// the same raw keys, and decode goes to one of them at a time. Comparisons run on this.
#pragma once

#include <memory>
#include <vector>

#include "attention/attention.h"
#include "attention/exact_prefill.h"

namespace shadowkv {

class SharedPrefill final : public Attention {
 public:
  SharedPrefill(std::shared_ptr<ExactPrefill> prefill, std::vector<std::unique_ptr<Attention>> methods);

  // Which method the next steps go to.
  void select(int64_t method);
  [[nodiscard]] Attention& method(int64_t i) { return *methods_.at(static_cast<std::size_t>(i)); }

  [[nodiscard]] Footprint footprint(int64_t tokens) const override;  // of all methods together
  [[nodiscard]] Footprint peak_until(const SequencePlan& plan, int64_t tokens) const override;
  void begin(SeqId sequence, const SequencePlan& plan) override;
  void fork(SeqId from, SeqId to, const SequencePlan& plan) override;
  [[nodiscard]] Footprint fork_until(const SequencePlan& plan, int64_t tokens) const override;
  void fill(SeqId sequence, int64_t tokens, uint64_t seed) override;  // under the selected method
  void force_hit_share(double share) override;                        // of the selected method
  void prefill(const LayerInput& input, TensorView out) override;
  int64_t close_prefill(SeqId sequence, int64_t layer, int64_t first, int64_t tokens) override;
  [[nodiscard]] int64_t closing_tokens() const override;  // of the coarsest method
  // Reading on, of a single method: several no longer agree on what is past. Throws InvalidInput.
  void begin_append(SeqId sequence, int64_t tokens) override { alone().begin_append(sequence, tokens); }
  void end_append(SeqId sequence) override { alone().end_append(sequence); }
  void abandon_append(SeqId sequence) override { alone().abandon_append(sequence); }
  // Likewise.
  [[nodiscard]] PrefixCuts prefix_cuts(int64_t tokens) const override { return alone().prefix_cuts(tokens); }
  void begin_prefix(SeqId from, SeqId to, int64_t tokens) override { alone().begin_prefix(from, to, tokens); }
  void end_prefix(SeqId from, SeqId to) override { alone().end_prefix(from, to); }
  void fork_prefix(SeqId from, SeqId to, int64_t tokens, const SequencePlan& plan) override {
    alone().fork_prefix(from, to, tokens, plan);
  }
  [[nodiscard]] std::vector<int64_t> prefix_numbers(SeqId prefix) const override {
    return alone().prefix_numbers(prefix);
  }
  void restore_prefix(SeqId to, int64_t tokens, const PrefixBeginning& beginning,
                      std::span<const int64_t> numbers) override {
    alone().restore_prefix(to, tokens, beginning, numbers);
  }
  [[nodiscard]] Footprint prefix_bytes(int64_t tokens, int64_t shared) const override {
    return alone().prefix_bytes(tokens, shared);
  }
  [[nodiscard]] int64_t prefix_working_bytes(int64_t tokens) const override {
    return alone().prefix_working_bytes(tokens);
  }
  [[nodiscard]] std::vector<int64_t> saved_numbers(SeqId sequence) const override {
    return alone().saved_numbers(sequence);
  }
  [[nodiscard]] std::vector<MemoryPiece> saved_memory(SeqId sequence) override {
    return alone().saved_memory(sequence);
  }
  [[nodiscard]] int64_t saved_bytes(const SequencePlan& plan,
                                    std::span<const int64_t> numbers) const override {
    return alone().saved_bytes(plan, numbers);
  }
  void restore(SeqId sequence, const SequencePlan& plan, std::span<const int64_t> numbers) override {
    alone().restore(sequence, plan, numbers);
  }
  [[nodiscard]] Footprint append_bytes(SeqId sequence, int64_t tokens) const override {
    return alone().append_bytes(sequence, tokens);
  }
  void begin_step(std::span<const SeqId> sequences) override;
  [[nodiscard]] std::vector<int64_t> arrange(std::span<const SeqId> sequences) const override {
    return methods_[selected_]->arrange(sequences);
  }
  [[nodiscard]] std::vector<MicroBatch> micro_batches() override {
    return methods_[selected_]->micro_batches();
  }
  void decode(const LayerInput& input, TensorView out) override;
  [[nodiscard]] LayerTrace trace(int64_t layer, SeqId sequence) override {
    return methods_[selected_]->trace(layer, sequence);
  }
  void end_step() override;
  [[nodiscard]] std::vector<int64_t> step_shape() const override;  // of the selected method
  void pause(SeqId sequence) override;
  void resume(SeqId sequence) override;
  [[nodiscard]] int64_t movable_bytes() const override;  // of all methods, as the next two
  int64_t release_device(int64_t bytes) override;
  void keep_free(int64_t bytes) override;
  void end(SeqId sequence) override;
  [[nodiscard]] AttentionStatistics statistics() override;  // of the selected method

 private:
  [[nodiscard]] Attention& alone() const;

  std::shared_ptr<ExactPrefill> prefill_;
  std::vector<std::unique_ptr<Attention>> methods_;
  std::vector<int64_t> closed_;  // tokens of the layer that is being closed, by method
  std::size_t selected_ = 0;
};

}  // namespace shadowkv
