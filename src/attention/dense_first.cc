// The first layers as full attention has them, the others as a sparse method does: what first layers attend
// is spread too evenly for few chunks to hold it (Quest, arXiv 2406.10774). Two methods of fewer layers each
// behind one interface.
#include <algorithm>
#include <utility>

#include "attention/methods.h"
#include "base/check.h"

namespace shadowkv {
namespace {

AttentionShape with_layers(AttentionShape shape, int64_t layers) {
  shape.layers = layers;
  return shape;
}

class DenseFirst final : public Attention {
 public:
  DenseFirst(int64_t dense_layers, int64_t layers, std::unique_ptr<Attention> dense,
             std::unique_ptr<Attention> sparse)
      : dense_layers_(dense_layers), layers_(layers), dense_(std::move(dense)), sparse_(std::move(sparse)) {}

  [[nodiscard]] Footprint footprint(int64_t tokens) const override {
    return sum(dense_->footprint(tokens), sparse_->footprint(tokens));
  }
  [[nodiscard]] Footprint peak_until(const SequencePlan& plan, int64_t tokens) const override {
    return sum(dense_->peak_until(plan, tokens), sparse_->peak_until(plan, tokens));
  }
  [[nodiscard]] Footprint fork_until(const SequencePlan& plan, int64_t tokens) const override {
    return sum(dense_->fork_until(plan, tokens), sparse_->fork_until(plan, tokens));
  }
  [[nodiscard]] Footprint append_bytes(SeqId id, int64_t tokens) const override {
    return sum(dense_->append_bytes(id, tokens), sparse_->append_bytes(id, tokens));
  }

  void begin(SeqId id, const SequencePlan& plan) override {
    dense_->begin(id, plan);
    try {
      sparse_->begin(id, plan);
    } catch (...) {
      dense_->end(id);
      throw;
    }
  }
  void fork(SeqId from, SeqId to, const SequencePlan& plan) override {
    dense_->fork(from, to, plan);
    sparse_->fork(from, to, plan);
  }
  // The dense layers can be cut anywhere.
  [[nodiscard]] PrefixCuts prefix_cuts(int64_t tokens) const override { return sparse_->prefix_cuts(tokens); }
  void begin_prefix(SeqId from, SeqId to, int64_t tokens) override {
    dense_->begin_prefix(from, to, tokens);
    sparse_->begin_prefix(from, to, tokens);
  }
  void end_prefix(SeqId from, SeqId to) override {
    dense_->end_prefix(from, to);
    sparse_->end_prefix(from, to);
  }
  void fork_prefix(SeqId from, SeqId to, int64_t tokens, const SequencePlan& plan) override {
    dense_->fork_prefix(from, to, tokens, plan);
    sparse_->fork_prefix(from, to, tokens, plan);
  }
  [[nodiscard]] std::vector<int64_t> prefix_numbers(SeqId prefix) const override {
    return joined(dense_->prefix_numbers(prefix), sparse_->prefix_numbers(prefix));
  }
  void restore_prefix(SeqId to, int64_t tokens, const PrefixBeginning& beginning,
                      std::span<const int64_t> numbers) override {
    const auto [first, others] = split(numbers);
    dense_->restore_prefix(to, tokens, beginning, first);
    sparse_->restore_prefix(to, tokens, beginning, others);
  }
  [[nodiscard]] Footprint prefix_bytes(int64_t tokens, int64_t shared) const override {
    return sum(dense_->prefix_bytes(tokens, shared), sparse_->prefix_bytes(tokens, shared));
  }
  [[nodiscard]] int64_t prefix_working_bytes(int64_t tokens) const override {
    return sparse_->prefix_working_bytes(tokens);
  }
  void fill(SeqId id, int64_t tokens, uint64_t seed) override {
    dense_->fill(id, tokens, seed);
    sparse_->fill(id, tokens, seed);
  }
  void force_hit_share(double share) override { sparse_->force_hit_share(share); }

  void prefill(const LayerInput& input, TensorView out) override {
    method_of(input.layer).prefill(own(input), out);
  }
  int64_t close_prefill(SeqId id, int64_t layer, int64_t first, int64_t tokens) override {
    return method_of(layer).close_prefill(id, own(layer), first, tokens);
  }
  [[nodiscard]] int64_t closing_tokens() const override { return sparse_->closing_tokens(); }

  void begin_append(SeqId id, int64_t tokens) override {
    dense_->begin_append(id, tokens);
    try {
      sparse_->begin_append(id, tokens);
    } catch (...) {
      dense_->abandon_append(id);
      throw;
    }
  }
  void end_append(SeqId id) override {
    dense_->end_append(id);
    sparse_->end_append(id);
  }
  void abandon_append(SeqId id) override {
    dense_->abandon_append(id);
    sparse_->abandon_append(id);
  }

  // No micro-batches, which the dense layers would have to be cut into too.
  void begin_step(std::span<const SeqId> ids) override {
    dense_->begin_step(ids);
    sparse_->begin_step(ids);
  }
  void decode(const LayerInput& input, TensorView out) override {
    method_of(input.layer).decode(own(input), out);
  }
  [[nodiscard]] LayerTrace trace(int64_t layer, SeqId id) override {
    return method_of(layer).trace(own(layer), id);
  }
  void end_step() override {
    sparse_->end_step();  // before anything counts: memory may end in it
    dense_->end_step();
  }
  [[nodiscard]] std::vector<int64_t> step_shape() const override {
    std::vector<int64_t> shape = dense_->step_shape();
    const std::vector<int64_t> others = sparse_->step_shape();
    shape.insert(shape.end(), others.begin(), others.end());
    return shape;
  }

  [[nodiscard]] int64_t movable_bytes() const override { return sparse_->movable_bytes(); }
  int64_t release_device(int64_t bytes) override { return sparse_->release_device(bytes); }
  void keep_free(int64_t bytes) override { sparse_->keep_free(bytes); }

  void pause(SeqId id) override {
    dense_->pause(id);
    sparse_->pause(id);
  }
  void resume(SeqId id) override {
    dense_->resume(id);
    sparse_->resume(id);
  }

  [[nodiscard]] std::vector<int64_t> saved_numbers(SeqId id) const override {
    return joined(dense_->saved_numbers(id), sparse_->saved_numbers(id));
  }
  [[nodiscard]] std::vector<MemoryPiece> saved_memory(SeqId id) override {
    std::vector<MemoryPiece> memory = dense_->saved_memory(id);
    const std::vector<MemoryPiece> others = sparse_->saved_memory(id);
    memory.insert(memory.end(), others.begin(), others.end());
    return memory;
  }
  [[nodiscard]] int64_t saved_bytes(const SequencePlan& plan,
                                    std::span<const int64_t> numbers) const override {
    const auto [first, others] = split(numbers);
    return dense_->saved_bytes(plan, first) + sparse_->saved_bytes(plan, others);
  }
  void restore(SeqId id, const SequencePlan& plan, std::span<const int64_t> numbers) override {
    const auto [first, others] = split(numbers);
    dense_->restore(id, plan, first);
    sparse_->restore(id, plan, others);
  }

  void end(SeqId id) override {
    dense_->end(id);
    sparse_->end(id);
  }

  // Tokens attended are an average over all layers.
  [[nodiscard]] AttentionStatistics statistics() override {
    const AttentionStatistics dense = dense_->statistics();
    AttentionStatistics all = sparse_->statistics();
    const double share = static_cast<double>(dense_layers_) / static_cast<double>(layers_);
    all.attended_tokens += share * (dense.attended_tokens - all.attended_tokens);
    for (std::size_t i = 0; i < all.held_bytes.size(); ++i) all.held_bytes[i] += dense.held_bytes[i];
    all.link += dense.link;
    return all;
  }

 private:
  [[nodiscard]] static Footprint sum(Footprint a, const Footprint& b) { return a += b; }

  using Numbers = std::span<const int64_t>;
  // How many numbers the dense layers have, theirs, and those of the others.
  [[nodiscard]] static std::vector<int64_t> joined(Numbers first, Numbers others) {
    std::vector<int64_t> numbers = {std::ssize(first)};
    numbers.insert(numbers.end(), first.begin(), first.end());
    numbers.insert(numbers.end(), others.begin(), others.end());
    return numbers;
  }
  [[nodiscard]] static std::pair<Numbers, Numbers> split(Numbers numbers) {
    require(!numbers.empty() && numbers[0] >= 0 && numbers[0] < std::ssize(numbers),
            "a saved state does not say what the numbers of its dense layers are");
    const auto count = static_cast<std::size_t>(numbers[0]);
    return {numbers.subspan(1, count), numbers.subspan(1 + count)};
  }

  [[nodiscard]] Attention& method_of(int64_t layer) { return layer < dense_layers_ ? *dense_ : *sparse_; }
  // The layer as its method counts them.
  [[nodiscard]] int64_t own(int64_t layer) const {
    return layer < dense_layers_ ? layer : layer - dense_layers_;
  }
  [[nodiscard]] LayerInput own(LayerInput input) const {
    input.layer = own(input.layer);
    return input;
  }

  int64_t dense_layers_;
  int64_t layers_;
  std::unique_ptr<Attention> dense_;
  std::unique_ptr<Attention> sparse_;
};

}  // namespace

std::unique_ptr<Attention> make_dense_first(const AttentionConfig& config, const AttentionShape& shape,
                                            std::shared_ptr<ExactPrefill> prefill, Device& device) {
  AttentionConfig full = config, sparse = config;
  full.method = Method::full;
  full.values = StorageType::automatic;  // keys lie beside them, and are to stay exact
  sparse.micro_batches = 1;
  auto dense = make_full(full, with_layers(shape, config.dense_layers), prefill, device);
  if (config.dense_layers == shape.layers) return dense;
  auto others =
      make_shadow(sparse, with_layers(shape, shape.layers - config.dense_layers), std::move(prefill), device);
  return std::make_unique<DenseFirst>(config.dense_layers, shape.layers, std::move(dense), std::move(others));
}

}  // namespace shadowkv
