// The twins behind kernels.h: one function per op and device, same name, same parameters. Only kernels/*.cc
// (checks and dispatch) and the twins themselves include this.
#pragma once

#include "kernels/kernels.h"

#define SHADOWKV_FOR_EACH_OP(X)                  \
  X(embed, EmbedParams)                          \
  X(rms_norm, RmsNormParams)                     \
  X(matmul, MatmulParams)                        \
  X(matmul_group, MatmulGroupParams)             \
  X(silu_mul, SiluMulParams)                     \
  X(rotate, RotateParams)                        \
  X(prefill_attention, PrefillAttentionParams)   \
  X(store_rows, StoreRowsParams)                 \
  X(load_rows, LoadRowsParams)                   \
  X(paged_attention, PagedAttentionParams)       \
  X(column_mean, ColumnMeanParams)               \
  X(fit_basis, FitBasisParams)                   \
  X(project_keys, ProjectKeysParams)             \
  X(rebuild_keys, RebuildKeysParams)             \
  X(gather_keys, GatherKeysParams)               \
  X(sketch_encode, SketchEncodeParams)           \
  X(sketch_scores, SketchScoresParams)           \
  X(chunk_means, ChunkMeansParams)               \
  X(update_means, UpdateMeansParams)             \
  X(landmark_scores, LandmarkScoresParams)       \
  X(mask_outliers, MaskOutliersParams)           \
  X(chunk_bounds, ChunkBoundsParams)             \
  X(update_bounds, UpdateBoundsParams)           \
  X(bound_scores, BoundScoresParams)             \
  X(rank_groups, RankGroupsParams)               \
  X(top_k, TopKParams)                           \
  X(choose_groups, ChooseGroupsParams)           \
  X(find_slots, FindSlotsParams)                 \
  X(candidate_scores, CandidateScoresParams)     \
  X(rebuild_and_score, RebuildAndScoreParams)    \
  X(assign_slots, AssignSlotsParams)             \
  X(fill_keys, FillKeysParams)                   \
  X(choose_candidates, ChooseCandidatesParams)   \
  X(pick_candidates, PickCandidatesParams)       \
  X(gather_values, GatherValuesParams)           \
  X(store_resident, StoreResidentParams)         \
  X(store_outliers, StoreOutliersParams)         \
  X(resident_attention, ResidentAttentionParams) \
  X(slot_attention, SlotAttentionParams)         \
  X(change_logits, ChangeLogitsParams)           \
  X(sample_tokens, SampleTokensParams)           \
  X(rank_tokens, RankTokensParams)               \
  X(randomize_rows, RandomizeRowsParams)         \
  X(read_memory, ReadMemoryParams)               \
  X(gather_pieces, GatherPiecesParams)

#define SHADOWKV_DECLARE_TWIN(name, Params) void name(Queue& queue, const Params& params);

namespace shadowkv::cpu {
SHADOWKV_FOR_EACH_OP(SHADOWKV_DECLARE_TWIN)
}  // namespace shadowkv::cpu

namespace shadowkv::cuda {
SHADOWKV_FOR_EACH_OP(SHADOWKV_DECLARE_TWIN)
}  // namespace shadowkv::cuda

#undef SHADOWKV_DECLARE_TWIN

namespace shadowkv {

// What an op clock tells runs of one op apart by: the size of its weight matrix; of a group, all rows.
template <typename Params>
[[nodiscard]] OpRun op_run(const char* op, const Params& /*params*/) {
  return {.op = op};
}
inline OpRun op_run(const char* op, const MatmulParams& params) {
  return {.op = op, .rows = params.weight.shape[0], .columns = params.weight.shape[1]};
}
inline OpRun op_run(const char* op, const MatmulGroupParams& params) {
  OpRun run{.op = op, .rows = 0, .columns = params.x.shape[1]};
  for (const auto& product : params.products) run.rows += product.weight.shape[0];
  return run;
}

template <typename Params>
void run_twin(void (*twin)(Queue&, const Params&), const char* op, Queue& queue, const Params& params) {
  OpClock* clock = queue.device().op_clock();
  if (clock != nullptr) clock->before(queue);
  twin(queue, params);
  if (clock != nullptr) clock->after(queue, op_run(op, params));
}

// Runs the twin of the queue's device.
#ifdef SHADOWKV_CUDA
#define SHADOWKV_DISPATCH(name, queue, params) \
  run_twin((queue).kind() == DeviceKind::cuda ? &cuda::name : &cpu::name, #name, queue, params)
#else
#define SHADOWKV_DISPATCH(name, queue, params) run_twin(&cpu::name, #name, queue, params)
#endif

}  // namespace shadowkv
