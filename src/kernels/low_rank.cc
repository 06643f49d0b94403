#include "kernels/sparse_checks.h"
#include "kernels/twins.h"

namespace shadowkv {
namespace {

void check_rebuild(const RebuildKeysParams& params) {
  check_shape("rebuild_keys", "out", params.out,
              {{"sequences", params.batch.size},
               {"kv_heads"},
               {"candidates"},
               {"chunk * head_dim", params.chunk * params.head_dim}});
  const int64_t heads = params.out.shape[1];
  check_missing("rebuild_keys", params.missing, params.batch.size, heads, params.out.shape[2]);
  check_number_dtype("rebuild_keys", "out", params.out.dtype);
  check_number_dtype("rebuild_keys", "basis", params.basis.dtype);
  check_quantized("rebuild_keys", "factors", params.factors);
  const int64_t turned = params.rope.rotary_dim;
  require(params.chunk > 0 && params.rank > 0 && params.rank <= heads * params.head_dim,
          "rebuild_keys: chunks of {} tokens at rank {} were asked for, expected at least 1 and at most the "
          "width",
          params.chunk, params.rank);
  require(turned >= 0 && turned % 2 == 0 && turned <= params.head_dim,
          "rebuild_keys: {} of {} numbers turn, expected an even number of at most all", turned,
          params.head_dim);
}

}  // namespace

void column_mean(Queue& queue, const ColumnMeanParams& params) {
  check_shape("column_mean", "x", params.x, {{"tokens"}, {"width"}});
  check_activation("column_mean", "x", params.x, queue);
  require(params.x.shape[0] > 0, "column_mean: x is {}, expected at least one token", params.x.describe());
  check_shape("column_mean", "mean", params.mean, {{"width", params.x.shape[1]}});
  check_dtype("column_mean", "mean", params.mean, DType::f32);
  SHADOWKV_DISPATCH(column_mean, queue, params);
}

void fit_basis(Queue& queue, const FitBasisParams& params) {
  check_shape("fit_basis", "x", params.x, {{"tokens"}, {"width"}});
  check_activation("fit_basis", "x", params.x, queue);
  const int64_t width = params.x.shape[1];
  check_shape("fit_basis", "mean", params.mean, {{"width", width}});
  check_dtype("fit_basis", "mean", params.mean, DType::f32);
  check_shape("fit_basis", "basis", params.basis, {{"rank"}, {"width", width}});
  check_number_dtype("fit_basis", "basis", params.basis.dtype);
  require(params.basis.shape[0] > 0 && params.basis.shape[0] <= width,
          "fit_basis: rank {} was asked for, expected 1 to the width of {}", params.basis.shape[0], width);
  SHADOWKV_DISPATCH(fit_basis, queue, params);
}

void project_keys(Queue& queue, const ProjectKeysParams& params) {
  check_shape("project_keys", "x", params.x, {{"tokens", params.tokens.count}, {"kv_heads"}, {"head_dim"}});
  check_activation("project_keys", "x", params.x, queue);
  require(params.rank > 0 && params.rank <= params.x.row_elements(),
          "project_keys: rank {} was asked for, expected 1 to the width of {}", params.rank,
          params.x.describe());
  check_number_dtype("project_keys", "basis", params.basis.dtype);
  check_quantized("project_keys", "factors", params.factors);
  if (params.tokens.count == 0) return;
  SHADOWKV_DISPATCH(project_keys, queue, params);
}

void rebuild_keys(Queue& queue, const RebuildKeysParams& params) {
  check_rebuild(params);
  if (params.batch.size == 0) return;
  SHADOWKV_DISPATCH(rebuild_keys, queue, params);
}

void gather_keys(Queue& queue, const GatherKeysParams& params) {
  check_shape("gather_keys", "out", params.out,
              {{"sequences", params.batch.size},
               {"kv_heads"},
               {"candidates"},
               {"chunk * head_dim", params.chunk * params.head_dim}});
  check_missing("gather_keys", params.missing, params.batch.size, params.out.shape[1], params.out.shape[2]);
  check_number_dtype("gather_keys", "out", params.out.dtype);
  require(params.keys.dtype == params.out.dtype, "gather_keys: keys are {}, expected the type of out, {}",
          name_of(params.keys.dtype), params.out.describe());
  if (params.out.elements() == 0) return;
  SHADOWKV_DISPATCH(gather_keys, queue, params);
}

void rebuild_and_score(Queue& queue, const RebuildAndScoreParams& params) {
  check_rebuild(params.rebuild);
  check_candidate_scores("rebuild_and_score", params.score(), queue);
  require(params.rebuild.out.dtype == params.held.dtype && params.rebuild.chunk == params.held.chunk,
          "rebuild_and_score: chunks of {} tokens are rebuilt as {}, expected the slots' {} as {}",
          params.rebuild.chunk, name_of(params.rebuild.out.dtype), params.held.chunk,
          name_of(params.held.dtype));
  if (params.scores.elements() == 0) return;
  SHADOWKV_DISPATCH(rebuild_and_score, queue, params);
}

}  // namespace shadowkv
