// Checks that the ops on low-rank keys, index, selection and slots share. Each throws InvalidInput.
#pragma once

#include <string_view>

#include "base/check.h"
#include "base/device.h"
#include "base/tensor.h"
#include "kernels/kernels.h"

namespace shadowkv {

// Activations are float32 on the CPU, float32 or bfloat16 on a GPU.
inline void check_activation(std::string_view op, std::string_view name, const TensorView& x,
                             const Queue& queue) {
  const bool fits = x.dtype == DType::f32 || (queue.kind() == DeviceKind::cuda && x.dtype == DType::bf16);
  require(fits, "{}: {} is {}, expected float32{}", op, name, x.describe(),
          queue.kind() == DeviceKind::cuda ? " or bfloat16" : "");
}

inline void check_dtype(std::string_view op, std::string_view name, const TensorView& x, DType wanted) {
  require(x.dtype == wanted, "{}: {} is {}, expected {}", op, name, x.describe(), name_of(wanted));
}

inline void check_number_dtype(std::string_view op, std::string_view name, DType dtype) {
  require(dtype == DType::f32 || dtype == DType::bf16, "{}: {} is {}, expected float32 or bfloat16", op, name,
          name_of(dtype));
}

inline void check_quantized(std::string_view op, std::string_view name, const QuantizedView& view) {
  const DType dtype = view.data.dtype;
  require(dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::i8,
          "{}: {} are stored as {}, expected float32, bfloat16 or int8", op, name, name_of(dtype));
  require(dtype != DType::i8 || view.scales.dtype == DType::bf16,
          "{}: scales of {} are {}, expected bfloat16", op, name, name_of(view.scales.dtype));
}

// Chunks must not be cut by the blocks of a view.
inline void check_whole_chunks(std::string_view op, std::string_view name, const PagedView& view,
                               int64_t chunk) {
  require(chunk > 0 && view.block_tokens > 0 && view.block_tokens % chunk == 0,
          "{}: blocks of {} tokens of {} cut chunks of {}, expected a multiple", op, view.block_tokens, name,
          chunk);
}

inline void check_groups(std::string_view op, int64_t query_heads, int64_t kv_heads) {
  require(kv_heads > 0 && query_heads > 0 && query_heads % kv_heads == 0,
          "{}: {} query heads do not divide among {} KV heads", op, query_heads, kv_heads);
}

// spans: of scores [B, H, C], or empty.
inline void check_spans(std::string_view op, const TensorView& scores, const TensorView& spans) {
  if (spans.empty()) return;
  check_shape(op, "spans", spans,
              {{"sequences", scores.shape[0]},
               {"heads", scores.shape[1]},
               {"spans", ceil_div(scores.shape[2], kSpanScores)},
               {"numbers", 2}});
  check_dtype(op, "spans", spans, DType::f32);
}

inline void check_ids(std::string_view op, std::string_view name, const TensorView& ids, int64_t sequences,
                      int64_t heads, int64_t count) {
  check_shape(op, name, ids, {{"sequences", sequences}, {"kv_heads", heads}, {"entries", count}});
  check_dtype(op, name, ids, DType::i32);
}

inline void check_missing(std::string_view op, const TensorView& missing, int64_t sequences, int64_t heads,
                          int64_t candidates) {
  check_shape(op, "missing", missing,
              {{"sequences", sequences}, {"kv_heads", heads}, {"candidates", candidates}, {"numbers", 2}});
  check_dtype(op, "missing", missing, DType::i32);
}

inline void check_candidate_scores(std::string_view op, const CandidateScoresParams& params,
                                   const Queue& queue) {
  const SlotView& slots = params.slots;
  check_shape(op, "q", params.q, {{"sequences", params.batch.size}, {"heads"}, {"head_dim", slots.head_dim}});
  check_activation(op, "q", params.q, queue);
  check_groups(op, params.q.shape[1], slots.kv_heads);
  check_ids(op, "chunks", params.chunks, params.batch.size, slots.kv_heads, -1);
  const int64_t candidates = params.chunks.shape[2];
  check_ids(op, "found", params.found, params.batch.size, slots.kv_heads, candidates);
  check_shape(op, "rebuilt", params.rebuilt,
              {{"sequences", params.batch.size},
               {"kv_heads", slots.kv_heads},
               {"candidates", candidates},
               {"chunk * head_dim", slots.chunk * slots.head_dim}});
  check_number_dtype(op, "rebuilt", params.rebuilt.dtype);
  check_shape(op, "scores", params.scores,
              {{"sequences", params.batch.size}, {"heads", params.q.shape[1]}, {"candidates", candidates}});
  check_dtype(op, "scores", params.scores, DType::f32);
  check_number_dtype(op, "slots", slots.dtype);
}

}  // namespace shadowkv
