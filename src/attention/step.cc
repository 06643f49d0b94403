#include "attention/step.h"

#include <algorithm>

#include "base/check.h"

namespace shadowkv {
namespace {

// Steps whose longest sequences agree to within this have the same shapes.
constexpr int64_t kTokenBucket = 1024;

}  // namespace

int64_t RowMap::add(SeqId id) {
  require(!rows_.contains(id), "sequence {} has begun already; end it first", id);
  int64_t row = 0;
  const auto taken = [&](int64_t r) {
    return std::any_of(rows_.begin(), rows_.end(), [r](const auto& entry) { return entry.second == r; });
  };
  while (taken(row)) ++row;
  rows_[id] = row;
  return row;
}

int64_t RowMap::at(SeqId id) const {
  const auto found = rows_.find(id);
  require(found != rows_.end(), "sequence {} is unknown; begin it first", id);
  return found->second;
}

void RowTables::set(int64_t row, int64_t table) {
  if (prefill_.shape().rope.tables() == 1) return;
  if (row >= tables_.size()) tables_.resize(row + 1);
  tables_.set(row, static_cast<int32_t>(table));
}

RopeView RowTables::rope(Queue& queue) {
  return prefill_.rope(tables_.size() == 0 ? nullptr : tables_.upload(queue));
}

Step::Step(const ExactPrefill& prefill, RowTables& tables, Device& device)
    : shape_(prefill.shape()),
      device_(device),
      tables_(tables),
      rows_(device),
      lengths_(device),
      positions_(device),
      q_scratch_(device),
      k_scratch_(device) {}

void Step::begin(std::span<const int64_t> rows, std::span<const int64_t> tokens) {
  std::vector<int32_t> row_ids;
  std::vector<int32_t> lengths;
  std::vector<int32_t> positions;
  int64_t longest = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    row_ids.push_back(static_cast<int32_t>(rows[i]));
    lengths.push_back(static_cast<int32_t>(tokens[i]));
    positions.push_back(static_cast<int32_t>(tokens[i] - 1));
    longest = std::max(longest, tokens[i]);
  }
  rows_.assign(std::move(row_ids));
  lengths_.assign(std::move(lengths));
  positions_.assign(std::move(positions));
  Queue& queue = device_.compute();
  const auto size = static_cast<int64_t>(rows.size());
  const int32_t* row_table = rows_.upload(queue);
  batch_ = {.size = size,
            .rows = row_table,
            .tokens = lengths_.upload(queue),
            .max_tokens = round_up(longest, kTokenBucket)};
  tokens_ = {.count = size, .rows = row_table, .positions = positions_.upload(queue)};
  rope_ = tables_.rope(queue);
}

void Step::rotate(Queue& queue, const TensorView& x, const TensorView& out, int64_t first) const {
  const int64_t count = x.shape[0];
  const TensorView positions(const_cast<int32_t*>(tokens_.positions) + first, DType::i32, {count});
  shadowkv::rotate(queue, {.x = x,
                           .positions = positions,
                           .rope = rope_,
                           .out = out.rows(first, count),
                           .rows = tokens_.rows + first});
}

void Step::rotate_queries(Queue& queue, const LayerInput& input, int64_t first) {
  q_ = q_scratch_.get(input.q.dtype, {size(), shape_.heads, shape_.head_dim});
  rotate(queue, input.q, q_, first);
}

void Step::rotate_keys(Queue& queue, const LayerInput& input, int64_t first) {
  k_ = k_scratch_.get(input.k.dtype, {size(), shape_.kv_heads, shape_.head_dim});
  rotate(queue, input.k, k_, first);
}

}  // namespace shadowkv
