#include "kernels/sparse_checks.h"
#include "kernels/twins.h"

namespace shadowkv {
namespace {

void check_ring(std::string_view op, const ResidentView& resident) {
  check_number_dtype(op, "resident storage", resident.dtype);
  require(resident.chunk > 0 && resident.ring_tokens >= resident.local_window + resident.chunk,
          "{}: a ring of {} tokens was given, expected at least local window {} + chunk {}", op,
          resident.ring_tokens, resident.local_window, resident.chunk);
}

void check_attention(std::string_view op, const TensorView& q, const TensorView& out, const TensorView& lse,
                     const Queue& queue) {
  check_activation(op, "q", q, queue);
  check_shape(op, "out", out, {{"sequences", q.shape[0]}, {"heads", q.shape[1]}, {"head_dim", q.shape[2]}});
  check_activation(op, "out", out, queue);
  check_shape(op, "lse", lse, {{"sequences", q.shape[0]}, {"heads", q.shape[1]}});
  check_dtype(op, "lse", lse, DType::f32);
}

}  // namespace

void store_resident(Queue& queue, const StoreResidentParams& params) {
  const ResidentView& resident = params.resident;
  for (const auto& [name, x] : {std::pair{"k", &params.k}, std::pair{"v", &params.v}}) {
    check_shape(
        "store_resident", name, *x,
        {{"tokens", params.tokens.count}, {"kv_heads", resident.kv_heads}, {"head_dim", resident.head_dim}});
    check_activation("store_resident", name, *x, queue);
  }
  check_ring("store_resident", resident);
  if (params.tokens.count == 0) return;
  SHADOWKV_DISPATCH(store_resident, queue, params);
}

void store_outliers(Queue& queue, const StoreOutliersParams& params) {
  const ResidentView& resident = params.resident;
  check_shape("store_outliers", "k", params.k,
              {{"tokens"}, {"kv_heads", resident.kv_heads}, {"head_dim", resident.head_dim}});
  check_activation("store_outliers", "k", params.k, queue);
  check_shape(
      "store_outliers", "v", params.v,
      {{"tokens", params.k.shape[0]}, {"kv_heads", resident.kv_heads}, {"head_dim", resident.head_dim}});
  check_activation("store_outliers", "v", params.v, queue);
  check_shape("store_outliers", "chunks", params.chunks,
              {{"one", 1}, {"kv_heads", resident.kv_heads}, {"outliers"}});
  check_dtype("store_outliers", "chunks", params.chunks, DType::i32);
  check_ring("store_outliers", resident);
  require(params.first_entry >= 0, "store_outliers: entry {} was asked for, expected 0 or more",
          params.first_entry);
  if (params.chunks.elements() == 0) return;
  SHADOWKV_DISPATCH(store_outliers, queue, params);
}

void resident_attention(Queue& queue, const ResidentAttentionParams& params) {
  const ResidentView& resident = params.resident;
  check_shape("resident_attention", "q", params.q,
              {{"sequences", params.batch.size}, {"heads"}, {"head_dim", resident.head_dim}});
  check_groups("resident_attention", params.q.shape[1], resident.kv_heads);
  check_attention("resident_attention", params.q, params.out, params.lse, queue);
  check_ring("resident_attention", resident);
  if (params.batch.size == 0) return;
  SHADOWKV_DISPATCH(resident_attention, queue, params);
}

void slot_attention(Queue& queue, const SlotAttentionParams& params) {
  const SlotView& slots = params.slots;
  check_shape("slot_attention", "q", params.q,
              {{"sequences", params.batch.size}, {"heads"}, {"head_dim", slots.head_dim}});
  check_groups("slot_attention", params.q.shape[1], slots.kv_heads);
  check_attention("slot_attention", params.q, params.out, params.lse, queue);
  check_ids("slot_attention", "assigned", params.assigned, params.batch.size, slots.kv_heads, -1);
  check_number_dtype("slot_attention", "slots", slots.dtype);
  if (params.batch.size == 0) return;
  SHADOWKV_DISPATCH(slot_attention, queue, params);
}

}  // namespace shadowkv
