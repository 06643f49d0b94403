// How a sequence reads on: tokens that follow what it holds attend to all of it, nothing selected away. A
// layer's past is brought back before its first slice: keys rebuilt from their factors, a bounded piece at a
// time, values from wherever they lie, what is resident as it is. The new tokens then join what is held as
// generated ones do, but for segments that they begin and bring enough into.
#include <algorithm>
#include <utility>

#include "attention/shadow.h"
#include "base/check.h"

namespace shadowkv {
namespace {

constexpr int64_t kPieceTokens = 16384;  // of the past, rebuilt at a time

}  // namespace

// ---- begin and end ----------------------------------------------------------------------------------------

void ShadowAttention::begin_append(SeqId id, int64_t tokens) {
  forget_failed_step();
  Sequence& sequence = sequences_.at(id);
  const int64_t row = sequence.row, past = sequence.tokens, all = past + tokens;
  const bool turns = !sequence.sparse && all >= config_.exact_below;
  if (turns) {
    try {
      open_sparse(sequence, all);
    } catch (...) {
      release_sparse(row);
      throw;
    }
  } else if (sequence.sparse) {
    const int64_t bytes = resident_.held_bytes(row, Tier::device);
    Buffer before = device_.allocate(Tier::device, Purpose::keys_values, bytes);
    reserve_sparse(row, all);
    segments_.extend(row, past, all);
    device_.compute().copy(before.data(), resident_.data(row), bytes);
    sequence.resident_before = std::move(before);
  } else {
    exact_.reserve(row, all);
  }
  sequence.prefixes.clear();
  sequence.past = past;
  sequence.tokens = all;
  sequence.turns = turns;
}

void ShadowAttention::end_append(SeqId id) {
  Sequence& sequence = sequences_.at(id);
  if (std::exchange(sequence.turns, false)) {
    exact_.release(sequence.row);
    sequence.sparse = true;
  }
  device_.compute().synchronize();  // the buffer may die
  sequence.resident_before = Buffer();
  sequence.past = 0;
}

// What lies behind the past is written over by whatever comes next; only the ring holds it in the places of
// other tokens.
void ShadowAttention::abandon_append(SeqId id) {
  Sequence& sequence = sequences_.at(id);
  sequence.tokens = std::exchange(sequence.past, 0);
  if (std::exchange(sequence.turns, false)) return release_sparse(sequence.row);
  if (!sequence.sparse) return;
  segments_.truncate(sequence.row, sequence.tokens);
  const Buffer before = std::exchange(sequence.resident_before, Buffer());
  device_.compute().copy(resident_.data(sequence.row), before.data(), before.bytes());
  device_.compute().synchronize();
}

Footprint ShadowAttention::append_bytes(SeqId id, int64_t tokens) const {
  const Sequence& sequence = sequences_.at(id);
  const int64_t past = sequence.tokens, all = past + tokens;
  if (!sequence.sparse && all < config_.exact_below) {
    return {.device = exact_.bytes_for(all) - exact_.bytes_for(past)};
  }
  if (!sequence.sparse) return sparse_footprint(all, all, std::max(all, sequence.plan.max_tokens));
  Footprint more;
  const auto grows = [&](const auto& bytes_for) { return bytes_for(all) - bytes_for(past); };
  more.device = grows([&](int64_t n) { return index_->bytes_for(n); }) +
                grows([&](int64_t n) { return keys_->bytes_for(n); }) +
                grows([&](int64_t n) { return values_.scale_bytes_for(n); }) +
                segments_.bytes_for(past, all) + resident_.held_bytes(sequence.row, Tier::device) +
                piece_bytes(past);
  (config_.placement == Placement::spill ? more.either : more.pinned_host) =
      grows([&](int64_t n) { return values_.run_bytes_for(n); });
  return more;
}

// Keys of the past that are rebuilt at a time.
int64_t ShadowAttention::piece_bytes(int64_t past) const {
  return std::min(past, kPieceTokens) * shape_.kv_width() * size_of(device_.activation_dtype());
}

// ---- a layer's past ---------------------------------------------------------------------------------------

void ShadowAttention::prefill(const LayerInput& input, TensorView out) {
  const Sequence& sequence = sequences_.at(input.sequence);
  if (sequence.past > 0 && input.first_position == sequence.past) load_past(sequence, input.layer);
  prefill_->run(input, out);
}

void ShadowAttention::load_past(const Sequence& sequence, int64_t layer) {
  const RawLayer past = prefill_->past(sequence.past);
  if (sequence.sparse) {
    rebuild_past(sequence, layer, past.k);
    crossed_.read += values_.host_bytes(sequence.row, layer, 0, sequence.past);
    load_rows(
        device_.compute(),
        {.from = values_.view(device_.compute(), layer), .row = sequence.row, .first = 0, .out = past.v});
    return load_resident(sequence, layer, past);
  }
  exact_.load(layer, sequence.row, past.k, past.v);
  if (sequence.turns) turn_back(sequence, past);
}

// Keys as they were before rotation.
void ShadowAttention::turn_back(const Sequence& sequence, const RawLayer& raw) {
  const TensorView positions(const_cast<int32_t*>(raw.positions), DType::i32, {raw.tokens()});
  rotate(device_.compute(), {.x = raw.k,
                             .positions = positions,
                             .rope = tables_.rope_of(sequence.row),
                             .inverse = true,
                             .out = raw.k_raw});
}

// First token that the ring of a sequence of that length holds and the first chunk does not.
int64_t ShadowAttention::ring_start(int64_t tokens) const {
  const int64_t ring = config_.local_window + config_.chunk_size;
  return std::min(tokens, std::max(config_.chunk_size, tokens - ring));
}

// All chunks between the first one and those that lie in the ring as a whole.
void ShadowAttention::rebuild_past(const Sequence& sequence, int64_t layer, const TensorView& k) {
  const int64_t chunk = config_.chunk_size, end = ceil_div(ring_start(sequence.past), chunk);
  const int64_t most = std::max<int64_t>(1, kPieceTokens / chunk);
  past_row_.assign({static_cast<int32_t>(sequence.row)});
  for (int64_t first = 1; first < end; first += most) {
    const int64_t count = std::min(most, end - first);
    rebuild_chunks(sequence, layer, first, k.rows(first * chunk, count * chunk));
  }
}

// out [chunks * chunk_size, kv_heads, head_dim]: keys come by head, and are then put by token.
void ShadowAttention::rebuild_chunks(const Sequence& sequence, int64_t layer, int64_t first,
                                     const TensorView& out) {
  Queue& queue = device_.compute();
  const int64_t tokens = out.shape[0], chunks = tokens / config_.chunk_size, heads = shape_.kv_heads;
  std::vector<int32_t> listed;
  listed.reserve(static_cast<std::size_t>(2 * heads * chunks));
  for (int64_t g = 0; g < heads; ++g) {
    for (int64_t i = 0; i < chunks; ++i) {
      listed.push_back(static_cast<int32_t>(i));
      listed.push_back(static_cast<int32_t>(first + i));
    }
  }
  past_chunks_.assign(std::move(listed));
  auto* missing = const_cast<int32_t*>(past_chunks_.upload(queue));
  // Whole keys come in the type that they are kept in.
  const DType type = config_.method == Method::shadow ? out.dtype : shape_.compute;
  const TensorView keys = past_keys_.get(type, {1, heads, chunks, config_.chunk_size * shape_.head_dim});
  const DecodeBatch batch{.size = 1, .rows = past_row_.upload(queue), .max_tokens = sequence.past};
  const TensorView all(missing, DType::i32, {1, heads, chunks, 2});
  keys_->rebuild(queue, layer, {.batch = batch, .ids = {}, .found = {}, .missing = all}, rope(), keys);
  past_block_.assign({keys.data});
  QuantizedView by_head;
  by_head.data.table = past_block_.upload(queue);
  by_head.data.block_tokens = tokens;
  by_head.data.head_offset = tokens * shape_.head_dim * size_of(keys.dtype);
  by_head.data.token_bytes = shape_.head_dim * size_of(keys.dtype);
  by_head.data.dtype = keys.dtype;
  load_rows(queue, {.from = by_head, .row = 0, .first = 0, .out = out});
}

// The first chunk and what the ring holds, which begins anywhere in it.
void ShadowAttention::load_resident(const Sequence& sequence, int64_t layer, const RawLayer& past) {
  QuantizedView rows = resident_rows(sequence, layer);
  const ResidentView resident = resident_view(layer);
  const int64_t base = config_.chunk_size * (1 + resident_.count(sequence.row)), all = sequence.past;
  const auto load = [&](int64_t token, int64_t entry, int64_t count) {
    if (count <= 0) return;
    for (const TensorView& to : {past.k, past.v}) {
      QuantizedView part = rows;
      if (to.data == past.v.data) part.data.offset += shape_.kv_heads * rows.data.head_offset;
      load_rows(device_.compute(),
                {.from = part, .row = sequence.row, .first = entry, .out = to.rows(token, count)});
    }
  };
  load(0, 0, std::min(all, config_.chunk_size));
  const int64_t start = ring_start(all), ring = resident.ring_tokens;
  const int64_t until_wrap = std::min(all, round_up(start + 1, ring)) - start;
  load(start, base + start % ring, until_wrap);
  load(start + until_wrap, base, all - start - until_wrap);
}

}  // namespace shadowkv
