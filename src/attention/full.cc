// Exact attention over all keys and values, paged on the device. The baseline every other method is judged
// by.
#include <algorithm>
#include <utility>

#include "attention/exact_store.h"
#include "attention/methods.h"
#include "attention/step.h"
#include "attention/trace.h"
#include "base/check.h"

namespace shadowkv {
namespace {

class FullAttention final : public Attention {
 public:
  FullAttention(const AttentionConfig& config, const AttentionShape& shape,
                std::shared_ptr<ExactPrefill> prefill, Device& device)
      : prefill_(std::move(prefill)),
        device_(device),
        store_(shape, storage_dtype(config.values, shape.compute), device),
        tables_(*prefill_, device),
        step_(*prefill_, tables_, device),
        prompt_rows_(device),
        lse_(device) {}

  [[nodiscard]] Footprint footprint(int64_t tokens) const override {
    return {.device = store_.bytes_for(tokens)};
  }

  void begin(SeqId id, const SequencePlan& plan) override {
    begin_by(id, prefill_->shape().rope.table_for(std::max(plan.prompt_tokens, plan.max_tokens)));
  }

  void begin_by(SeqId id, int64_t table) {
    const int64_t row = rows_.add(id);
    try {
      prefill_->set_table(id, table);
      tables_.set(row, table);
      sequences_[id] = {.row = row};
    } catch (...) {
      rows_.remove(id);  // end() knows a sequence by sequences_
      throw;
    }
  }

  void fork(SeqId from, SeqId to, const SequencePlan& plan) override {
    fork_prefix(from, to, sequences_.at(from).tokens, plan);
  }
  [[nodiscard]] Footprint fork_until(const SequencePlan& plan, int64_t tokens) const override {
    return {.device = store_.bytes_for(tokens) - store_.shared_bytes(plan.prompt_tokens)};
  }

  // Whole blocks, of which nothing is copied.
  [[nodiscard]] PrefixCuts prefix_cuts(int64_t /*tokens*/) const override {
    return {.every = store_.block_tokens(), .least = store_.block_tokens(), .serves_shorter = true};
  }
  void begin_prefix(SeqId from, SeqId to, int64_t tokens) override {
    begin_by(to, prefill_->table(from));
    sequences_.at(to).tokens = tokens;
  }
  void end_prefix(SeqId from, SeqId to) override {
    const Sequence& prefix = sequences_.at(to);
    store_.share(sequences_.at(from).row, prefix.row, prefix.tokens);
  }
  void fork_prefix(SeqId from, SeqId to, int64_t tokens, const SequencePlan& /*plan*/) override {
    begin_by(to, prefill_->table(from));
    Sequence& sequence = sequences_.at(to);
    store_.share(sequences_.at(from).row, sequence.row, tokens);
    sequence.tokens = tokens;
  }
  [[nodiscard]] std::vector<int64_t> prefix_numbers(SeqId prefix) const override {
    return saved_numbers(prefix);
  }
  void restore_prefix(SeqId to, int64_t tokens, const PrefixBeginning& beginning,
                      std::span<const int64_t> numbers) override {
    (void)saved_bytes({.prompt_tokens = tokens, .max_tokens = tokens}, numbers);  // refuses what is none
    begin_by(to, numbers.empty() ? 0 : numbers[0]);
    Sequence& prefix = sequences_.at(to);
    if (beginning.tokens > 0) store_.share(sequences_.at(beginning.prefix).row, prefix.row, beginning.tokens);
    store_.reserve(prefix.row, tokens);
    prefix.tokens = tokens;
  }
  [[nodiscard]] Footprint prefix_bytes(int64_t tokens, int64_t shared) const override {
    return {.device = store_.bytes_for(tokens) - store_.shared_bytes(shared)};
  }

  void fill(SeqId id, int64_t tokens, uint64_t seed) override {
    Sequence& sequence = sequences_.at(id);
    store_.reserve(sequence.row, tokens);
    store_.fill(sequence.row, tokens, seed);
    sequence.tokens = tokens;
  }

  void prefill(const LayerInput& input, TensorView out) override {
    const Sequence& sequence = sequences_.at(input.sequence);
    if (sequence.past > 0 && input.first_position == sequence.past) {
      const RawLayer past = prefill_->past(sequence.past);
      store_.load(input.layer, sequence.row, past.k, past.v);
    }
    prefill_->run(input, out);
  }

  int64_t close_prefill(SeqId id, int64_t layer, int64_t first, int64_t tokens) override {
    Sequence& sequence = sequences_.at(id);
    const RawLayer raw = prefill_->layer();
    if (layer == 0 && first == sequence.past) {
      store_.reserve(sequence.row, raw.tokens());
      sequence.tokens = raw.tokens();
    }
    const int32_t* rows = prompt_rows_.of(device_.compute(), sequence.row, raw.tokens());
    const int64_t count = std::min(tokens, raw.tokens() - first);
    const RawLayer part = raw.part(first, count);
    store_.append(layer, part.k, part.v, {.count = count, .rows = rows + first, .positions = part.positions});
    return first + count;
  }

  void begin_append(SeqId id, int64_t tokens) override {
    Sequence& sequence = sequences_.at(id);
    store_.reserve(sequence.row, sequence.tokens + tokens);
    sequence.past = sequence.tokens;
  }
  void end_append(SeqId id) override { sequences_.at(id).past = 0; }
  void abandon_append(SeqId id) override {
    Sequence& sequence = sequences_.at(id);
    sequence.tokens = std::exchange(sequence.past, 0);
  }
  [[nodiscard]] Footprint append_bytes(SeqId id, int64_t tokens) const override {
    const int64_t held = sequences_.at(id).tokens;
    return {.device = store_.bytes_for(held + tokens) - store_.bytes_for(held)};
  }

  void begin_step(std::span<const SeqId> ids) override {
    std::vector<int64_t> rows;
    std::vector<int64_t> tokens;
    for (const SeqId id : ids) {
      const Sequence& sequence = sequences_.at(id);
      store_.reserve(sequence.row, sequence.tokens + 1);
      rows.push_back(sequence.row);
      tokens.push_back(sequence.tokens + 1);
    }
    step_ids_.assign(ids.begin(), ids.end());
    step_.begin(rows, tokens);
    store_.upload_tables(device_.compute());
  }

  [[nodiscard]] std::vector<int64_t> step_shape() const override {
    return {step_.size(), step_.batch().max_tokens};
  }

  void decode(const LayerInput& input, TensorView out) override {
    step_.rotate_queries(device_.compute(), input);
    step_.rotate_keys(device_.compute(), input);
    store_.append(input.layer, step_.k(), input.v, step_.tokens());
    const TensorView lse = lse_.get(DType::f32, {step_.size(), prefill_->shape().heads});
    store_.attend(input.layer, step_.q(), step_.batch(), out, lse);
  }

  [[nodiscard]] LayerTrace trace(int64_t layer, SeqId id) override {
    const Sequence& sequence = sequences_.at(id);
    const auto at = std::find(step_ids_.begin(), step_ids_.end(), id) - step_ids_.begin();
    return trace_exact(store_, prefill_->shape(), device_, step_.q().rows(at, 1), layer, sequence.row,
                       sequence.tokens + 1);
  }

  void end_step() override {
    for (const SeqId id : step_ids_) {
      const int64_t tokens = ++sequences_.at(id).tokens;
      statistics_.decode_steps += 1;
      statistics_.context_tokens += tokens;
      statistics_.attended_tokens += static_cast<double>(tokens);
    }
    step_ids_.clear();
  }

  void pause(SeqId id) override { store_.move(sequences_.at(id).row, Tier::pinned_host); }
  void resume(SeqId id) override { store_.move(sequences_.at(id).row, Tier::device); }

  // The table that its keys turn by, where it is not the first.
  [[nodiscard]] std::vector<int64_t> saved_numbers(SeqId id) const override {
    const int64_t table = prefill_->table(id);
    return table == 0 ? std::vector<int64_t>() : std::vector<int64_t>{table};
  }
  [[nodiscard]] std::vector<MemoryPiece> saved_memory(SeqId id) override {
    const Sequence& sequence = sequences_.at(id);
    std::vector<MemoryPiece> memory;
    store_.add_memory(sequence.row, sequence.tokens, memory);
    return memory;
  }
  [[nodiscard]] int64_t saved_bytes(const SequencePlan& plan,
                                    std::span<const int64_t> numbers) const override {
    const RopeConfig& rope = prefill_->shape().rope;
    require(numbers.empty() || (numbers.size() == 1 && numbers[0] >= 0 && numbers[0] < rope.tables() &&
                                plan.prompt_tokens <= rope.reach(numbers[0])),
            "a saved state has {} numbers that full attention has not", numbers.size());
    return store_.memory_bytes(plan.prompt_tokens);
  }
  void restore(SeqId id, const SequencePlan& plan, std::span<const int64_t> numbers) override {
    begin_by(id, numbers.empty() ? 0 : numbers[0]);
    store_.reserve(sequences_.at(id).row, plan.prompt_tokens);
    sequences_.at(id).tokens = plan.prompt_tokens;
  }

  void end(SeqId id) override {
    const auto found = sequences_.find(id);
    if (found == sequences_.end()) return;
    store_.release(found->second.row);
    prefill_->forget_table(id);
    rows_.remove(id);
    sequences_.erase(found);
  }

  [[nodiscard]] AttentionStatistics statistics() override {
    AttentionStatistics now = statistics_;
    now.held_bytes = {store_.held_bytes(Tier::device), store_.held_bytes(Tier::pinned_host)};
    now.link = {.moved_up = store_.moved_bytes(Tier::device),
                .moved_down = store_.moved_bytes(Tier::pinned_host)};
    return now;
  }

 private:
  struct Sequence {
    int64_t row = 0;
    int64_t tokens = 0;
    int64_t past = 0;  // of them held before those that are being read on
  };

  std::shared_ptr<ExactPrefill> prefill_;
  Device& device_;
  ExactStore store_;
  RowTables tables_;
  Step step_;
  PromptRows prompt_rows_;
  Scratch lse_;
  RowMap rows_;
  std::map<SeqId, Sequence> sequences_;
  std::vector<SeqId> step_ids_;  // of the step that is not over
  AttentionStatistics statistics_;
};

}  // namespace

std::unique_ptr<Attention> make_full(const AttentionConfig& config, const AttentionShape& shape,
                                     std::shared_ptr<ExactPrefill> prefill, Device& device) {
  return std::make_unique<FullAttention>(config, shape, std::move(prefill), device);
}

}  // namespace shadowkv
