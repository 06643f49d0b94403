// The twins behind kernels.h: one function per op and device, same name, same parameters. Only kernels/*.cc
// (checks and dispatch) and the twins themselves include this.
#pragma once

#include "kernels/kernels.h"

#define SHADOWKV_FOR_EACH_OP(X)                  \
  X(embed, EmbedParams)                          \
  X(rms_norm, RmsNormParams)                     \
  X(matmul, MatmulParams)                        \
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
  X(sketch_encode, SketchEncodeParams)           \
  X(sketch_scores, SketchScoresParams)           \
  X(chunk_means, ChunkMeansParams)               \
  X(update_means, UpdateMeansParams)             \
  X(landmark_scores, LandmarkScoresParams)       \
  X(mask_outliers, MaskOutliersParams)           \
  X(rank_groups, RankGroupsParams)               \
  X(top_k, TopKParams)                           \
  X(choose_groups, ChooseGroupsParams)           \
  X(find_slots, FindSlotsParams)                 \
  X(candidate_scores, CandidateScoresParams)     \
  X(assign_slots, AssignSlotsParams)             \
  X(fill_keys, FillKeysParams)                   \
  X(gather_values, GatherValuesParams)           \
  X(store_resident, StoreResidentParams)         \
  X(store_outliers, StoreOutliersParams)         \
  X(resident_attention, ResidentAttentionParams) \
  X(slot_attention, SlotAttentionParams)         \
  X(merge_attention, MergeAttentionParams)       \
  X(pick_likeliest, PickLikeliestParams)         \
  X(randomize_rows, RandomizeRowsParams)         \
  X(force_choice, ForceChoiceParams)

#define SHADOWKV_DECLARE_TWIN(name, Params) void name(Queue& queue, const Params& params);

namespace shadowkv::cpu {
SHADOWKV_FOR_EACH_OP(SHADOWKV_DECLARE_TWIN)
}  // namespace shadowkv::cpu

namespace shadowkv::cuda {
SHADOWKV_FOR_EACH_OP(SHADOWKV_DECLARE_TWIN)
}  // namespace shadowkv::cuda

#undef SHADOWKV_DECLARE_TWIN

namespace shadowkv {

// Runs the twin of the queue's device.
#ifdef SHADOWKV_CUDA
#define SHADOWKV_DISPATCH(name, queue, params) \
  ((queue).kind() == DeviceKind::cuda ? cuda::name(queue, params) : cpu::name(queue, params))
#else
#define SHADOWKV_DISPATCH(name, queue, params) cpu::name(queue, params)
#endif

}  // namespace shadowkv
