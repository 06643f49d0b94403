#include "kernels/sketch_math.h"
#include "kernels/sparse_checks.h"
#include "kernels/twins.h"

namespace shadowkv {
namespace {

void check_sketch(std::string_view op, const SketchView& sketch) {
  require(sketch.bits == 1 || sketch.bits == 2,
          "{}: a sketch of {} bits a number was asked for, expected 1 or 2", op, sketch.bits);
  require(sketch.scales.dtype == DType::bf16, "{}: sketch scales are {}, expected bfloat16", op,
          name_of(sketch.scales.dtype));
  require(sketch.centre.dtype == DType::f32, "{}: sketch centres are {}, expected float32", op,
          name_of(sketch.centre.dtype));
}

// Shapes of q, scores and spans; returns nothing, throws InvalidInput.
void check_scores(std::string_view op, const TensorView& q, const DecodeBatch& batch, int64_t kv_heads,
                  const TensorView& scores, const TensorView& spans, const Queue& queue) {
  check_shape(op, "q", q, {{"sequences", batch.size}, {"heads"}, {"head_dim"}});
  check_activation(op, "q", q, queue);
  check_groups(op, q.shape[1], kv_heads);
  check_shape(op, "scores", scores, {{"sequences", batch.size}, {"heads", q.shape[1]}, {"chunks"}});
  check_dtype(op, "scores", scores, DType::f32);
  check_spans(op, scores, spans);
}

}  // namespace

void sketch_encode(Queue& queue, const SketchEncodeParams& params) {
  check_shape("sketch_encode", "k", params.k, {{"tokens", params.tokens.count}, {"kv_heads"}, {"head_dim"}});
  check_activation("sketch_encode", "k", params.k, queue);
  check_sketch("sketch_encode", params.sketch);
  if (params.tokens.count == 0) return;
  SHADOWKV_DISPATCH(sketch_encode, queue, params);
}

void sketch_scores(Queue& queue, const SketchScoresParams& params) {
  check_scores("sketch_scores", params.q, params.batch, params.kv_heads, params.scores, params.spans, queue);
  check_sketch("sketch_scores", params.sketch);
  check_whole_chunks("sketch_scores", "the sketch", params.sketch.words, params.chunk);
  check_whole_chunks("sketch_scores", "the sketch's scales", params.sketch.scales, params.chunk);
  check_whole_chunks("sketch_scores", "the sketch's centres", params.sketch.centre, params.chunk);
  if (params.batch.size == 0) return;
  SHADOWKV_DISPATCH(sketch_scores, queue, params);
}

void chunk_means(Queue& queue, const ChunkMeansParams& params) {
  check_shape("chunk_means", "k", params.k, {{"tokens"}, {"kv_heads"}, {"head_dim"}});
  check_activation("chunk_means", "k", params.k, queue);
  check_quantized("chunk_means", "means", params.means);
  require(params.chunk > 0 && params.first_chunk >= 0, "chunk_means: chunks of {} tokens from chunk {} on",
          params.chunk, params.first_chunk);
  if (!params.min_cosine.empty()) {
    check_shape("chunk_means", "min_cosine", params.min_cosine,
                {{"kv_heads", params.k.shape[1]}, {"chunks", params.k.shape[0] / params.chunk}});
    check_dtype("chunk_means", "min_cosine", params.min_cosine, DType::f32);
  }
  SHADOWKV_DISPATCH(chunk_means, queue, params);
}

void update_means(Queue& queue, const UpdateMeansParams& params) {
  check_quantized("update_means", "means", params.means);
  check_number_dtype("update_means", "the ring", params.resident.dtype);
  if (params.batch.size == 0) return;
  SHADOWKV_DISPATCH(update_means, queue, params);
}

void landmark_scores(Queue& queue, const LandmarkScoresParams& params) {
  check_scores("landmark_scores", params.q, params.batch, params.kv_heads, params.scores, params.spans,
               queue);
  check_quantized("landmark_scores", "means", params.means);
  require(params.chunk > 0, "landmark_scores: chunks of {} tokens were asked for", params.chunk);
  if (params.batch.size == 0) return;
  SHADOWKV_DISPATCH(landmark_scores, queue, params);
}

void mask_outliers(Queue& queue, const MaskOutliersParams& params) {
  check_shape("mask_outliers", "scores", params.scores,
              {{"sequences", params.batch.size}, {"heads"}, {"chunks"}});
  check_dtype("mask_outliers", "scores", params.scores, DType::f32);
  check_spans("mask_outliers", params.scores, params.spans);
  check_groups("mask_outliers", params.scores.shape[1], params.resident.kv_heads);
  if (params.batch.size == 0) return;
  SHADOWKV_DISPATCH(mask_outliers, queue, params);
}

void chunk_bounds(Queue& queue, const ChunkBoundsParams& params) {
  check_shape("chunk_bounds", "k", params.k, {{"tokens"}, {"kv_heads"}, {"head_dim"}});
  check_activation("chunk_bounds", "k", params.k, queue);
  check_number_dtype("chunk_bounds", "the bounds", params.bounds.dtype);
  require(params.chunk > 0 && params.first_chunk >= 0, "chunk_bounds: chunks of {} tokens from chunk {} on",
          params.chunk, params.first_chunk);
  SHADOWKV_DISPATCH(chunk_bounds, queue, params);
}

void update_bounds(Queue& queue, const UpdateBoundsParams& params) {
  check_number_dtype("update_bounds", "the bounds", params.bounds.dtype);
  check_number_dtype("update_bounds", "the ring", params.resident.dtype);
  if (params.batch.size == 0) return;
  SHADOWKV_DISPATCH(update_bounds, queue, params);
}

void bound_scores(Queue& queue, const BoundScoresParams& params) {
  check_scores("bound_scores", params.q, params.batch, params.kv_heads, params.scores, params.spans, queue);
  check_number_dtype("bound_scores", "the bounds", params.bounds.dtype);
  require(params.chunk > 0, "bound_scores: chunks of {} tokens were asked for", params.chunk);
  if (params.batch.size == 0) return;
  SHADOWKV_DISPATCH(bound_scores, queue, params);
}

}  // namespace shadowkv
