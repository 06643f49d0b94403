// One decode step: decide -> rebuild and fetch -> attend.
#include <algorithm>

#include "attention/shadow.h"
#include "base/check.h"

namespace shadowkv {
namespace {

// Steps whose longest sequences have as many open chunks to within this have the same shapes.
constexpr int64_t kChunkBucket = 128;

}  // namespace

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

// For one more token, in the form that the sequence then has.
void ShadowAttention::make_room(Sequence& sequence) {
  if (!sequence.sparse && sequence.tokens + 1 >= config_.exact_below) turn_sparse(sequence);
  if (sequence.sparse) {
    reserve_sparse(sequence.row, sequence.tokens + 1);
  } else {
    exact_.reserve(sequence.row, sequence.tokens + 1);
  }
}

void ShadowAttention::begin_step(std::span<const SeqId> ids) {
  std::vector<int64_t> rows[2];
  std::vector<int64_t> lengths[2];
  std::vector<int32_t> candidates;
  std::vector<int32_t> picks;
  sparse_at_.clear();
  exact_at_.clear();
  open_chunks_ = most_candidates_ = most_picks_ = 0;
  reranks_ = false;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    Sequence& sequence = sequences_.at(ids[i]);
    make_room(sequence);
    const bool sparse = sequence.sparse;
    const int64_t tokens = sequence.tokens + 1;
    rows[sparse].push_back(sequence.row);
    lengths[sparse].push_back(tokens);
    (sparse ? sparse_at_ : exact_at_).push_back(static_cast<int64_t>(i));
    if (!sparse) continue;
    candidates.push_back(static_cast<int32_t>(sequence.candidates));
    picks.push_back(static_cast<int32_t>(sequence.budget));
    const int64_t sealed = sealed_chunks(tokens, config_.chunk_size, config_.local_window);
    open_chunks_ = std::max(open_chunks_, sealed);
    reranks_ = reranks_ || std::min(sequence.candidates, sealed - 1) > sequence.budget;
    most_candidates_ = std::max(most_candidates_, sequence.candidates);
    most_picks_ = std::max(most_picks_, sequence.budget);
  }
  if (open_chunks_ > 1) open_chunks_ = round_up(open_chunks_, kChunkBucket);
  exact_step_.begin(rows[0], lengths[0]);
  sparse_step_.begin(rows[1], lengths[1]);
  candidate_limits_.assign(std::move(candidates));
  pick_limits_.assign(std::move(picks));
  upload_tables();
  step_ids_.assign(ids.begin(), ids.end());
}

void ShadowAttention::end_step() {
  for (const SeqId id : step_ids_) {
    Sequence& sequence = sequences_.at(id);
    ++sequence.tokens;
    count_step(sequence);
  }
  step_ids_.clear();
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
          exact_step_.batch().max_tokens, open_chunks_, most_candidates_, most_picks_, reranks_ ? 1 : 0,
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
void ShadowAttention::propose_candidates(int64_t layer) {
  Queue& queue = device_.compute();
  const int64_t sequences = sparse_step_.size();
  const TensorView scores = scores_.get(DType::f32, {sequences, shape_.heads, open_chunks_});
  const TensorView ranking = ranking_.get(DType::f32, {sequences, shape_.kv_heads, open_chunks_});
  index_->score(layer, sparse_step_.q(), sparse_step_.batch(), scores);
  if (index_->wants_outliers()) {
    mask_outliers(queue, {.batch = sparse_step_.batch(), .resident = resident_view(layer), .scores = scores});
  }
  rank_groups(queue, {.scores = scores, .ranking = ranking});
  const int64_t proposed = std::min(most_candidates_, open_chunks_);
  selection_.candidates = candidates_.get(DType::i32, {sequences, shape_.kv_heads, proposed});
  top_k(queue,
        {.ranking = ranking, .limits = candidate_limits_.upload(queue), .chosen = selection_.candidates});
}

// Exact scores of the candidates' keys -> the best of them.
void ShadowAttention::rerank(int64_t layer, int64_t picks) {
  Queue& queue = device_.compute();
  const int64_t sequences = sparse_step_.size();
  const int64_t proposed = selection_.candidates.shape[2];
  const TensorView scores = candidate_scores_.get(DType::f32, {sequences, shape_.heads, proposed});
  const TensorView ranking = candidate_ranking_.get(DType::f32, {sequences, shape_.kv_heads, proposed});
  candidate_scores(queue, {.q = sparse_step_.q(),
                           .batch = sparse_step_.batch(),
                           .chunks = selection_.candidates,
                           .found = selection_.found,
                           .rebuilt = selection_.rebuilt,
                           .slots = slot_view(layer),
                           .scale = shape_.scale(),
                           .scores = scores});
  rank_groups(queue, {.scores = scores, .ranking = ranking});
  selection_.picked = picked_.get(DType::i32, {sequences, shape_.kv_heads, picks});
  top_k(queue, {.ranking = ranking, .limits = pick_limits_.upload(queue), .chosen = selection_.picked});
}

void ShadowAttention::force(TensorView candidates, TensorView picked) {
  force_choice(device_.compute(), {.batch = sparse_step_.batch(),
                                   .chunk = config_.chunk_size,
                                   .local_window = config_.local_window,
                                   .hit_share = forced_hit_share_,
                                   .candidates = candidates,
                                   .picked = picked});
}

// Candidates -> rebuilt keys -> (with rerank) the best of them by exact score -> a slot for each.
void ShadowAttention::select(int64_t layer) {
  Queue& queue = device_.compute();
  propose_candidates(layer);
  const int64_t sequences = sparse_step_.size();
  const int64_t proposed = selection_.candidates.shape[2];
  const int64_t picks = std::min(most_picks_, proposed);
  const bool forced = forced_hit_share_ >= 0;
  if (forced) {
    force(selection_.candidates,
          reranks_ ? picked_.get(DType::i32, {sequences, shape_.kv_heads, picks}) : TensorView());
  }
  selection_.found = found_.get(DType::i32, {sequences, shape_.kv_heads, proposed});
  selection_.rebuilt = rebuilt_.get(
      shape_.compute, {sequences, shape_.kv_heads, proposed, config_.chunk_size * shape_.head_dim});
  find_slots(queue, {.batch = sparse_step_.batch(),
                     .chunks = selection_.candidates,
                     .slots = slot_view(layer),
                     .found = selection_.found});
  keys_.rebuild(layer, sparse_step_.batch(), rope(), selection_.candidates, selection_.found,
                selection_.rebuilt);
  selection_.picked = TensorView();
  if (reranks_) rerank(layer, picks);
  if (reranks_ && forced) force(selection_.candidates, selection_.picked);  // the same candidates again
  assign(layer, reranks_ ? picks : proposed);
}

void ShadowAttention::assign(int64_t layer, int64_t picks) {
  const int64_t sequences = sparse_step_.size();
  selection_.assigned = assigned_.get(DType::i32, {sequences, shape_.kv_heads, picks});
  selection_.source = source_.get(DType::i32, {sequences, shape_.kv_heads, picks});
  assign_slots(device_.compute(), {.batch = sparse_step_.batch(),
                                   .chunks = selection_.candidates,
                                   .found = selection_.found,
                                   .picked = selection_.picked,
                                   .slots = slot_view(layer),
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

}  // namespace shadowkv
