// Attention to few chunks a step. ShadowKV: keys as low-rank factors on the device, values wherever there is
// room, an index that picks the chunks a query needs, and a cache of recently picked chunks. Its rivals: the
// same over whole keys and their own indices. shadow.cc has a sequence's life,
// shadow_append.cc how it reads on, shadow_prefix.cc what is kept of a prompt, shadow_saved.cc what is saved,
// shadow_cut.cc how a step is cut, shadow_decode.cc one decode step, shadow_trace.cc what that attended;
// every piece of arithmetic is an op of kernels.h, so CPU and GPU share both.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "attention/attention.h"
#include "attention/chunk_keys.h"
#include "attention/exact_prefill.h"
#include "attention/exact_store.h"
#include "attention/fetch_meter.h"
#include "attention/segments.h"
#include "attention/shadow_index.h"
#include "attention/step.h"
#include "attention/step_cut.h"
#include "attention/value_store.h"
#include "base/scratch.h"
#include "cache/device_array.h"
#include "cache/region_store.h"

namespace shadowkv {

class ShadowAttention final : public Attention {
 public:
  // shape: of the layers that it is to attend.
  ShadowAttention(const AttentionConfig& config, const AttentionShape& shape,
                  std::shared_ptr<ExactPrefill> prefill, Device& device);

  [[nodiscard]] Footprint footprint(int64_t tokens) const override;
  [[nodiscard]] Footprint peak_until(const SequencePlan& plan, int64_t tokens) const override;
  void begin(SeqId id, const SequencePlan& plan) override;
  void fork(SeqId from, SeqId to, const SequencePlan& plan) override;
  [[nodiscard]] Footprint fork_until(const SequencePlan& plan, int64_t tokens) const override;
  [[nodiscard]] PrefixCuts prefix_cuts(int64_t tokens) const override;
  void begin_prefix(SeqId from, SeqId to, int64_t tokens) override;
  void end_prefix(SeqId from, SeqId to) override;
  void fork_prefix(SeqId from, SeqId to, int64_t tokens, const SequencePlan& plan) override;
  [[nodiscard]] std::vector<int64_t> prefix_numbers(SeqId prefix) const override;
  void restore_prefix(SeqId to, int64_t tokens, const PrefixBeginning& beginning,
                      std::span<const int64_t> numbers) override;
  [[nodiscard]] Footprint prefix_bytes(int64_t tokens, int64_t shared) const override;
  [[nodiscard]] int64_t prefix_working_bytes(int64_t tokens) const override;
  void fill(SeqId id, int64_t tokens, uint64_t seed) override;
  void force_hit_share(double share) override { forced_hit_share_ = share; }
  void prefill(const LayerInput& input, TensorView out) override;
  int64_t close_prefill(SeqId id, int64_t layer, int64_t first, int64_t tokens) override;
  [[nodiscard]] int64_t closing_tokens() const override { return segments_.tokens(); }
  void begin_append(SeqId id, int64_t tokens) override;
  void end_append(SeqId id) override;
  void abandon_append(SeqId id) override;
  [[nodiscard]] Footprint append_bytes(SeqId id, int64_t tokens) const override;
  void begin_step(std::span<const SeqId> ids) override;
  [[nodiscard]] std::vector<int64_t> arrange(std::span<const SeqId> ids) const override;
  [[nodiscard]] std::vector<MicroBatch> micro_batches() override;
  void decode(const LayerInput& input, TensorView out) override;
  [[nodiscard]] LayerTrace trace(int64_t layer, SeqId id) override;
  void end_step() override;
  void pause(SeqId id) override;
  void resume(SeqId id) override;
  [[nodiscard]] int64_t movable_bytes() const override { return values_.movable_bytes(); }
  int64_t release_device(int64_t bytes) override { return values_.release_device(bytes); }
  void keep_free(int64_t bytes) override { values_.keep_free(bytes); }
  [[nodiscard]] std::vector<int64_t> saved_numbers(SeqId id) const override;
  [[nodiscard]] std::vector<MemoryPiece> saved_memory(SeqId id) override;
  [[nodiscard]] int64_t saved_bytes(const SequencePlan& plan,
                                    std::span<const int64_t> numbers) const override;
  void restore(SeqId id, const SequencePlan& plan, std::span<const int64_t> numbers) override;
  void end(SeqId id) override;
  [[nodiscard]] AttentionStatistics statistics() override;
  [[nodiscard]] std::vector<int64_t> step_shape() const override;

 private:
  struct Sequence {
    int64_t row = 0;
    int64_t tokens = 0;  // held
    int64_t past = 0;    // of them before those that are being read on
    SequencePlan plan;
    bool sparse = false;     // else plain keys and values
    bool turns = false;      // plain, but becomes sparse with the tokens that are being read on
    Buffer resident_before;  // the region of resident keys as it was before reading on
    int64_t opened_at = 0;   // tokens that the sequence turned sparse with, by which its budget is fixed
    int64_t budget = 0;      // chunks chosen a step and KV head
    int64_t candidates = 0;  // chunks the index proposes
    std::vector<SeqId> prefixes = {};  // that are to hold the first of the tokens that are being read
  };
  // How chunks are picked for a step, and what attention makes of them; C open chunks.
  struct Selection {
    TensorView scores;                          // [B, H, C]
    TensorView spans;                           // [B, H, ceil(C / 16), 2] of the scores
    TensorView candidates;                      // [B, G, M]
    TensorView found;                           // [B, G, M] their slots before the step
    TensorView missing;                         // [B, G, M, 2] those that had none
    TensorView rebuilt;                         // [B, G, M, chunk * D]
    TensorView candidate_scores;                // [B, H, M] with rerank
    TensorView picked;                          // [B, G, K] indices into the candidates; empty: all of them
    TensorView assigned;                        // [B, G, K]
    TensorView source;                          // [B, G, K]
    TensorView lse;                             // [B, H] of the scores, then of the candidates'
    const int32_t* candidate_limits = nullptr;  // [B]
    const int32_t* pick_limits = nullptr;       // [B]

    [[nodiscard]] Selection rows(int64_t first, int64_t count) const;  // of some sequences
  };
  // Attention so far, of some sequences.
  struct Attended {
    TensorView out;  // [B, H, D]
    TensorView lse;  // [B, H]
  };
  // Sequences [first, first + count) of a step's sparse ones, and where they run.
  struct Part : StepPart {
    Lane lane;
  };

  // Sequences [first, first + count) of them that go through all layers by themselves: a micro-batch, or all.
  struct OwnBatch {
    int64_t first;
    int64_t count;
    Queue* main;    // of its layers
    Queue* keeper;  // of what new tokens leave, and of attention over what is resident
    std::vector<Part> parts;
  };

  // ---- sequences
  void begin_by(SeqId id, const SequencePlan& plan, int64_t table);
  [[nodiscard]] Footprint sparse_footprint(int64_t tokens, int64_t opened_at, int64_t max_tokens) const;
  void open_sparse(Sequence& sequence, int64_t tokens);
  void fix_budget(Sequence& sequence, int64_t opened_at) const;
  void open_regions(const Sequence& sequence, int64_t max_tokens, int64_t outliers);
  void reserve_sparse(int64_t row, int64_t tokens);
  void release_sparse(int64_t row);
  void move(int64_t row, Tier to);
  [[nodiscard]] int64_t held_beside_values(Tier tier) const;
  void build_factors(const Sequence& sequence, int64_t layer, const RawLayer& raw,
                     const Segments::Range& range);
  void build_index(const Sequence& sequence, int64_t layer, const RawLayer& raw, int64_t first);
  void keep_resident(int64_t layer, const RawLayer& raw, int64_t first, const TokenBatch& tokens);
  void keep_outliers(const Sequence& sequence, int64_t layer, const RawLayer& raw,
                     const TensorView& min_cosine);
  void turn_sparse(Sequence& sequence);
  [[nodiscard]] int64_t turn_bytes(int64_t tokens) const;
  void copy_exact_to_sparse(Sequence& sequence);
  void fill_resident(const Sequence& sequence, int64_t layer, uint64_t seed);
  [[nodiscard]] std::vector<int32_t> made_up_outliers(const Sequence& sequence) const;
  [[nodiscard]] Segments::Range outlier_range(const Sequence& sequence, std::size_t segment) const;
  [[nodiscard]] TokenBatch tokens_of(const Sequence& sequence, const RawLayer& raw);
  [[nodiscard]] static TokenBatch part_of(const TokenBatch& tokens, const Segments::Range& range);
  [[nodiscard]] int64_t budget_chunks(int64_t tokens, int64_t max_tokens) const;
  [[nodiscard]] int64_t slot_count(int64_t budget, int64_t max_tokens) const;
  [[nodiscard]] int64_t outliers_for(int64_t fitted_segments) const;

  // ---- prefixes
  void keep_prefixes(const Sequence& sequence, int64_t layer, const RawLayer& raw);
  void keep_prefix(const Sequence& prefix, int64_t layer, const RawLayer& raw);
  void share_prefix(const Sequence& from, const Sequence& to, int64_t max_tokens);
  [[nodiscard]] int64_t resident_bytes() const;

  // ---- reading on
  [[nodiscard]] int64_t piece_bytes(int64_t past) const;
  void load_past(const Sequence& sequence, int64_t layer);
  void turn_back(const Sequence& sequence, const RawLayer& raw);
  void rebuild_past(const Sequence& sequence, int64_t layer, const TensorView& k);
  void load_resident(const Sequence& sequence, int64_t layer, const RawLayer& past);
  void rebuild_chunks(const Sequence& sequence, int64_t layer, int64_t first, const TensorView& out);
  [[nodiscard]] int64_t ring_start(int64_t tokens) const;
  [[nodiscard]] QuantizedView resident_rows(const Sequence& sequence, int64_t layer);

  // ---- saved state
  struct Saved;
  [[nodiscard]] Saved saved_of(const SequencePlan& plan, std::span<const int64_t> numbers) const;

  // ---- one step
  void make_room(Sequence& sequence);
  void forget_failed_step();
  [[nodiscard]] bool reranks(const Sequence& sequence) const;
  void count_step(const Sequence& sequence);
  void count_link();
  [[nodiscard]] int64_t* counters_of(const StepPart& part) const;
  void upload_tables();
  void decode_exact(const LayerInput& input, TensorView out);
  void decode_sparse(const LayerInput& input, TensorView out);
  void keep(const OwnBatch& own, const LayerInput& input);
  [[nodiscard]] std::vector<int64_t> host_bytes(std::span<const int64_t> rows) const;
  [[nodiscard]] StepToCut to_cut(std::span<const SeqId> ids, std::span<const int64_t> bytes) const;
  void cut_batch(std::span<const SeqId> ids);
  [[nodiscard]] Lane lane(int64_t index);
  [[nodiscard]] OwnBatch whole_batch(const StepCut& cut);
  [[nodiscard]] OwnBatch micro_batch(const StepCut& cut, int64_t index);
  void take_link(Queue& queue);
  [[nodiscard]] DecodeBatch batch_of(int64_t first, int64_t count) const;
  [[nodiscard]] DecodeBatch batch_of(const Part& part) const { return batch_of(part.first, part.count); }
  [[nodiscard]] TensorView queries_of(const Part& part) const;
  [[nodiscard]] Selection selection();
  void score(int64_t layer, const Part& part, const Selection& s);
  void select(int64_t layer, const Part& part, const Selection& s);
  [[nodiscard]] ForcedHits forced_hits(const Selection& s) const;
  [[nodiscard]] bool spares_others() const;
  void fetch(int64_t layer, const Part& part, const Selection& s);
  void attend_chosen(int64_t layer, const OwnBatch& own, TensorView lse, TensorView out);
  void attend(int64_t layer, const Part& part, const Selection& s, Queue& resident, const Attended& kept);
  void decode_mixed(const LayerInput& input, TensorView out);
  [[nodiscard]] KeyError key_error_of(int64_t layer, const Sequence& sequence, int64_t row);
  [[nodiscard]] std::vector<std::vector<int32_t>> chosen(int64_t layer, const Sequence& sequence,
                                                         int64_t row);
  [[nodiscard]] std::vector<int32_t> outliers_of(int64_t layer, int64_t row, int64_t head);
  void picks_of(int64_t row, int64_t head, std::vector<int32_t>& chunks);

  [[nodiscard]] ResidentView resident_view(int64_t layer);
  [[nodiscard]] SlotView slot_view(int64_t layer);
  [[nodiscard]] RopeView rope() { return tables_.rope(device_.compute()); }  // of all rows

  AttentionConfig config_;
  AttentionShape shape_;
  std::shared_ptr<ExactPrefill> prefill_;
  Device& device_;

  ExactStore exact_;  // sequences below config_.exact_below
  Segments segments_;
  std::unique_ptr<ChunkKeys> keys_;
  ValueStore values_;
  std::unique_ptr<ShadowIndex> index_;
  RegionStore resident_;  // counts: outlier chunks
  RegionStore slots_;     // counts: slots
  Buffer counters_;       // int64 [kinds of parts, 2]: chunks picked, hits
  FetchMeter fetched_;
  LinkBytes crossed_;  // beside what is fetched and what values_ moves
  RowMap rows_;
  std::map<SeqId, Sequence> sequences_;
  PromptRows prompt_rows_, prefix_rows_;
  DeviceArray<int32_t> past_row_, past_chunks_;  // of the piece of a past that is being rebuilt
  DeviceArray<std::byte*> past_block_;           // where it comes
  Scratch past_keys_;

  std::vector<SeqId> step_ids_;  // of the step that is not over
  RowTables tables_;
  Step sparse_step_, exact_step_;
  std::vector<int64_t> sparse_at_, exact_at_;  // places of each kind in the step's batch
  std::vector<int64_t> sparse_rows_;           // rows of the sparse ones
  std::vector<OwnBatch> batches_;              // of the sparse ones, one or two
  Queue* link_ = nullptr;                      // that fetched last, where there are two
  DeviceArray<int32_t> candidate_limits_, pick_limits_;
  int64_t open_chunks_ = 0;  // most sealed chunks of a sequence of the step
  int64_t most_candidates_ = 0;
  int64_t most_picks_ = 0;
  bool reranks_ = false;          // some sequence of the step has more candidates than it may pick
  double forced_hit_share_ = -1;  // negative: choices stand
  Scratch scores_, spans_, candidates_, found_, missing_, rebuilt_, candidate_scores_, picked_, assigned_,
      source_, lse_resident_, lse_scores_, cosines_, outlier_ids_, mixed_;
  AttentionStatistics statistics_;
};

}  // namespace shadowkv
