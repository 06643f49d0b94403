#include "attention/shadow.h"

#include <algorithm>
#include <cmath>

#include "attention/fill.h"
#include "attention/methods.h"
#include "base/check.h"

namespace shadowkv {
namespace {

std::unique_ptr<ChunkKeys> make_keys(const AttentionConfig& config, const AttentionShape& shape,
                                     Segments& segments, Device& device) {
  if (config.method != Method::shadow) return make_whole_keys(config, shape, device);
  return make_low_rank_keys(config, shape, segments, device);
}

std::unique_ptr<ShadowIndex> make_index(const AttentionConfig& config, const AttentionShape& shape,
                                        Segments& segments, Device& device) {
  if (config.method == Method::quest) return make_bounds(config, shape, device);
  if (config.index == IndexKind::landmarks) return make_landmarks(config, shape, device);
  return make_sketch(config, shape, segments, device);
}

}  // namespace

ShadowAttention::ShadowAttention(const AttentionConfig& config, const AttentionShape& shape,
                                 std::shared_ptr<ExactPrefill> prefill, Device& device)
    : config_(config),
      shape_(shape),
      prefill_(std::move(prefill)),
      device_(device),
      exact_(shape_, shape_.compute, device),
      segments_(shape_, config, device),
      keys_(make_keys(config, shape_, segments_, device)),
      values_(config, shape_, device),
      index_(make_index(config, shape_, segments_, device)),
      resident_(device, Purpose::keys_values),
      slots_(device, Purpose::slots),
      counters_(device.allocate(Tier::device, Purpose::tables, 2 * FetchMeter::kKinds * size_of(DType::i64))),
      prompt_rows_(device),
      prefix_rows_(device),
      past_row_(device),
      past_chunks_(device),
      past_block_(device),
      past_keys_(device),
      tables_(*prefill_, device),
      sparse_step_(*prefill_, tables_, device),
      exact_step_(*prefill_, tables_, device),
      candidate_limits_(device),
      pick_limits_(device),
      scores_(device),
      spans_(device),
      candidates_(device),
      found_(device),
      missing_(device),
      rebuilt_(device),
      candidate_scores_(device),
      picked_(device),
      assigned_(device),
      source_(device),
      lse_resident_(device),
      lse_scores_(device),
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
  return sparse_footprint(tokens, tokens, tokens);
}

// Of `tokens` tokens in sparse form, of which there were opened_at when it began and may be max_tokens.
Footprint ShadowAttention::sparse_footprint(int64_t tokens, int64_t opened_at, int64_t max_tokens) const {
  Footprint footprint;
  const int64_t budget = budget_chunks(opened_at, max_tokens);
  const int64_t most_segments = ceil_div(opened_at, segments_.tokens());
  ResidentView resident{.kv_heads = shape_.kv_heads, .chunk = config_.chunk_size};
  resident.ring_tokens = config_.local_window + config_.chunk_size;
  resident.head_dim = shape_.head_dim;
  resident.dtype = shape_.compute;
  SlotView slots{.kv_heads = shape_.kv_heads, .chunk = config_.chunk_size};
  slots.head_dim = shape_.head_dim;
  slots.dtype = shape_.compute;
  footprint.device = segments_.bytes_for(opened_at) + index_->bytes_for(tokens) + keys_->bytes_for(tokens) +
                     values_.scale_bytes_for(tokens) +
                     shape_.layers * (resident.layer_bytes(outliers_for(most_segments)) +
                                      slots.layer_bytes(slot_count(budget, max_tokens)));
  (config_.placement == Placement::spill ? footprint.either : footprint.pinned_host) =
      values_.run_bytes_for(tokens);
  return footprint;
}

// A sequence that turns sparse holds both forms and one layer's plain keys for a moment.
Footprint ShadowAttention::peak_until(const SequencePlan& plan, int64_t tokens) const {
  const bool turns = plan.prompt_tokens < config_.exact_below;
  if (turns && tokens < config_.exact_below) return footprint(tokens);
  const int64_t opened_at = turns ? config_.exact_below - 1 : plan.prompt_tokens;
  const int64_t max_tokens = std::max(tokens, plan.max_tokens);
  Footprint most = sparse_footprint(tokens, opened_at, max_tokens);
  if (!turns) return most;
  const int64_t turning = exact_.bytes_for(opened_at) + turn_bytes(opened_at) +
                          sparse_footprint(opened_at + 1, opened_at, max_tokens).device;
  most.device = std::max(most.device, turning);
  return most;
}

void ShadowAttention::begin(SeqId id, const SequencePlan& plan) {
  begin_by(id, plan, shape_.rope.table_for(std::max(plan.prompt_tokens, plan.max_tokens)));
}

void ShadowAttention::begin_by(SeqId id, const SequencePlan& plan, int64_t table) {
  const int64_t row = rows_.add(id);
  try {
    prefill_->set_table(id, table);
    tables_.set(row, table);
    Sequence& sequence = sequences_[id];
    sequence.row = row;
    sequence.plan = plan;
    sequence.sparse = plan.prompt_tokens >= config_.exact_below;
  } catch (...) {
    rows_.remove(id);  // end() knows a sequence by sequences_
    throw;
  }
}

// Slots are copied with what is in them: the fork finds what the other has used.
void ShadowAttention::fork(SeqId from, SeqId to, const SequencePlan& plan) {
  forget_failed_step();
  begin_by(to, plan, prefill_->table(from));
  const Sequence& source = sequences_.at(from);
  Sequence& sequence = sequences_.at(to);
  sequence.tokens = source.tokens;
  sequence.sparse = source.sparse;
  sequence.opened_at = source.opened_at;
  sequence.budget = source.budget;
  sequence.candidates = source.candidates;
  const int64_t row = sequence.row, tokens = source.tokens;
  if (!source.sparse) return exact_.share(source.row, row, tokens);
  segments_.share(source.row, row, std::max(tokens, plan.max_tokens));
  index_->share(source.row, row, tokens);
  keys_->share(source.row, row, tokens);
  values_.share(source.row, row, tokens);
  resident_.copy(source.row, row);
  slots_.copy(source.row, row);
}

// One that turns sparse later shares nothing of that form.
Footprint ShadowAttention::fork_until(const SequencePlan& plan, int64_t tokens) const {
  const int64_t held = plan.prompt_tokens;
  Footprint more = peak_until(plan, tokens);
  if (held < config_.exact_below) {
    if (tokens < config_.exact_below) more.device -= exact_.shared_bytes(held);
    return more;
  }
  more.device -= segments_.bytes_for(held) + index_->shared_bytes(held) + keys_->shared_bytes(held) +
                 values_.shared_scale_bytes(held);
  (config_.placement == Placement::spill ? more.either : more.pinned_host) -= values_.shared_run_bytes(held);
  return more;
}

void ShadowAttention::reserve_sparse(int64_t row, int64_t tokens) {
  index_->reserve(row, tokens);
  keys_->reserve(row, tokens);
  values_.reserve(row, tokens);
}

// Makes room for a sequence in sparse form and fixes what depends on its length.
void ShadowAttention::open_sparse(Sequence& sequence, int64_t tokens) {
  const int64_t row = sequence.row;
  const int64_t max_tokens = std::max(tokens, sequence.plan.max_tokens);
  segments_.begin(row, tokens, max_tokens);
  reserve_sparse(row, tokens);
  fix_budget(sequence, tokens);
  open_regions(sequence, max_tokens, outliers_for(static_cast<int64_t>(segments_.fitted(row).size())));
}

void ShadowAttention::fix_budget(Sequence& sequence, int64_t opened_at) const {
  const int64_t max_tokens = std::max(opened_at, sequence.plan.max_tokens);
  sequence.opened_at = opened_at;
  sequence.budget = budget_chunks(opened_at, max_tokens);
  const auto proposed =
      static_cast<int64_t>(std::ceil(config_.rerank * static_cast<double>(sequence.budget)));
  sequence.candidates = std::min(proposed, ceil_div(max_tokens, config_.chunk_size));
}

// Both empty.
void ShadowAttention::open_regions(const Sequence& sequence, int64_t max_tokens, int64_t outliers) {
  const int64_t row = sequence.row, slots = slot_count(sequence.budget, max_tokens);
  resident_.allocate(row, shape_.layers * resident_view(0).layer_bytes(outliers), outliers);
  slots_.allocate(row, shape_.layers * slot_view(0).layer_bytes(slots), slots);
}

TokenBatch ShadowAttention::part_of(const TokenBatch& tokens, const Segments::Range& range) {
  return {.count = range.end - range.first,
          .rows = tokens.rows + range.first,
          .positions = tokens.positions + range.first};
}

TokenBatch ShadowAttention::tokens_of(const Sequence& sequence, const RawLayer& raw) {
  return {.count = raw.tokens(),
          .rows = prompt_rows_.of(device_.compute(), sequence.row, raw.tokens()),
          .positions = raw.positions};
}

void ShadowAttention::fill(SeqId id, int64_t tokens, uint64_t seed) {
  Sequence& sequence = sequences_.at(id);
  sequence.tokens = tokens;
  if (!sequence.sparse) {
    exact_.reserve(sequence.row, tokens);
    return exact_.fill(sequence.row, tokens, seed);
  }
  open_sparse(sequence, tokens);
  segments_.fill(sequence.row, seed);
  keys_->fill(sequence.row, tokens, seed);
  values_.fill(sequence.row, tokens, seed);
  index_->fill(sequence.row, tokens, seed);
  const std::vector<int32_t> outliers = made_up_outliers(sequence);
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    fill_resident(sequence, layer, seed + static_cast<uint64_t>(layer));
    const ResidentView view = resident_view(layer);
    const auto count = static_cast<int64_t>(outliers.size()) / shape_.kv_heads;
    std::byte* ids = resident_.data(sequence.row) + layer * view.layer_bytes(count) +
                     2 * shape_.kv_heads * view.capacity(count) * view.token_bytes();
    device_.compute().copy(ids, outliers.data(), static_cast<int64_t>(outliers.size() * sizeof(int32_t)));
  }
  device_.compute().synchronize();
}

// One layer's resident rows by entry: keys of all heads, then values of all heads.
QuantizedView ShadowAttention::resident_rows(const Sequence& sequence, int64_t layer) {
  const ResidentView resident = resident_view(layer);
  const int64_t outliers = resident_.count(sequence.row);
  const int64_t entries = resident.capacity(outliers);
  QuantizedView rows;
  rows.data.table = resident.regions;
  rows.data.seq_stride = 1;
  rows.data.block_tokens = entries;
  rows.data.offset = layer * resident.layer_bytes(outliers);
  rows.data.head_offset = entries * resident.token_bytes();
  rows.data.token_bytes = resident.token_bytes();
  rows.data.dtype = resident.dtype;
  return rows;
}

void ShadowAttention::fill_resident(const Sequence& sequence, int64_t layer, uint64_t seed) {
  const QuantizedView rows = resident_rows(sequence, layer);
  fill_rows(device_.compute(), rows,
            {.row = sequence.row,
             .tokens = rows.data.block_tokens,
             .heads = 2 * shape_.kv_heads,
             .elements = shape_.head_dim,
             .seed = seed});
}

// [kv_heads, outliers], as many as a prompt of that length would have, spread evenly.
std::vector<int32_t> ShadowAttention::made_up_outliers(const Sequence& sequence) const {
  std::vector<int32_t> head;
  const std::size_t segments = segments_.fitted(sequence.row).size();
  for (std::size_t segment = 0; segment < segments && index_->wants_outliers(); ++segment) {
    const Segments::Range range = outlier_range(sequence, segment);
    const int64_t open = range.end - range.first;
    for (int64_t i = 0; i < config_.outlier_chunks; ++i) {
      const int64_t spread = range.first + i * open / std::clamp<int64_t>(open, 1, config_.outlier_chunks);
      head.push_back(i < open ? static_cast<int32_t>(spread) : -1);
    }
  }
  std::vector<int32_t> all;
  for (int64_t g = 0; g < shape_.kv_heads; ++g) all.insert(all.end(), head.begin(), head.end());
  return all;
}

int64_t ShadowAttention::close_prefill(SeqId id, int64_t layer, int64_t first, int64_t tokens) {
  Sequence& sequence = sequences_.at(id);
  const RawLayer raw = prefill_->layer();
  if (layer == 0 && first == 0) {
    sequence.tokens = raw.tokens();
    if (sequence.sparse) {
      open_sparse(sequence, raw.tokens());
    } else {
      exact_.reserve(sequence.row, raw.tokens());
    }
  }
  Segments::Range range{first, std::min(raw.tokens(), first + tokens)};
  if (sequence.sparse || sequence.turns) {
    const bool from_start = sequence.turns && first == sequence.past;
    if (from_start) range.first = 0;
    range.end = segments_.fitted_end(sequence.row, range.end, raw.tokens());
    build_factors(sequence, layer, raw, range);
    if (range.end == raw.tokens()) build_index(sequence, layer, raw, sequence.turns ? 0 : sequence.past);
  } else {
    const RawLayer part = raw.part(first, range.end - first);
    exact_.append(layer, part.k, part.v, part_of(tokens_of(sequence, raw), range));
  }
  return range.end;
}

// What costs most of closing, of whole fitted segments.
void ShadowAttention::build_factors(const Sequence& sequence, int64_t layer, const RawLayer& raw,
                                    const Segments::Range& range) {
  const RawLayer part = raw.part(range.first, range.end - range.first);
  const TokenBatch tokens = part_of(tokens_of(sequence, raw), range);
  segments_.fit(sequence.row, raw, layer, range);
  crossed_.written += values_.host_bytes(sequence.row, layer, range.first, range.end);
  keys_->append(device_.compute(), layer, {.raw = part.k_raw, .rotated = part.k}, tokens);
  values_.append(device_.compute(), layer, part.v, tokens);
}

// One pass over the keys from token `first` on, whose chunks may lie across segments: not cut. What is kept
// whole as an outlier is chosen once, from the tokens that made the sequence sparse.
void ShadowAttention::build_index(const Sequence& sequence, int64_t layer, const RawLayer& raw,
                                  int64_t first) {
  const TokenBatch tokens = tokens_of(sequence, raw);
  keep_resident(layer, raw, first, tokens);
  const int64_t chunks = raw.tokens() / config_.chunk_size;
  const bool outliers = index_->wants_outliers() && first == 0;
  TensorView min_cosine;
  if (outliers && chunks > 0) min_cosine = cosines_.get(DType::f32, {shape_.kv_heads, chunks});
  index_->build(layer, sequence.row, raw, first, tokens, min_cosine);
  if (outliers) keep_outliers(sequence, layer, raw, min_cosine);
  keep_prefixes(sequence, layer, raw);
}

// Of tokens from `begun` on, the first chunk, then the latest: in this order, since both write the ring.
void ShadowAttention::keep_resident(int64_t layer, const RawLayer& raw, int64_t begun,
                                    const TokenBatch& tokens) {
  const ResidentView view = resident_view(layer);
  const int64_t head = std::min(raw.tokens(), config_.chunk_size);
  const int64_t tail = std::max(begun, raw.tokens() - view.ring_tokens);
  for (const auto& [first, end] : {std::pair{begun, head}, std::pair{tail, raw.tokens()}}) {
    if (first >= end) continue;
    store_resident(device_.compute(), {.k = raw.k.rows(first, end - first),
                                       .v = raw.v.rows(first, end - first),
                                       .tokens = part_of(tokens, {first, end}),
                                       .resident = view});
  }
}

// The sealed chunks of least cosine of each segment, per KV head.
// Chunks of a fitted segment that may be outliers: sealed, and not the first of the sequence. Tokens that
// inherit the segment's basis belong to it here too. Empty where the prompt is that short.
Segments::Range ShadowAttention::outlier_range(const Sequence& sequence, std::size_t segment) const {
  const auto& fitted = segments_.fitted(sequence.row);
  const int64_t sealed = sealed_chunks(sequence.tokens, config_.chunk_size, config_.local_window);
  const int64_t first = std::max<int64_t>(1, fitted[segment].first / config_.chunk_size);
  const int64_t end =
      segment + 1 < fitted.size() ? std::min(sealed, fitted[segment + 1].first / config_.chunk_size) : sealed;
  return {first, std::max(first, end)};
}

void ShadowAttention::keep_outliers(const Sequence& sequence, int64_t layer, const RawLayer& raw,
                                    const TensorView& min_cosine) {
  Queue& queue = device_.compute();
  const int64_t chunks = raw.tokens() / config_.chunk_size;
  std::vector<float> cosine(static_cast<std::size_t>(shape_.kv_heads * chunks));
  queue.copy(cosine.data(), min_cosine.data, static_cast<int64_t>(cosine.size() * sizeof(float)));
  queue.synchronize();
  for (std::size_t segment = 0; segment < segments_.fitted(sequence.row).size(); ++segment) {
    const Segments::Range range = outlier_range(sequence, segment);
    std::vector<int32_t> ids(static_cast<std::size_t>(shape_.kv_heads * config_.outlier_chunks), -1);
    for (int64_t head = 0; head < shape_.kv_heads; ++head) {
      std::vector<std::pair<float, int32_t>> order;
      for (int64_t c = range.first; c < range.end; ++c) {
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

// A sequence that has grown past exact_below. Without memory for it, it stays as it was.
void ShadowAttention::turn_sparse(Sequence& sequence) {
  try {
    copy_exact_to_sparse(sequence);
  } catch (...) {
    release_sparse(sequence.row);
    throw;
  }
  exact_.release(sequence.row);
  sequence.sparse = true;
}

// Keys before and after rotation and values of one layer, and positions.
int64_t ShadowAttention::turn_bytes(int64_t tokens) const {
  return tokens * (3 * shape_.kv_width() * size_of(device_.activation_dtype()) + size_of(DType::i32));
}

// Its plain keys, turned back, make its first segments.
void ShadowAttention::copy_exact_to_sparse(Sequence& sequence) {
  Queue& queue = device_.compute();
  const int64_t tokens = sequence.tokens;
  const int64_t numbers = tokens * shape_.kv_width();
  const Buffer workspace = device_.allocate(Tier::device, Purpose::prompts, turn_bytes(tokens));
  const DType type = device_.activation_dtype();
  const auto view = [&](int which) {
    std::byte* data = workspace.data() + which * numbers * size_of(type);
    return TensorView(data, type, {tokens, shape_.kv_heads, shape_.head_dim});
  };
  std::vector<int32_t> positions(static_cast<std::size_t>(tokens));
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
  auto* on_device = reinterpret_cast<int32_t*>(workspace.data() + 3 * numbers * size_of(type));
  queue.copy(on_device, positions.data(), tokens * 4);
  queue.synchronize();

  open_sparse(sequence, tokens);
  const RawLayer raw{.k_raw = view(0), .k = view(1), .v = view(2), .positions = on_device};
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    exact_.load(layer, sequence.row, raw.k, raw.v);
    turn_back(sequence, raw);
    build_factors(sequence, layer, raw, {0, tokens});
    build_index(sequence, layer, raw, 0);
  }
  queue.synchronize();
}

void ShadowAttention::release_sparse(int64_t row) {
  index_->release(row);
  keys_->release(row);
  values_.release(row);
  segments_.release(row);
  resident_.release(row);
  slots_.release(row);
}

int64_t ShadowAttention::held_beside_values(Tier tier) const {
  return exact_.held_bytes(tier) + index_->held_bytes(tier) + keys_->held_bytes(tier) +
         segments_.held_bytes(tier) + resident_.held_bytes(tier) + slots_.held_bytes(tier);
}

// All but values.
void ShadowAttention::move(int64_t row, Tier to) {
  const int64_t before = held_beside_values(to);
  exact_.move(row, to);
  index_->move(row, to);
  keys_->move(row, to);
  segments_.move(row, to);
  resident_.move(row, to);
  slots_.move(row, to);
  (to == Tier::device ? crossed_.moved_up : crossed_.moved_down) += held_beside_values(to) - before;
}

void ShadowAttention::pause(SeqId id) {
  forget_failed_step();
  const int64_t row = sequences_.at(id).row;
  move(row, Tier::pinned_host);
  values_.pause(row);
}

// Values stay where they are: they come back as room allows.
void ShadowAttention::resume(SeqId id) {
  const int64_t row = sequences_.at(id).row;
  move(row, Tier::device);
  values_.resume(row);
}

void ShadowAttention::end(SeqId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  exact_.release(found->second.row);
  release_sparse(found->second.row);
  prefill_->forget_table(id);
  rows_.remove(id);
  sequences_.erase(found);
}

AttentionStatistics ShadowAttention::statistics() {
  AttentionStatistics now = statistics_;
  std::array<std::array<int64_t, 2>, FetchMeter::kKinds> counted{};
  device_.compute().copy(counted.data(), counters_.data(), counters_.bytes());
  device_.compute().synchronize();
  std::array<int64_t, FetchMeter::kKinds> misses{};
  for (std::size_t kind = 0; kind < FetchMeter::kKinds; ++kind) {
    const auto& [chosen, hits] = counted[kind];
    now.chosen_chunks += chosen;
    now.slot_hits += hits;
    misses[kind] = chosen - hits;
  }
  now.link = crossed_;
  now.link.read += fetched_.read(misses, values_.layer_bytes(config_.chunk_size) / shape_.kv_heads);
  now.link.moved_up += values_.moved_bytes(Tier::device);
  now.link.moved_down += values_.moved_bytes(Tier::pinned_host);
  for (const Tier tier : {Tier::device, Tier::pinned_host}) {
    now.held_bytes[static_cast<std::size_t>(tier)] = held_beside_values(tier) + values_.held_bytes(tier);
  }
  return now;
}

std::unique_ptr<Attention> make_shadow(const AttentionConfig& config, const AttentionShape& shape,
                                       std::shared_ptr<ExactPrefill> prefill, Device& device) {
  return std::make_unique<ShadowAttention>(config, shape, std::move(prefill), device);
}

}  // namespace shadowkv
