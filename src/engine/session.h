// Sequences in flight under one or more methods, over a model in memory.
#pragma once

#include <fmt/format.h>

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "attention/exact_prefill.h"
#include "attention/shared_prefill.h"
#include "base/device.h"
#include "base/memory_piece.h"
#include "engine/sampler.h"
#include "formats/state_file.h"
#include "model/config.h"
#include "model/transformer.h"
#include "shadowkv/device_lost.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv {

[[nodiscard]] AttentionShape attention_shape(const ModelConfig& config, DType compute);

// Every knob that changes results, as "name=value,...".
[[nodiscard]] std::string text_of_results(const AttentionConfig& config);

// model, transformer and device must outlive the session.
class ModelSession final : public Session {
 public:
  ModelSession(const ModelConfig& model, DType compute, Transformer& transformer, Device& device,
               std::span<const AttentionConfig> methods);
  ~ModelSession() override;

  SequenceId add(int64_t max_tokens) override;
  std::vector<float> prefill(SequenceId sequence, std::span<const int32_t> ids,
                             const Progress& progress) override;
  int32_t prefill_sampled(SequenceId sequence, std::span<const int32_t> ids, Sampler& sampler,
                          const Progress& progress) override;
  // The same in units (a layer's slice of at most `rows` queries, or closing a layer for so many tokens),
  // between which other sequences may decode and, between two layers, read prompts of their own.
  // begin_prefill takes all memory but an empty sequence's own, without asking whether that will fit; after
  // an exception of advance_prefill the sequence holds what it held before.
  void begin_prefill(SequenceId sequence, std::span<const int32_t> ids);
  void advance_prefill(SequenceId sequence, int64_t rows);
  [[nodiscard]] const PrefillRun& reading(SequenceId sequence) const;  // how far it has come
  [[nodiscard]] int64_t closing_tokens() const {
    return attention_->closing_tokens();
  }  // where it can be cut
  [[nodiscard]] bool prefill_is_done(SequenceId sequence) const;
  [[nodiscard]] std::vector<float> end_prefill(SequenceId sequence);  // logits, once all units are done
  // The same, but the first token under method 0 comes back, drawn on the device.
  [[nodiscard]] int32_t end_prefill_sampled(SequenceId sequence, Sampler& sampler);
  // The same in two: what the prompt ends with stays, for the first tokens of the sequence and of its forks.
  [[nodiscard]] PrefillRun finish_prefill(SequenceId sequence);
  [[nodiscard]] int32_t draw_first(const PrefillRun& prompt, SequenceId sequence, Sampler& sampler);

  SequenceId fork(SequenceId sequence, int64_t max_tokens) override;
  // The same without asking whether growing will fit.
  SequenceId branch(SequenceId sequence, int64_t max_tokens);
  [[nodiscard]] Footprint fork_until(const SequencePlan& plan, int64_t tokens) const {
    return attention_->fork_until(plan, tokens);
  }

  // ---- prefixes (Attention::begin_prefix): session_prefix.cc
  [[nodiscard]] PrefixCuts prefix_cuts(int64_t tokens) const { return attention_->prefix_cuts(tokens); }
  [[nodiscard]] Footprint prefix_bytes(int64_t tokens, int64_t shared) const {
    return attention_->prefix_bytes(tokens, shared);
  }
  [[nodiscard]] int64_t prefix_working_bytes(int64_t tokens) const {
    return attention_->prefix_working_bytes(tokens);
  }
  // A sequence that is to hold the first `tokens` tokens of one whose prompt has begun to be read, and of
  // which nothing has been read yet; once that has ended, end_prefix lets it hold them.
  SequenceId begin_prefix(SequenceId reading, int64_t tokens);
  void end_prefix(SequenceId read, SequenceId prefix);
  // One that holds the first `tokens` tokens of a prefix, a cut, and may hold max_tokens. Does not ask
  // whether growing will fit.
  SequenceId fork_prefix(SequenceId prefix, int64_t tokens, int64_t max_tokens);
  // ---- prefixes in files: session_prefix_files.cc
  // What such a file says of it; ids: the tokens that it holds.
  [[nodiscard]] StateDescription describe_prefix(SequenceId prefix, std::span<const int32_t> ids,
                                                 std::string_view note);
  // The memory of one, but for what it has in common with that which it begins with.
  [[nodiscard]] std::vector<MemoryPiece> prefix_memory(SequenceId prefix,
                                                       const PrefixBeginning& beginning) const;
  // One that holds what a file says, its prefix_memory() as yet undefined. rope_table: that it must turn by;
  // nothing: by any.
  // Throws InvalidInput for one of another model or configuration, or that does not fit to its beginning.
  SequenceId restore_prefix(const StateReader& file, const PrefixBeginning& beginning,
                            std::optional<int64_t> rope_table);
  // Of which rope table a sequence of so many tokens at most turns by.
  [[nodiscard]] int64_t rope_table(int64_t max_tokens) const {
    return prefill_->shape().rope.table_for(max_tokens);
  }
  // What makes what it holds of a token another than other sessions do: weights, type and configuration.
  [[nodiscard]] std::string identity();

  // Between steps: a sequence that has read its prompt into host memory and back (Attention::pause).
  void pause(SequenceId sequence);
  void resume(SequenceId sequence);
  void wait();  // returns when all work that was issued is done

  // Bytes of a sequence until it holds so many tokens, and of reading its prompt besides.
  [[nodiscard]] Footprint peak_until(const SequencePlan& plan, int64_t tokens) const {
    return attention_->peak_until(plan, tokens);
  }
  [[nodiscard]] int64_t working_bytes(int64_t prompt_tokens) const;

  std::vector<float> decode(int64_t method, std::span<const SequenceToken> batch) override;
  std::vector<int32_t> decode_sampled(int64_t method, std::span<const SequenceToken> batch,
                                      std::span<Sampler* const> samplers) override;
  std::vector<int32_t> decode_greedy(int64_t method, std::span<const SequenceToken> batch) override;
  void fill(SequenceId sequence, int64_t tokens, uint64_t seed) override;
  void force_hit_share(int64_t method, double share) override;
  void observe(int64_t method, LayerObserver observer) override;
  void time_ops(bool on) override;
  [[nodiscard]] std::vector<OpTime> op_times() override;
  void save_state(SequenceId sequence, const std::filesystem::path& path,
                  const StateContents& contents) override;
  StateContents load_state(SequenceId sequence, const std::filesystem::path& path) override;
  void remove(SequenceId sequence) override;
  [[nodiscard]] SessionStatistics statistics(int64_t method) const override;

 private:
  struct Sequence {
    int64_t max_tokens = 0;
    std::vector<int64_t> tokens;  // held under each method; empty before the prefill
  };

  // A step's sequences and tokens, checked.
  struct Batch {
    std::vector<SeqId> ids;
    std::vector<int32_t> tokens;
  };
  template <typename Work>
  auto run(const Work& work);
  [[nodiscard]] Batch open_step(int64_t method, std::span<const SequenceToken> batch);
  void close_step(int64_t method, const Batch& batch);
  void tell_layers(int64_t method);
  Transformer::Drawn draw(int64_t method, const Batch& step, const Transformer::Drawing& drawing);
  // session_state.cc
  [[nodiscard]] StateDescription description(int64_t tokens);
  [[nodiscard]] StateDescription describe(SequenceId id, const StateContents& contents);
  void check_belongs(const StateDescription& state, const std::string& file);
  [[nodiscard]] std::string fingerprint();
  StateContents restore(SequenceId id, const StateReader& reader);

  [[nodiscard]] int64_t held_by(const Sequence& sequence) const;
  void check_room(const Footprint& state, int64_t working, int64_t tokens) const;
  void check_length(int64_t max_tokens) const;
  void check_fork(SequenceId id, int64_t max_tokens);
  [[nodiscard]] int64_t reach(SequenceId id) const;
  void check_room_to_read(SequenceId id, int64_t tokens);
  [[nodiscard]] Sequence& at(SequenceId id);
  void check_prompt(SequenceId id, std::span<const int32_t> ids);
  template <typename End>
  auto read_prompt(SequenceId id, std::span<const int32_t> ids, const Progress& progress, const End& end);
  void hold_layer(SequenceId id);
  void finish_reading(SequenceId id);
  Transformer::Drawn draw_end(const PrefillRun& prompt, SequenceId id, Sampler& sampler);
  void forget_reading(SequenceId id);
  void abandon_prefill(SequenceId id);

  const ModelConfig& model_;
  Transformer& transformer_;
  Device& device_;
  std::shared_ptr<ExactPrefill> prefill_;
  std::unique_ptr<SharedPrefill> attention_;
  int64_t methods_;
  std::map<SequenceId, Sequence> sequences_;
  SequenceId next_id_ = 0;
  std::map<SequenceId, PrefillRun> readings_;   // prompts that are being read
  std::optional<SequenceId> layer_of_;          // whose layer prefill_ holds
  StepSampling sampling_;                       // of the latest step
  std::map<int64_t, LayerObserver> observers_;  // by method
  bool times_ops_ = false;
  std::string attention_text_;  // of its one method, what changes results; empty with several
  std::string fingerprint_;     // of weights and positions, once somebody asked
};

// Runs work of the device; when that is lost, says what was lost with it.
template <typename Work>
auto ModelSession::run(const Work& work) {
  try {
    return work();
  } catch (const DeviceLost& lost) {
    int64_t tokens = 0;
    for (const auto& [id, sequence] : sequences_) {
      for (const int64_t held : sequence.tokens) tokens += held;
    }
    throw DeviceLost(fmt::format("{}; {} sequences of {} tokens in all were in flight", lost.what(),
                                 sequences_.size(), tokens));
  }
}

}  // namespace shadowkv
