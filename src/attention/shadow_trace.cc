// What a layer of a decode step attended, read back for evaluation.
#include <algorithm>

#include "attention/shadow.h"
#include "attention/trace.h"
#include "base/check.h"

namespace shadowkv {
namespace {

// Where `place` stands in `places`; -1: nowhere.
int64_t index_of(const std::vector<int64_t>& places, int64_t place) {
  const auto found = std::find(places.begin(), places.end(), place);
  return found == places.end() ? -1 : found - places.begin();
}

std::vector<int32_t> read_ids(Queue& queue, const std::byte* from, int64_t count) {
  std::vector<int32_t> ids(static_cast<std::size_t>(count));
  queue.copy(ids.data(), from, count * size_of(DType::i32));
  queue.synchronize();
  return ids;
}

}  // namespace

LayerTrace ShadowAttention::trace(int64_t layer, SeqId id) {
  const auto found = std::find(step_ids_.begin(), step_ids_.end(), id);
  require(found != step_ids_.end(), "sequence {} is not in the step", id);
  const Sequence& sequence = sequences_.at(id);
  const int64_t place = found - step_ids_.begin(), tokens = sequence.tokens + 1;
  if (!sequence.sparse) {
    const TensorView q = exact_step_.q().rows(index_of(exact_at_, place), 1);
    return trace_exact(exact_, shape_, device_, q, layer, sequence.row, tokens);
  }
  const int64_t row = index_of(sparse_at_, place);
  LayerTrace trace{.q = read_numbers(device_.compute(), sparse_step_.q().rows(row, 1)),
                   .attended = chosen(layer, sequence, row),
                   .k = {},
                   .v = {}};
  const int64_t chunk = config_.chunk_size;
  const int64_t ring = sealed_chunks(tokens, chunk, config_.local_window) * chunk;
  for (std::vector<int32_t>& positions : trace.attended) {
    append_positions(positions, 0, std::min(tokens, chunk));
    append_positions(positions, ring, tokens - ring);
    std::sort(positions.begin(), positions.end());
  }
  trace.key = key_error_of(layer, sequence, row);
  return trace;
}

// Of the step's token; row: among the sparse ones.
KeyError ShadowAttention::key_error_of(int64_t layer, const Sequence& sequence, int64_t row) {
  const TensorView k = sparse_step_.k().rows(row, 1);
  const Buffer memory = device_.allocate(Tier::device, Purpose::prompts, k.bytes());
  const TensorView raw(memory.data(), k.dtype, {1, shape_.kv_heads, shape_.head_dim});
  turn_back(sequence, {.k_raw = raw, .k = k, .v = {}, .positions = sparse_step_.tokens().positions + row});
  return keys_->error_of(layer, {.row = sequence.row, .position = sequence.tokens, .raw = raw});
}

// Positions of outlier chunks and of those that the layer picked, by KV head; row: among the sparse ones.
std::vector<std::vector<int32_t>> ShadowAttention::chosen(int64_t layer, const Sequence& sequence,
                                                          int64_t row) {
  const int64_t chunk = config_.chunk_size;
  std::vector<std::vector<int32_t>> positions(static_cast<std::size_t>(shape_.kv_heads));
  for (int64_t head = 0; head < shape_.kv_heads; ++head) {
    std::vector<int32_t> chunks = outliers_of(layer, sequence.row, head);
    if (open_chunks_ > 1) picks_of(row, head, chunks);
    for (const int32_t one : chunks)
      append_positions(positions[static_cast<std::size_t>(head)], one * chunk, chunk);
  }
  return positions;
}

std::vector<int32_t> ShadowAttention::outliers_of(int64_t layer, int64_t row, int64_t head) {
  std::byte* const region = resident_.data(row);
  const auto count = static_cast<int32_t>(resident_.count(row));
  ResidentView view = resident_view(layer);  // of tables on the host, which find the same memory
  view.regions = &region;
  view.outliers = &count;
  std::vector<int32_t> ids =
      read_ids(device_.compute(), reinterpret_cast<const std::byte*>(view.outlier_chunks(0, head)), count);
  ids.erase(std::remove_if(ids.begin(), ids.end(), [](int32_t id) { return id < 0; }), ids.end());
  return ids;
}

// Appends the chunks that stand in a slot for this step.
void ShadowAttention::picks_of(int64_t row, int64_t head, std::vector<int32_t>& chunks) {
  const Selection s = selection();
  const auto read = [&](const TensorView& all) {
    const TensorView own = all.rows(row, 1);
    const int64_t count = own.elements() / shape_.kv_heads;
    return read_ids(device_.compute(), own.data + head * count * size_of(DType::i32), count);
  };
  const std::vector<int32_t> candidates = read(s.candidates), assigned = read(s.assigned);
  const std::vector<int32_t> picked = s.picked.empty() ? std::vector<int32_t>() : read(s.picked);
  for (std::size_t i = 0; i < assigned.size(); ++i) {
    if (assigned[i] < 0) continue;
    chunks.push_back(candidates.at(picked.empty() ? i : static_cast<std::size_t>(picked[i])));
  }
}

}  // namespace shadowkv
