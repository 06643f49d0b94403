// ShadowKV: keys as low-rank factors on the device, values wherever there is room, an index that picks the
// chunks a query needs, and a cache of recently picked chunks. The order of a decode step's work is decide ->
// rebuild and fetch -> attend; every piece of arithmetic is an op of kernels.h, so CPU and GPU share this
// file.
#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/exact_store.h"
#include "attention/low_rank_keys.h"
#include "attention/methods.h"
#include "attention/shadow_index.h"
#include "attention/step.h"
#include "attention/value_store.h"
#include "base/check.h"
#include "cache/region_store.h"

namespace shadowkv {
namespace {

// Steps whose longest sequences have as many open chunks to within this have the same shapes.
constexpr int64_t kChunkBucket = 128;

class ShadowAttention final : public Attention {
 public:
  ShadowAttention(const AttentionConfig& config, std::shared_ptr<ExactPrefill> prefill, Device& device);

  [[nodiscard]] Footprint footprint(int64_t tokens) const override;
  void begin(SeqId id, const SequencePlan& plan) override;
  void prefill(const LayerInput& input, TensorView out) override { prefill_->run(input, out); }
  void close_prefill(SeqId id, int64_t layer) override;
  void begin_step(std::span<const SeqId> ids) override;
  void decode(const LayerInput& input, TensorView out) override;
  void end(SeqId id) override;
  [[nodiscard]] AttentionStatistics statistics() override;
  [[nodiscard]] std::vector<int64_t> step_shape() const override;

 private:
  struct Sequence {
    int64_t row = 0;
    int64_t tokens = 0;  // held
    SequencePlan plan;
    bool sparse = false;     // else plain keys and values
    int64_t budget = 0;      // chunks chosen a step and KV head; fixed when the sequence turns sparse
    int64_t candidates = 0;  // chunks the index proposes
  };
  // Chunks picked for a step, as slots.
  struct Selection {
    TensorView candidates;  // [B, G, M]
    TensorView assigned;    // [B, G, K]
    TensorView source;      // [B, G, K]
    TensorView rebuilt;     // [B, G, M, chunk * D]
  };

  // ---- sequences
  void open_sparse(Sequence& sequence, int64_t tokens);
  void reserve_sparse(int64_t row, int64_t tokens);
  void build_layer(const Sequence& sequence, int64_t layer, const RawLayer& raw);
  void keep_resident(int64_t layer, const RawLayer& raw, const TokenBatch& tokens);
  void keep_outliers(const Sequence& sequence, int64_t layer, const RawLayer& raw,
                     const TensorView& min_cosine);
  void turn_sparse(Sequence& sequence);
  [[nodiscard]] TokenBatch tokens_of(const RawLayer& raw);
  [[nodiscard]] int64_t budget_chunks(int64_t tokens, int64_t max_tokens) const;
  [[nodiscard]] int64_t slot_count(int64_t budget, int64_t max_tokens) const;
  [[nodiscard]] int64_t outliers_for(int64_t fitted_segments) const;

  // ---- one step
  void count_step(const Sequence& sequence);
  void upload_tables();
  void decode_exact(const LayerInput& input, TensorView out);
  void decode_sparse(const LayerInput& input, TensorView out);
  void append(const LayerInput& input);
  void select(int64_t layer);
  void propose_candidates(int64_t layer, int64_t chunks);
  void fetch(int64_t layer);
  void decode_mixed(const LayerInput& input, TensorView out);

  [[nodiscard]] ResidentView resident_view(int64_t layer);
  [[nodiscard]] SlotView slot_view(int64_t layer);
  [[nodiscard]] RopeView rope() const {
    return {prefill_->inv_freq(), shape_.rope.rotary_dim, shape_.rope.interleaved};
  }

  AttentionConfig config_;
  AttentionShape shape_;
  std::shared_ptr<ExactPrefill> prefill_;
  Device& device_;

  ExactStore exact_;  // sequences below config_.exact_below
  Segments segments_;
  LowRankKeys keys_;
  ValueStore values_;
  std::unique_ptr<ShadowIndex> index_;
  RegionStore resident_;  // counts: outlier chunks
  RegionStore slots_;     // counts: slots
  Buffer counters_;       // int64 [2]: chunks picked, hits
  RowMap rows_;
  std::map<SeqId, Sequence> sequences_;
  DeviceArray<int32_t> row_of_token_;  // of the prompt being closed

  Step sparse_step_, exact_step_;
  std::vector<int64_t> sparse_at_, exact_at_;  // places of each kind in the step's batch
  DeviceArray<int32_t> candidate_limits_, pick_limits_;
  int64_t open_chunks_ = 0;  // most sealed chunks of a sequence of the step
  int64_t most_candidates_ = 0;
  int64_t most_picks_ = 0;
  bool any_outliers_ = false;
  Selection selection_;
  Scratch scores_, ranking_, candidates_, found_, rebuilt_, candidate_scores_, candidate_ranking_, picked_,
      assigned_, source_, slot_out_, lse_resident_, lse_slots_, cosines_, outlier_ids_, mixed_;
  AttentionStatistics statistics_;
};

ShadowAttention::ShadowAttention(const AttentionConfig& config, std::shared_ptr<ExactPrefill> prefill,
                                 Device& device)
    : config_(config),
      shape_(prefill->shape()),
      prefill_(std::move(prefill)),
      device_(device),
      exact_(shape_, shape_.compute, device),
      segments_(shape_, config, device),
      keys_(config, shape_, segments_, device),
      values_(config, shape_, device),
      index_(config.index == IndexKind::sketch ? make_sketch(config, shape_, segments_, device)
                                               : make_landmarks(config, shape_, device)),
      resident_(device, Purpose::keys_values),
      slots_(device, Purpose::slots),
      counters_(device.allocate(Tier::device, Purpose::tables, 2 * size_of(DType::i64))),
      row_of_token_(device),
      sparse_step_(*prefill_, device),
      exact_step_(*prefill_, device),
      candidate_limits_(device),
      pick_limits_(device),
      scores_(device),
      ranking_(device),
      candidates_(device),
      found_(device),
      rebuilt_(device),
      candidate_scores_(device),
      candidate_ranking_(device),
      picked_(device),
      assigned_(device),
      source_(device),
      slot_out_(device),
      lse_resident_(device),
      lse_slots_(device),
      cosines_(device),
      outlier_ids_(device),
      mixed_(device) {
  device.compute().fill_zero(counters_.data(), counters_.bytes());
}

// ---- sequences --------------------------------------------------------------------------------------------

int64_t ShadowAttention::budget_chunks(int64_t tokens, int64_t max_tokens) const {
  int64_t budget = config_.sparse_budget;
  if (config_.sparse_budget_per > 0)
    budget *= ceil_div(std::max<int64_t>(tokens, 1), config_.sparse_budget_per);
  if (config_.sparse_budget_share > 0) {
    budget = static_cast<int64_t>(std::ceil(config_.sparse_budget_share * static_cast<double>(tokens)));
  }
  const int64_t all = ceil_div(std::max(tokens, max_tokens), config_.chunk_size);
  return std::clamp<int64_t>(budget / config_.chunk_size, 1, all);
}

int64_t ShadowAttention::slot_count(int64_t budget, int64_t max_tokens) const {
  const auto wanted = static_cast<int64_t>(std::ceil(config_.slot_selections * static_cast<double>(budget)));
  return std::max(budget, std::min(wanted, ceil_div(max_tokens, config_.chunk_size)));
}

int64_t ShadowAttention::outliers_for(int64_t fitted_segments) const {
  return index_->wants_outliers() ? config_.outlier_chunks * fitted_segments : 0;
}

Footprint ShadowAttention::footprint(int64_t tokens) const {
  if (tokens < config_.exact_below) return {.device = exact_.bytes_for(tokens)};
  Footprint footprint;
  const int64_t budget = budget_chunks(tokens, tokens);
  const int64_t most_segments = ceil_div(tokens, segments_.tokens());
  ResidentView resident{.kv_heads = shape_.kv_heads, .chunk = config_.chunk_size};
  resident.ring_tokens = config_.local_window + config_.chunk_size;
  resident.head_dim = shape_.head_dim;
  resident.dtype = shape_.compute;
  SlotView slots{.kv_heads = shape_.kv_heads, .chunk = config_.chunk_size};
  slots.head_dim = shape_.head_dim;
  slots.dtype = shape_.compute;
  footprint.device = segments_.bytes_for(tokens) + index_->bytes_for(tokens) + keys_.bytes_for(tokens) +
                     values_.scale_bytes_for(tokens) +
                     shape_.layers * (resident.layer_bytes(outliers_for(most_segments)) +
                                      slots.layer_bytes(slot_count(budget, tokens)));
  (config_.placement == Placement::spill ? footprint.either : footprint.pinned_host) =
      values_.run_bytes_for(tokens);
  return footprint;
}

void ShadowAttention::begin(SeqId id, const SequencePlan& plan) {
  sequences_[id] = {.row = rows_.add(id), .plan = plan, .sparse = plan.prompt_tokens >= config_.exact_below};
}

void ShadowAttention::reserve_sparse(int64_t row, int64_t tokens) {
  index_->reserve(row, tokens);
  keys_.reserve(row, tokens);
  values_.reserve(row, tokens);
}

// Makes room for a sequence in sparse form and fixes what depends on its length.
void ShadowAttention::open_sparse(Sequence& sequence, int64_t tokens) {
  const int64_t row = sequence.row;
  const int64_t max_tokens = std::max(tokens, sequence.plan.max_tokens);
  segments_.begin(row, tokens, max_tokens);
  reserve_sparse(row, tokens);
  const int64_t outliers = outliers_for(static_cast<int64_t>(segments_.fitted(row).size()));
  resident_.allocate(row, shape_.layers * resident_view(0).layer_bytes(outliers), outliers);
  sequence.budget = budget_chunks(tokens, max_tokens);
  const auto proposed =
      static_cast<int64_t>(std::ceil(config_.rerank * static_cast<double>(sequence.budget)));
  sequence.candidates = std::min(proposed, ceil_div(max_tokens, config_.chunk_size));
  const int64_t slots = slot_count(sequence.budget, max_tokens);
  slots_.allocate(row, shape_.layers * slot_view(0).layer_bytes(slots), slots);
  sequence.sparse = true;
}

TokenBatch ShadowAttention::tokens_of(const RawLayer& raw) {
  return {.count = raw.tokens(), .rows = row_of_token_.upload(device_.compute()), .positions = raw.positions};
}

void ShadowAttention::close_prefill(SeqId id, int64_t layer) {
  Sequence& sequence = sequences_.at(id);
  const RawLayer raw = prefill_->layer();
  if (layer == 0) {
    sequence.tokens = raw.tokens();
    row_of_token_.assign(
        std::vector<int32_t>(static_cast<std::size_t>(raw.tokens()), static_cast<int32_t>(sequence.row)));
    if (sequence.sparse) {
      open_sparse(sequence, raw.tokens());
    } else {
      exact_.reserve(sequence.row, raw.tokens());
    }
  }
  if (sequence.sparse) {
    build_layer(sequence, layer, raw);
  } else {
    exact_.append(layer, raw.k, raw.v, tokens_of(raw));
  }
}

void ShadowAttention::build_layer(const Sequence& sequence, int64_t layer, const RawLayer& raw) {
  const TokenBatch tokens = tokens_of(raw);
  segments_.fit(sequence.row, raw, layer);
  keys_.append(layer, raw.k_raw, tokens);
  values_.append(layer, raw.v, tokens);
  keep_resident(layer, raw, tokens);
  const int64_t chunks = raw.tokens() / config_.chunk_size;
  TensorView min_cosine;
  if (index_->wants_outliers() && chunks > 0)
    min_cosine = cosines_.get(DType::f32, {shape_.kv_heads, chunks});
  index_->build(layer, sequence.row, raw, tokens, min_cosine);
  if (index_->wants_outliers()) keep_outliers(sequence, layer, raw, min_cosine);
}

// The first chunk, then the latest tokens: in this order, since both write the ring.
void ShadowAttention::keep_resident(int64_t layer, const RawLayer& raw, const TokenBatch& tokens) {
  const ResidentView view = resident_view(layer);
  const int64_t head = std::min(raw.tokens(), config_.chunk_size);
  const int64_t tail = std::max<int64_t>(0, raw.tokens() - view.ring_tokens);
  for (const auto& [first, end] : {std::pair{int64_t{0}, head}, std::pair{tail, raw.tokens()}}) {
    const int64_t count = end - first;
    store_resident(
        device_.compute(),
        {.k = raw.k.rows(first, count),
         .v = raw.v.rows(first, count),
         .tokens = {.count = count, .rows = tokens.rows + first, .positions = tokens.positions + first},
         .resident = view});
  }
}

// The sealed chunks of least cosine of each segment, per KV head.
void ShadowAttention::keep_outliers(const Sequence& sequence, int64_t layer, const RawLayer& raw,
                                    const TensorView& min_cosine) {
  Queue& queue = device_.compute();
  const int64_t chunks = raw.tokens() / config_.chunk_size;
  const int64_t sealed = sealed_chunks(raw.tokens(), config_.chunk_size, config_.local_window);
  std::vector<float> cosine(static_cast<std::size_t>(shape_.kv_heads * chunks));
  queue.copy(cosine.data(), min_cosine.data, static_cast<int64_t>(cosine.size() * sizeof(float)));
  queue.synchronize();
  const auto& fitted = segments_.fitted(sequence.row);
  for (std::size_t segment = 0; segment < fitted.size(); ++segment) {
    // Tokens that inherit a segment's basis belong to it here too.
    const int64_t first = std::max<int64_t>(1, fitted[segment].first / config_.chunk_size);
    const int64_t end = segment + 1 < fitted.size() ? fitted[segment + 1].first / config_.chunk_size : sealed;
    std::vector<int32_t> ids(static_cast<std::size_t>(shape_.kv_heads * config_.outlier_chunks), -1);
    for (int64_t head = 0; head < shape_.kv_heads; ++head) {
      std::vector<std::pair<float, int32_t>> order;
      for (int64_t c = first; c < std::min(end, sealed); ++c) {
        order.emplace_back(cosine[static_cast<std::size_t>(head * chunks + c)], static_cast<int32_t>(c));
      }
      const auto kept = std::min<std::size_t>(order.size(), static_cast<std::size_t>(config_.outlier_chunks));
      std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end());
      for (std::size_t i = 0; i < kept; ++i) {
        ids[static_cast<std::size_t>(head * config_.outlier_chunks) + i] = order[i].second;
      }
    }
    const TensorView on_device = outlier_ids_.get(DType::i32, {1, shape_.kv_heads, config_.outlier_chunks});
    queue.copy(on_device.data, ids.data(), on_device.bytes());
    queue.synchronize();
    store_outliers(queue, {.k = raw.k,
                           .v = raw.v,
                           .chunks = on_device,
                           .row = sequence.row,
                           .first_entry = static_cast<int64_t>(segment) * config_.outlier_chunks,
                           .resident = resident_view(layer)});
  }
}

// A sequence that has grown past exact_below: its plain keys, turned back, make its first segments.
void ShadowAttention::turn_sparse(Sequence& sequence) {
  Queue& queue = device_.compute();
  const int64_t tokens = sequence.tokens;
  const int64_t numbers = tokens * shape_.kv_width();
  const Buffer workspace =
      device_.allocate(Tier::device, Purpose::activations,
                       3 * numbers * size_of(device_.activation_dtype()) + tokens * size_of(DType::i32));
  const DType type = device_.activation_dtype();
  const auto view = [&](int which) {
    std::byte* data = workspace.data() + which * numbers * size_of(type);
    return TensorView(data, type, {tokens, shape_.kv_heads, shape_.head_dim});
  };
  std::vector<int32_t> positions(static_cast<std::size_t>(tokens));
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
  auto* on_device = reinterpret_cast<int32_t*>(workspace.data() + 3 * numbers * size_of(type));
  queue.copy(on_device, positions.data(), tokens * 4);
  row_of_token_.assign(
      std::vector<int32_t>(static_cast<std::size_t>(tokens), static_cast<int32_t>(sequence.row)));
  queue.synchronize();

  open_sparse(sequence, tokens);
  const RawLayer raw{.k_raw = view(0), .k = view(1), .v = view(2), .positions = on_device};
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    exact_.load(layer, sequence.row, raw.k, raw.v);
    rotate(queue, {.x = raw.k,
                   .positions = TensorView(on_device, DType::i32, {tokens}),
                   .rope = rope(),
                   .inverse = true,
                   .out = raw.k_raw});
    build_layer(sequence, layer, raw);
  }
  queue.synchronize();
  exact_.release(sequence.row);
}

void ShadowAttention::end(SeqId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  const int64_t row = found->second.row;
  exact_.release(row);
  index_->release(row);
  keys_.release(row);
  values_.release(row);
  segments_.release(row);
  resident_.release(row);
  slots_.release(row);
  rows_.remove(id);
  sequences_.erase(found);
}

AttentionStatistics ShadowAttention::statistics() {
  AttentionStatistics now = statistics_;
  std::array<int64_t, 2> counted{};
  device_.compute().copy(counted.data(), counters_.data(), counters_.bytes());
  device_.compute().synchronize();
  now.chosen_chunks = counted[0];
  now.slot_hits = counted[1];
  for (const auto& [id, sequence] : sequences_) {
    const int64_t row = sequence.row;
    now.held_bytes[0] += exact_.held_bytes(row, Tier::device) + index_->held_bytes(row) +
                         keys_.held_bytes(row) + segments_.held_bytes(row) + resident_.held_bytes(row) +
                         slots_.held_bytes(row) + values_.held_bytes(row, Tier::device);
    now.held_bytes[1] += values_.held_bytes(row, Tier::pinned_host);
  }
  return now;
}

// ---- one step ---------------------------------------------------------------------------------------------

ResidentView ShadowAttention::resident_view(int64_t layer) {
  Queue& queue = device_.compute();
  return {.regions = resident_.regions(queue),
          .outliers = resident_.counts(queue),
          .layer = layer,
          .kv_heads = shape_.kv_heads,
          .chunk = config_.chunk_size,
          .local_window = config_.local_window,
          .ring_tokens = config_.local_window + config_.chunk_size,
          .head_dim = shape_.head_dim,
          .dtype = shape_.compute};
}

SlotView ShadowAttention::slot_view(int64_t layer) {
  Queue& queue = device_.compute();
  return {.regions = slots_.regions(queue),
          .counts = slots_.counts(queue),
          .layer = layer,
          .kv_heads = shape_.kv_heads,
          .chunk = config_.chunk_size,
          .head_dim = shape_.head_dim,
          .dtype = shape_.compute};
}

void ShadowAttention::count_step(const Sequence& sequence) {
  const int64_t tokens = sequence.tokens;
  statistics_.decode_steps += 1;
  statistics_.context_tokens += tokens;
  if (!sequence.sparse) {
    statistics_.attended_tokens += static_cast<double>(tokens);
    return;
  }
  const int64_t chunk = config_.chunk_size;
  const int64_t sealed = sealed_chunks(tokens, chunk, config_.local_window);
  const int64_t outliers = outliers_for(static_cast<int64_t>(segments_.fitted(sequence.row).size()));
  const int64_t chosen = std::min(sequence.budget + outliers, sealed - 1);
  const int64_t whole = std::min(tokens, chunk) + std::max<int64_t>(0, tokens - sealed * chunk);
  statistics_.attended_tokens += static_cast<double>(whole + chosen * chunk);
}

void ShadowAttention::begin_step(std::span<const SeqId> ids) {
  std::vector<int64_t> rows[2];
  std::vector<int64_t> lengths[2];
  std::vector<int32_t> candidates;
  std::vector<int32_t> picks;
  sparse_at_.clear();
  exact_at_.clear();
  open_chunks_ = most_candidates_ = most_picks_ = 0;
  any_outliers_ = index_->wants_outliers();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    Sequence& sequence = sequences_.at(ids[i]);
    if (!sequence.sparse && sequence.tokens + 1 >= config_.exact_below) turn_sparse(sequence);
    const bool sparse = sequence.sparse;
    if (sparse) {
      reserve_sparse(sequence.row, sequence.tokens + 1);
    } else {
      exact_.reserve(sequence.row, sequence.tokens + 1);
    }
    rows[sparse].push_back(sequence.row);
    lengths[sparse].push_back(++sequence.tokens);
    (sparse ? sparse_at_ : exact_at_).push_back(static_cast<int64_t>(i));
    count_step(sequence);
    if (!sparse) continue;
    candidates.push_back(static_cast<int32_t>(sequence.candidates));
    picks.push_back(static_cast<int32_t>(sequence.budget));
    open_chunks_ =
        std::max(open_chunks_, sealed_chunks(sequence.tokens, config_.chunk_size, config_.local_window));
    most_candidates_ = std::max(most_candidates_, sequence.candidates);
    most_picks_ = std::max(most_picks_, sequence.budget);
  }
  if (open_chunks_ > 1) open_chunks_ = round_up(open_chunks_, kChunkBucket);
  exact_step_.begin(rows[0], lengths[0]);
  sparse_step_.begin(rows[1], lengths[1]);
  candidate_limits_.assign(std::move(candidates));
  pick_limits_.assign(std::move(picks));
  upload_tables();
}

// Everything that the host changed goes to the device now, so that what follows can be recorded and replayed.
void ShadowAttention::upload_tables() {
  Queue& queue = device_.compute();
  exact_.upload_tables(queue);
  index_->upload_tables(queue);
  keys_.upload_tables(queue);
  values_.upload_tables(queue);
  segments_.upload_tables(queue);
  candidate_limits_.upload(queue);
  pick_limits_.upload(queue);
  (void)resident_view(0);
  (void)slot_view(0);
}

std::vector<int64_t> ShadowAttention::step_shape() const {
  return {sparse_step_.size(), exact_step_.size(), sparse_step_.batch().max_tokens,
          exact_step_.batch().max_tokens, open_chunks_, most_candidates_, most_picks_,
          // Only with rows of both kinds do places in the batch matter.
          exact_at_.empty() || sparse_at_.empty() ? 0 : -1};
}

void ShadowAttention::decode(const LayerInput& input, TensorView out) {
  if (exact_at_.empty()) return decode_sparse(input, out);
  if (sparse_at_.empty()) return decode_exact(input, out);
  decode_mixed(input, out);
}

// Gathers the rows of each kind, runs it, and puts its results back.
void ShadowAttention::decode_mixed(const LayerInput& input, TensorView out) {
  Queue& queue = device_.compute();
  for (const auto* places : {&exact_at_, &sparse_at_}) {
    const auto count = static_cast<int64_t>(places->size());
    const int64_t q_row = input.q.row_elements();
    const int64_t kv_row = input.k.row_elements();
    const TensorView all = mixed_.get(input.q.dtype, {count * (2 * q_row + 2 * kv_row)});
    std::byte* next = all.data;
    const auto take = [&](int64_t heads) {
      const TensorView view(next, input.q.dtype, {count, heads, shape_.head_dim});
      next += view.bytes();
      return view;
    };
    const TensorView q = take(shape_.heads);
    const TensorView k = take(shape_.kv_heads);
    const TensorView v = take(shape_.kv_heads);
    const TensorView part = take(shape_.heads);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t from = (*places)[static_cast<std::size_t>(i)];
      queue.copy(q.rows(i, 1).data, input.q.rows(from, 1).data, q.rows(i, 1).bytes());
      queue.copy(k.rows(i, 1).data, input.k.rows(from, 1).data, k.rows(i, 1).bytes());
      queue.copy(v.rows(i, 1).data, input.v.rows(from, 1).data, v.rows(i, 1).bytes());
    }
    LayerInput picked = input;
    picked.q = q;
    picked.k = k;
    picked.v = v;
    places == &exact_at_ ? decode_exact(picked, part) : decode_sparse(picked, part);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t to = (*places)[static_cast<std::size_t>(i)];
      queue.copy(out.rows(to, 1).data, part.rows(i, 1).data, part.rows(i, 1).bytes());
    }
  }
}

void ShadowAttention::decode_exact(const LayerInput& input, TensorView out) {
  exact_step_.rotate(input);
  exact_.append(input.layer, exact_step_.k(), input.v, exact_step_.tokens());
  const TensorView lse = lse_resident_.get(DType::f32, {exact_step_.size(), shape_.heads});
  exact_.attend(input.layer, exact_step_.q(), exact_step_.batch(), out, lse);
}

void ShadowAttention::decode_sparse(const LayerInput& input, TensorView out) {
  Queue& queue = device_.compute();
  const int64_t sequences = sparse_step_.size();
  append(input);
  const TensorView lse = lse_resident_.get(DType::f32, {sequences, shape_.heads});
  resident_attention(queue, {.q = sparse_step_.q(),
                             .batch = sparse_step_.batch(),
                             .resident = resident_view(input.layer),
                             .scale = shape_.scale(),
                             .out = out,
                             .lse = lse});
  if (open_chunks_ <= 1) return;  // everything is resident
  select(input.layer);
  fetch(input.layer);
  const TensorView slot_out = slot_out_.get(out.dtype, {sequences, shape_.heads, shape_.head_dim});
  const TensorView slot_lse = lse_slots_.get(DType::f32, {sequences, shape_.heads});
  slot_attention(queue, {.q = sparse_step_.q(),
                         .batch = sparse_step_.batch(),
                         .assigned = selection_.assigned,
                         .slots = slot_view(input.layer),
                         .scale = shape_.scale(),
                         .out = slot_out,
                         .lse = slot_lse});
  merge_attention(queue, {.a = out, .b = slot_out, .lse_a = lse, .lse_b = slot_lse, .out = out});
}

// The new tokens become part of everything that is kept; a chunk opens to selection once its last token has
// left the local window, by length alone.
void ShadowAttention::append(const LayerInput& input) {
  sparse_step_.rotate(input);
  const ResidentView resident = resident_view(input.layer);
  keys_.append(input.layer, input.k, sparse_step_.tokens());
  values_.append(input.layer, input.v, sparse_step_.tokens());
  store_resident(
      device_.compute(),
      {.k = sparse_step_.k(), .v = input.v, .tokens = sparse_step_.tokens(), .resident = resident});
  index_->append(input.layer, sparse_step_.k(), sparse_step_.batch(), sparse_step_.tokens(), resident);
}

// Index scores -> the best candidates of each KV head.
void ShadowAttention::propose_candidates(int64_t layer, int64_t chunks) {
  Queue& queue = device_.compute();
  const int64_t sequences = sparse_step_.size();
  const TensorView scores = scores_.get(DType::f32, {sequences, shape_.heads, chunks});
  const TensorView ranking = ranking_.get(DType::f32, {sequences, shape_.kv_heads, chunks});
  index_->score(layer, sparse_step_.q(), sparse_step_.batch(), scores);
  if (any_outliers_) {
    mask_outliers(queue, {.batch = sparse_step_.batch(), .resident = resident_view(layer), .scores = scores});
  }
  rank_groups(queue, {.scores = scores, .ranking = ranking});
  selection_.candidates =
      candidates_.get(DType::i32, {sequences, shape_.kv_heads, std::min(most_candidates_, chunks)});
  top_k(queue,
        {.ranking = ranking, .limits = candidate_limits_.upload(queue), .chosen = selection_.candidates});
}

// Candidates -> rebuilt keys -> (with rerank) the best of them by exact score -> a slot for each.
void ShadowAttention::select(int64_t layer) {
  Queue& queue = device_.compute();
  propose_candidates(layer, open_chunks_);
  const int64_t sequences = sparse_step_.size();
  const int64_t proposed = selection_.candidates.shape[2];
  const int64_t picks = std::min(most_picks_, proposed);
  const DecodeBatch& batch = sparse_step_.batch();
  const SlotView slots = slot_view(layer);
  const TensorView found = found_.get(DType::i32, {sequences, shape_.kv_heads, proposed});
  selection_.rebuilt = rebuilt_.get(
      shape_.compute, {sequences, shape_.kv_heads, proposed, config_.chunk_size * shape_.head_dim});
  find_slots(queue, {.batch = batch, .chunks = selection_.candidates, .slots = slots, .found = found});
  keys_.rebuild(layer, batch, rope(), selection_.candidates, found, selection_.rebuilt);

  TensorView picked;
  if (config_.rerank > 1 && picks < proposed) {
    const TensorView scores = candidate_scores_.get(DType::f32, {sequences, shape_.heads, proposed});
    const TensorView ranking = candidate_ranking_.get(DType::f32, {sequences, shape_.kv_heads, proposed});
    picked = picked_.get(DType::i32, {sequences, shape_.kv_heads, picks});
    candidate_scores(queue, {.q = sparse_step_.q(),
                             .batch = batch,
                             .chunks = selection_.candidates,
                             .found = found,
                             .rebuilt = selection_.rebuilt,
                             .slots = slots,
                             .scale = shape_.scale(),
                             .scores = scores});
    rank_groups(queue, {.scores = scores, .ranking = ranking});
    top_k(queue, {.ranking = ranking, .limits = pick_limits_.upload(queue), .chosen = picked});
  }
  const int64_t kept = picked.empty() ? proposed : picks;
  selection_.assigned = assigned_.get(DType::i32, {sequences, shape_.kv_heads, kept});
  selection_.source = source_.get(DType::i32, {sequences, shape_.kv_heads, kept});
  assign_slots(queue, {.batch = batch,
                       .chunks = selection_.candidates,
                       .found = found,
                       .picked = picked,
                       .slots = slots,
                       .assigned = selection_.assigned,
                       .source = selection_.source,
                       .counters = reinterpret_cast<int64_t*>(counters_.data())});
}

// Values of misses travel on the copy queue while their keys move on the compute queue.
void ShadowAttention::fetch(int64_t layer) {
  Queue& compute = device_.compute();
  Queue& copy = device_.copy();
  const SlotView slots = slot_view(layer);
  copy.wait_for(compute);
  gather_values(copy, {.batch = sparse_step_.batch(),
                       .chunks = selection_.candidates,
                       .assigned = selection_.assigned,
                       .source = selection_.source,
                       .values = values_.view(compute, layer),
                       .slots = slots});
  fill_keys(compute, {.batch = sparse_step_.batch(),
                      .assigned = selection_.assigned,
                      .source = selection_.source,
                      .rebuilt = selection_.rebuilt,
                      .slots = slots});
  compute.wait_for(copy);
}

}  // namespace

std::unique_ptr<Attention> make_shadow(const AttentionConfig& config, std::shared_ptr<ExactPrefill> prefill,
                                       Device& device) {
  return std::make_unique<ShadowAttention>(config, std::move(prefill), device);
}

}  // namespace shadowkv
