#include "kernels/operands.h"
#include "kernels/twins.h"

namespace shadowkv {
namespace {

void check_storage(const char* op, const char* name, const QuantizedView& view) {
  check_dtype(op, name, view.data.dtype, {DType::f32, DType::bf16, DType::i8});
  if (view.data.dtype == DType::i8) check_dtype(op, name, view.scales.dtype, {DType::bf16});
}

void check_groups(const char* op, int64_t heads, int64_t kv_heads) {
  require(kv_heads >= 1 && heads % kv_heads == 0, "{}: {} query heads do not share {} KV heads evenly", op,
          heads, kv_heads);
}

}  // namespace

void prefill_attention(Queue& queue, const PrefillAttentionParams& params) {
  const char* op = "prefill_attention";
  check_activation(op, queue, "q", params.q, {{"tokens"}, {"heads"}, {"head_dim"}});
  const Extent tokens{"tokens", params.q.shape[0]};
  const Extent heads{"heads", params.q.shape[1]};
  const Extent head_dim{"head_dim", params.q.shape[2]};
  check_activation(op, queue, "k", params.k, {{"positions"}, {"kv_heads"}, head_dim});
  const Extent positions{"positions", params.k.shape[0]};
  const Extent kv_heads{"kv_heads", params.k.shape[1]};
  check_activation(op, queue, "v", params.v, {positions, kv_heads, head_dim});
  check_activation(op, queue, "out", params.out, {tokens, heads, head_dim});
  check_groups(op, heads.size, kv_heads.size);
  require(params.first_position >= 0 && positions.size - tokens.size >= params.first_position,
          "{}: {} queries from position {} need as many keys, found {}", op, tokens.size,
          params.first_position, positions.size);
  SHADOWKV_DISPATCH(prefill_attention, queue, params);
}

void store_rows(Queue& queue, const StoreRowsParams& params) {
  const char* op = "store_rows";
  check_activation(op, queue, "x", params.x, {{"tokens", params.tokens.count}, {"heads"}, {"numbers"}});
  check_storage(op, "to", params.to);
  SHADOWKV_DISPATCH(store_rows, queue, params);
}

void load_rows(Queue& queue, const LoadRowsParams& params) {
  const char* op = "load_rows";
  check_activation(op, queue, "out", params.out, {{"tokens"}, {"heads"}, {"numbers"}});
  check_storage(op, "from", params.from);
  require(params.row >= 0 && params.first >= 0, "{}: row {}, first token {} are negative", op, params.row,
          params.first);
  SHADOWKV_DISPATCH(load_rows, queue, params);
}

void paged_attention(Queue& queue, const PagedAttentionParams& params) {
  const char* op = "paged_attention";
  const Extent sequences{"sequences", params.batch.size};
  check_activation(op, queue, "q", params.q, {sequences, {"heads"}, {"head_dim"}});
  const Extent heads{"heads", params.q.shape[1]};
  check_activation(op, queue, "out", params.out, {sequences, heads, {"head_dim", params.q.shape[2]}});
  check_tensor(op, "lse", params.lse, DType::f32, {sequences, heads});
  check_groups(op, heads.size, params.kv_heads);
  check_storage(op, "keys", params.keys);
  check_storage(op, "values", params.values);
  SHADOWKV_DISPATCH(paged_attention, queue, params);
}

}  // namespace shadowkv
