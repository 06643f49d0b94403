// One decode step: decide -> rebuild and fetch -> attend.
#include <algorithm>
#include <ranges>

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
  const int64_t outliers = resident_.count(sequence.row);
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

// A step that ended half-way may have given slots to chunks that never came into them.
void ShadowAttention::forget_failed_step() {
  for (const SeqId id : step_ids_) {
    const auto found = sequences_.find(id);
    if (found != sequences_.end()) slots_.clear(found->second.row);
  }
  step_ids_.clear();
}

void ShadowAttention::begin_step(std::span<const SeqId> ids) {
  forget_failed_step();
  std::vector<int64_t> rows[2];
  std::vector<int64_t> lengths[2];
  std::vector<int32_t> candidates;
  std::vector<int32_t> picks;
  std::vector<SeqId> sparse_ids;
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
    sparse_ids.push_back(ids[i]);
    candidates.push_back(static_cast<int32_t>(sequence.candidates));
    picks.push_back(static_cast<int32_t>(sequence.budget));
    open_chunks_ = std::max(open_chunks_, sealed_chunks(tokens, config_.chunk_size, config_.local_window));
    reranks_ = reranks_ || reranks(sequence);
    most_candidates_ = std::max(most_candidates_, sequence.candidates);
    most_picks_ = std::max(most_picks_, sequence.budget);
  }
  if (open_chunks_ > 1) open_chunks_ = round_up(open_chunks_, kChunkBucket);
  exact_step_.begin(rows[0], lengths[0]);
  sparse_step_.begin(rows[1], lengths[1]);
  sparse_rows_ = rows[1];
  cut_batch(sparse_ids);
  candidate_limits_.assign(std::move(candidates));
  pick_limits_.assign(std::move(picks));
  upload_tables();
  step_ids_.assign(ids.begin(), ids.end());
}

// By where values lay in the step: before any of them moves.
void ShadowAttention::count_link() {
  for (const OwnBatch& own : batches_) {
    for (const Part& part : own.parts) {
      for (int64_t i = part.first; i < part.first + part.count; ++i) {
        const int64_t row = sparse_rows_[static_cast<std::size_t>(i)];
        fetched_.add_step(part.over_link ? 1 : 0, values_.host_share(row));
      }
    }
  }
  for (const SeqId id : step_ids_) {
    const Sequence& sequence = sequences_.at(id);
    if (!sequence.sparse) continue;
    crossed_.written += values_.host_bytes(sequence.row, sequence.tokens, sequence.tokens + 1);
  }
}

// Of that kind of part (FetchMeter).
int64_t* ShadowAttention::counters_of(const StepPart& part) const {
  return reinterpret_cast<int64_t*>(counters_.data()) + (part.over_link ? 2 : 0);
}

void ShadowAttention::end_step() {
  count_link();
  values_.end_step(sparse_rows_);  // before anything counts: memory may end in it
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
  keys_->upload_tables(queue);
  values_.upload_tables(queue);
  segments_.upload_tables(queue);
  candidate_limits_.upload(queue);
  pick_limits_.upload(queue);
  (void)resident_view(0);
  (void)slot_view(0);
}

std::vector<int64_t> ShadowAttention::step_shape() const {
  std::vector<int64_t> shape = {sparse_step_.size(), exact_step_.size(), sparse_step_.batch().max_tokens,
                                exact_step_.batch().max_tokens, open_chunks_, most_candidates_, most_picks_,
                                reranks_ ? 1 : 0,
                                // Only with rows of both kinds do places in the batch matter.
                                exact_at_.empty() || sparse_at_.empty() ? 0 : -1};
  for (const OwnBatch& own : batches_) {
    shape.push_back(own.first);
    for (const Part& part : own.parts) shape.push_back(2 * part.first + (part.over_link ? 1 : 0));
  }
  return shape;
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
  exact_step_.rotate_queries(device_.compute(), input);
  exact_step_.rotate_keys(device_.compute(), input);
  exact_.append(input.layer, exact_step_.k(), input.v, exact_step_.tokens());
  const TensorView lse = lse_resident_.get(DType::f32, {exact_step_.size(), shape_.heads});
  exact_.attend(input.layer, exact_step_.q(), exact_step_.batch(), out, lse);
}

// The new token of every sequence is written, and what is resident attended, beside the parts' choosing and
// fetching: a chunk opens to selection only when it has left the local window, so nobody reads what is
// written.
void ShadowAttention::decode_sparse(const LayerInput& input, TensorView out) {
  const OwnBatch& own = batches_.at(static_cast<std::size_t>(input.micro_batch));
  Queue& main = *own.main;
  Queue& keeper = *own.keeper;
  keeper.wait_for(main);
  sparse_step_.rotate_keys(keeper, input, own.first);
  keep(own, input);
  sparse_step_.rotate_queries(main, input, own.first);
  keeper.wait_for(main);
  const TensorView lse = lse_resident_.get(DType::f32, {sparse_step_.size(), shape_.heads});
  resident_attention(keeper, {.q = sparse_step_.q().rows(own.first, own.count),
                              .batch = batch_of(own.first, own.count),
                              .resident = resident_view(input.layer),
                              .scale = shape_.scale(),
                              .out = out,
                              .lse = lse.rows(own.first, own.count)});
  if (open_chunks_ > 1) return attend_chosen(input.layer, own, lse, out);
  main.wait_for(keeper);  // everything is resident
}

// lse: of the whole step, as is left by the attention over what is resident, which every part waits for.
void ShadowAttention::attend_chosen(int64_t layer, const OwnBatch& own, TensorView lse, TensorView out) {
  const Selection whole = selection();
  const std::vector<Part>& parts = own.parts;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Selection part = whole.rows(parts[i].first, parts[i].count);
    score(layer, parts[i], part);
    // One part after the other, or all would be ready to fetch at once, at the end.
    if (i + 1 < parts.size()) parts[i + 1].lane.compute.wait_for(parts[i].lane.compute);
    select(layer, parts[i], part);
  }
  // Backwards: in a micro-batch what needs no link is there first.
  for (const Part& part : std::views::reverse(parts)) {
    attend(layer, part, whole.rows(part.first, part.count), *own.keeper,
           {.out = out.rows(part.first - own.first, part.count), .lse = lse.rows(part.first, part.count)});
  }
  for (const Part& part : parts) own.main->wait_for(part.lane.compute);
}

// The new tokens become part of everything that is kept.
void ShadowAttention::keep(const OwnBatch& own, const LayerInput& input) {
  Queue& queue = *own.keeper;
  TokenBatch tokens = sparse_step_.tokens();
  tokens.count = own.count;
  tokens.rows += own.first;
  tokens.positions += own.first;
  const TensorView k = sparse_step_.k().rows(own.first, own.count);
  const ResidentView resident = resident_view(input.layer);
  store_resident(queue, {.k = k, .v = input.v, .tokens = tokens, .resident = resident});
  keys_->append(queue, input.layer, {.raw = input.k, .rotated = k}, tokens);
  values_.append(queue, input.layer, input.v, tokens);
  index_->append(queue, input.layer, k, batch_of(own.first, own.count), tokens, resident);
}

// What the whole step's choice is held in.
ShadowAttention::Selection ShadowAttention::selection() {
  const int64_t b = sparse_step_.size(), g = shape_.kv_heads, h = shape_.heads;
  const int64_t proposed = std::min(most_candidates_, open_chunks_), picks = std::min(most_picks_, proposed);
  Selection s;
  s.scores = scores_.get(DType::f32, {b, h, open_chunks_});
  s.spans = spans_.get(DType::f32, {b, h, ceil_div(open_chunks_, kSpanScores), 2});
  s.candidates = candidates_.get(DType::i32, {b, g, proposed});
  s.found = found_.get(DType::i32, {b, g, proposed});
  s.missing = missing_.get(DType::i32, {b, g, proposed, 2});
  s.rebuilt = rebuilt_.get(shape_.compute, {b, g, proposed, config_.chunk_size * shape_.head_dim});
  if (reranks_) {
    s.candidate_scores = candidate_scores_.get(DType::f32, {b, h, proposed});
    s.picked = picked_.get(DType::i32, {b, g, picks});
  }
  const int64_t entries = reranks_ ? picks : proposed;
  s.assigned = assigned_.get(DType::i32, {b, g, entries});
  s.source = source_.get(DType::i32, {b, g, entries});
  s.lse = lse_scores_.get(DType::f32, {b, h});
  s.candidate_limits = candidate_limits_.upload(device_.compute());
  s.pick_limits = pick_limits_.upload(device_.compute());
  return s;
}

ShadowAttention::Selection ShadowAttention::Selection::rows(int64_t first, int64_t count) const {
  Selection s = *this;
  for (TensorView* view : {&s.scores, &s.spans, &s.lse, &s.candidates, &s.found, &s.missing, &s.rebuilt,
                           &s.candidate_scores, &s.picked, &s.assigned, &s.source}) {
    if (!view->empty()) *view = view->rows(first, count);
  }
  s.candidate_limits += first;
  s.pick_limits += first;
  return s;
}

// ---- choosing ---------------------------------------------------------------------------------------------

// Index scores of every open chunk.
void ShadowAttention::score(int64_t layer, const Part& part, const Selection& s) {
  Queue& queue = part.lane.compute;
  index_->score(queue, layer, queries_of(part), batch_of(part), s.scores, s.spans);
  if (!index_->wants_outliers()) return;
  mask_outliers(
      queue,
      {.batch = batch_of(part), .resident = resident_view(layer), .scores = s.scores, .spans = s.spans});
}

// The best candidates of each KV head -> keys of those in no slot -> (with rerank) the best of them by exact
// score -> a slot for each -> values.
void ShadowAttention::select(int64_t layer, const Part& part, const Selection& s) {
  Queue& queue = part.lane.compute;
  const DecodeBatch batch = batch_of(part);
  choose_candidates(queue, {.scores = s.scores,
                            .spans = s.spans,
                            .limits = s.candidate_limits,
                            .lse = s.lse,
                            .batch = batch,
                            .slots = slot_view(layer),
                            .forced = forced_hits(s),
                            .candidates = s.candidates,
                            .found = s.found,
                            .missing = s.missing});
  const ChunkKeys::Chunks chunks{.batch = batch, .ids = s.candidates, .found = s.found, .missing = s.missing};
  const AssignSlotsParams assign{.batch = batch,
                                 .chunks = s.candidates,
                                 .found = s.found,
                                 .picked = s.picked,
                                 .slots = slot_view(layer),
                                 .assigned = s.assigned,
                                 .source = s.source,
                                 .counters = counters_of(part)};
  if (reranks_) {
    keys_->rebuild_and_score(queue, layer, chunks, rope(), s.rebuilt,
                             {.q = queries_of(part), .held = slot_view(layer), .scores = s.candidate_scores});
    pick_candidates(queue, {.scores = s.candidate_scores,
                            .limits = s.pick_limits,
                            .lse = s.lse,
                            .forced = forced_hits(s),
                            .assign = assign});
    fetch(layer, part, s);
  } else {  // what is fetched is known before keys are rebuilt
    assign_slots(queue, assign);
    fetch(layer, part, s);
    keys_->rebuild(queue, layer, chunks, rope(), s.rebuilt);
  }
  fill_keys(queue, {.batch = batch,
                    .assigned = s.assigned,
                    .source = s.source,
                    .rebuilt = s.rebuilt,
                    .slots = slot_view(layer)});
}

ForcedHits ShadowAttention::forced_hits(const Selection& s) const {
  return {.share = forced_hit_share_, .picks = s.assigned.shape[2], .local_window = config_.local_window};
}

// Whether fetching is to leave the device to what runs beside it: where a micro-batch computes meanwhile, and
// either that takes longer than the link (rerank) or whole rows cross it as fast so (not those of int8).
bool ShadowAttention::spares_others() const {
  return batches_.size() > 1 && (reranks_ || !values_.quantized());
}

// Values of misses travel on the part's copy queue.
void ShadowAttention::fetch(int64_t layer, const Part& part, const Selection& s) {
  part.lane.copy.wait_for(part.lane.compute);
  if (part.over_link) take_link(part.lane.copy);
  gather_values(part.lane.copy, {.batch = batch_of(part),
                                 .chunks = s.candidates,
                                 .assigned = s.assigned,
                                 .source = s.source,
                                 .values = values_.view(device_.compute(), layer),
                                 .slots = slot_view(layer),
                                 .over_link = part.over_link,
                                 .spares = spares_others()});
}

// One micro-batch fetches after the other, or they would compute at the same time and fetch at the same time.
void ShadowAttention::take_link(Queue& queue) {
  if (batches_.size() < 2) return;
  if (link_ != nullptr) queue.wait_for(*link_);
  link_ = &queue;
}

// Attention over the part's slots, merged into what `resident` leaves in kept.
void ShadowAttention::attend(int64_t layer, const Part& part, const Selection& s, Queue& resident,
                             const Attended& kept) {
  Queue& queue = part.lane.compute;
  queue.wait_for(part.lane.copy);
  queue.wait_for(resident);
  slot_attention(queue, {.q = queries_of(part),
                         .batch = batch_of(part),
                         .assigned = s.assigned,
                         .slots = slot_view(layer),
                         .scale = shape_.scale(),
                         .out = kept.out,
                         .lse = kept.lse});
}

}  // namespace shadowkv
