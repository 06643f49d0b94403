#include "attention/value_store.h"

#include <algorithm>

#include "attention/fill.h"
#include "attention/methods.h"
#include "attention/shadow_index.h"

namespace shadowkv {
namespace {

// Runs of half a megabyte and more keep a gather near the link's speed; steps bound what a short tail wastes.
constexpr int64_t kRunTokens = 4096;
constexpr int64_t kGrowthTokens = 512;

int64_t whole_chunks(int64_t tokens, int64_t chunk) {
  return std::max(chunk, tokens / chunk * chunk);
}

}  // namespace

ValueStore::ValueStore(const AttentionConfig& config, const AttentionShape& shape, Device& device)
    : shape_(shape),
      device_(device),
      type_(storage_dtype(config.values, shape.compute)),
      runs_(device, {.block_tokens = whole_chunks(kRunTokens, config.chunk_size),
                     .token_bytes = shape.head_dim * size_of(type_),
                     .lists = shape.layers * shape.kv_heads,
                     .growth_tokens = kGrowthTokens,
                     .purpose = Purpose::values,
                     .prefer_device = config.placement == Placement::spill,
                     .spill_to_host = true}) {
  if (type_ == DType::i8) {
    scales_.emplace(device,
                    PagedStoreConfig{.block_tokens = block_tokens_for(config.chunk_size),
                                     .token_bytes = shape.layers * shape.kv_heads * size_of(DType::bf16),
                                     .purpose = Purpose::values});
  }
}

void ValueStore::reserve(int64_t row, int64_t tokens) {
  runs_.reserve(row, tokens);
  if (scales_) scales_->reserve(row, tokens);
}

void ValueStore::release(int64_t row) {
  runs_.release(row);
  if (scales_) scales_->release(row);
}

void ValueStore::share(int64_t from, int64_t to, int64_t tokens) {
  runs_.share(from, to, tokens);
  if (scales_) scales_->share(from, to, tokens);
}

void ValueStore::pause(int64_t row) {
  runs_.move(row, Tier::pinned_host);
  if (scales_) scales_->move(row, Tier::pinned_host);
}

void ValueStore::resume(int64_t row) {
  if (scales_) scales_->move(row, Tier::device);
}

int64_t ValueStore::held_bytes(int64_t row, Tier tier) const {
  return runs_.held_bytes(row, tier) + (scales_ ? scales_->held_bytes(row, tier) : 0);
}

int64_t ValueStore::held_bytes(Tier tier) const {
  return runs_.held_bytes(tier) + (scales_ ? scales_->held_bytes(tier) : 0);
}

double ValueStore::host_share(int64_t row) const {
  const auto host = static_cast<double>(runs_.held_bytes(row, Tier::pinned_host));
  const auto device = static_cast<double>(runs_.held_bytes(row, Tier::device));
  return host > 0 ? host / (host + device) : 0;
}

QuantizedView ValueStore::view(Queue& queue, int64_t layer) {
  QuantizedView view;
  view.data = runs_.view(queue, layer * shape_.kv_heads, true);
  view.data.dtype = type_;
  view.data.token_bytes = shape_.head_dim * size_of(type_);
  if (scales_) {
    view.scales = scales_->view(queue, 0, false);
    view.scales.dtype = DType::bf16;
    view.scales.token_bytes = size_of(DType::bf16);
    view.scales.head_offset = scales_->config().block_tokens * size_of(DType::bf16);
    view.scales.offset = layer * shape_.kv_heads * view.scales.head_offset;
  }
  return view;
}

void ValueStore::add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const {
  const int64_t value_bytes = shape_.head_dim * size_of(type_);
  runs_.add_memory(row, tokens, {&value_bytes, 1}, to);
  if (!scales_) return;
  const auto heads = static_cast<std::size_t>(shape_.layers * shape_.kv_heads);
  scales_->add_memory(row, tokens, std::vector<int64_t>(heads, size_of(DType::bf16)), to);
}

void ValueStore::fill(int64_t row, int64_t tokens, uint64_t seed) {
  Queue& queue = device_.compute();
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    fill_rows(queue, view(queue, layer),
              {.row = row,
               .tokens = tokens,
               .heads = shape_.kv_heads,
               .elements = shape_.head_dim,
               .seed = seed + static_cast<uint64_t>(layer)});
  }
}

void ValueStore::append(Queue& queue, int64_t layer, const TensorView& v, const TokenBatch& tokens) {
  store_rows(queue, {.x = v, .tokens = tokens, .to = view(queue, layer)});
}

}  // namespace shadowkv
