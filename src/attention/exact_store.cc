#include "attention/exact_store.h"

#include "attention/fill.h"

namespace shadowkv {
namespace {

// Small enough that a short prompt wastes little, large enough that a block's rows of one head stream well.
constexpr int64_t kBlockTokens = 64;

int64_t row_bytes(const AttentionShape& shape, DType type) {
  return shape.head_dim * size_of(type) + (type == DType::i8 ? size_of(DType::bf16) : 0);
}

}  // namespace

// A block holds, per layer: keys [kv_heads, tokens, head_dim], values likewise, and with int8 the scales of
// both.
ExactStore::ExactStore(const AttentionShape& shape, DType type, Device& device)
    : shape_(shape),
      type_(type),
      device_(device),
      store_(device, {.block_tokens = kBlockTokens,
                      .token_bytes = shape.layers * 2 * shape.kv_heads * row_bytes(shape, type),
                      .purpose = Purpose::keys_values}) {}

QuantizedView ExactStore::view(int64_t layer, Part part) {
  QuantizedView view;
  view.data = store_.view(device_.compute(), 0, false);
  view.scales = view.data;
  const int64_t data_bytes = shape_.kv_heads * kBlockTokens * shape_.head_dim * size_of(type_);
  const int64_t layer_bytes = kBlockTokens * 2 * shape_.kv_heads * row_bytes(shape_, type_);
  view.data.dtype = type_;
  view.data.token_bytes = shape_.head_dim * size_of(type_);
  view.data.head_offset = kBlockTokens * view.data.token_bytes;
  view.data.offset = layer * layer_bytes + part * data_bytes;
  view.scales.dtype = DType::bf16;
  view.scales.token_bytes = size_of(DType::bf16);
  view.scales.head_offset = kBlockTokens * view.scales.token_bytes;
  view.scales.offset =
      layer * layer_bytes + 2 * data_bytes + part * shape_.kv_heads * view.scales.head_offset;
  return view;
}

void ExactStore::add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const {
  std::vector<int64_t> arrays;
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    const auto rows = static_cast<std::size_t>(2 * shape_.kv_heads);
    arrays.insert(arrays.end(), rows, shape_.head_dim * size_of(type_));
    if (type_ == DType::i8) arrays.insert(arrays.end(), rows, size_of(DType::bf16));
  }
  store_.add_memory(row, tokens, arrays, to);
}

void ExactStore::fill(int64_t row, int64_t tokens, uint64_t seed) {
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    for (const Part part : {keys, values}) {
      fill_rows(device_.compute(), view(layer, part),
                {.row = row,
                 .tokens = tokens,
                 .heads = shape_.kv_heads,
                 .elements = shape_.head_dim,
                 .seed = seed + static_cast<uint64_t>(2 * layer + part)});
    }
  }
}

void ExactStore::append(int64_t layer, const TensorView& k, const TensorView& v, const TokenBatch& tokens) {
  store_rows(device_.compute(), {.x = k, .tokens = tokens, .to = view(layer, keys)});
  store_rows(device_.compute(), {.x = v, .tokens = tokens, .to = view(layer, values)});
}

void ExactStore::load(int64_t layer, int64_t row, TensorView k, TensorView v) {
  load_rows(device_.compute(), {.from = view(layer, keys), .row = row, .first = 0, .out = k});
  load_rows(device_.compute(), {.from = view(layer, values), .row = row, .first = 0, .out = v});
}

void ExactStore::attend(int64_t layer, const TensorView& q, const DecodeBatch& batch, TensorView out,
                        TensorView lse) {
  paged_attention(device_.compute(), {.q = q,
                                      .batch = batch,
                                      .keys = view(layer, keys),
                                      .values = view(layer, values),
                                      .kv_heads = shape_.kv_heads,
                                      .scale = shape_.scale(),
                                      .out = out,
                                      .lse = lse});
}

}  // namespace shadowkv
