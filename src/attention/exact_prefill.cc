#include "attention/exact_prefill.h"

#include <numeric>

#include "base/check.h"
#include "kernels/kernels.h"

namespace shadowkv {
ExactPrefill::ExactPrefill(const AttentionShape& shape, Device& device) : shape_(shape), device_(device) {
  const std::vector<float> frequencies = frequency_tables(shape.rope);
  const auto bytes = static_cast<int64_t>(frequencies.size() * sizeof(float));
  inv_freq_ = device.allocate(Tier::device, Purpose::tables, bytes);
  device.compute().copy(inv_freq_.data(), frequencies.data(), bytes);
}

RopeView ExactPrefill::rope(const int32_t* by_row) const {
  return {.inv_freq = reinterpret_cast<const float*>(inv_freq_.data()),
          .rotary_dim = shape_.rope.rotary_dim,
          .interleaved = shape_.rope.interleaved,
          .by_row = by_row};
}

RopeView ExactPrefill::rope_of(int64_t table) const {
  RopeView view = rope(nullptr);
  view.inv_freq += table * (view.rotary_dim / 2);
  return view;
}

void ExactPrefill::set_table(SeqId sequence, int64_t table) {
  if (table == 0) return forget_table(sequence);
  tables_[sequence] = table;
}

int64_t ExactPrefill::table(SeqId sequence) const {
  const auto found = tables_.find(sequence);
  return found == tables_.end() ? 0 : found->second;
}

int64_t ExactPrefill::workspace_bytes(int64_t prompt_tokens) const {
  return prompt_tokens * (3 * token_bytes() + size_of(DType::i32));
}

void ExactPrefill::begin(int64_t prompt_tokens) {
  tokens_ = 0;
  if (prompt_tokens <= capacity_) return;
  end();
  workspace_ = device_.allocate(Tier::device, Purpose::prompts, workspace_bytes(prompt_tokens));
  capacity_ = prompt_tokens;
  std::vector<int32_t> positions(static_cast<std::size_t>(capacity_));
  std::iota(positions.begin(), positions.end(), 0);
  std::byte* to = workspace_.data() + 3 * capacity_ * token_bytes();
  device_.compute().copy(to, positions.data(), capacity_ * static_cast<int64_t>(sizeof(int32_t)));
  device_.compute().synchronize();  // the host copy dies here
}

TensorView ExactPrefill::keys_values(int which) const {
  std::byte* data = workspace_.data() + which * capacity_ * token_bytes();
  return TensorView(data, device_.activation_dtype(), {capacity_, shape_.kv_heads, shape_.head_dim});
}

RawLayer ExactPrefill::layer() const {
  return past(tokens_);
}

RawLayer ExactPrefill::past(int64_t tokens) const {
  require(tokens <= capacity_, "{} tokens of a layer were asked for, there is room for {}", tokens,
          capacity_);
  const std::byte* positions = workspace_.data() + 3 * capacity_ * token_bytes();
  return {.k_raw = keys_values(0).rows(0, tokens),
          .k = keys_values(1).rows(0, tokens),
          .v = keys_values(2).rows(0, tokens),
          .positions = reinterpret_cast<const int32_t*>(positions)};
}

void ExactPrefill::run(const LayerInput& input, TensorView out) {
  Queue& queue = device_.compute();
  const int64_t count = input.q.shape[0];
  require(input.first_position + count <= capacity_, "a prefill slice ends at token {}, the prompt has {}",
          input.first_position + count, capacity_);
  tokens_ = input.first_position + count;
  const TensorView k_raw = keys_values(0).rows(input.first_position, count);
  const TensorView k = keys_values(1).rows(input.first_position, count);
  queue.copy(k_raw.data, input.k.data, input.k.bytes());
  queue.copy(keys_values(2).rows(input.first_position, count).data, input.v.data, input.v.bytes());
  const RawLayer raw = layer();
  const TensorView positions(const_cast<int32_t*>(raw.positions + input.first_position), DType::i32, {count});
  const RopeView rope = rope_of(table(input.sequence));
  rotate(queue, {.x = k_raw, .positions = positions, .rope = rope, .out = k});
  rotate(queue, {.x = input.q, .positions = positions, .rope = rope, .out = input.q});
  prefill_attention(queue, {.q = input.q,
                            .k = raw.k,
                            .v = raw.v,
                            .first_position = input.first_position,
                            .scale = shape_.scale(),
                            .out = out});
}

void ExactPrefill::end() {
  workspace_ = Buffer();
  capacity_ = 0;
  tokens_ = 0;
}

}  // namespace shadowkv
