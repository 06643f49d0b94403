#include "kernels/sparse_checks.h"
#include "kernels/twins.h"

namespace shadowkv {
namespace {

void check_ranking(std::string_view op, const TensorView& scores, const TensorView& ranking) {
  check_shape(op, "scores", scores, {{"sequences"}, {"heads"}, {"entries"}});
  check_dtype(op, "scores", scores, DType::f32);
  check_shape(op, "ranking", ranking,
              {{"sequences", scores.shape[0]}, {"kv_heads"}, {"entries", scores.shape[2]}});
  check_dtype(op, "ranking", ranking, DType::f32);
  if (scores.elements() > 0) check_groups(op, scores.shape[1], ranking.shape[1]);
}

void check_chosen(std::string_view op, const TensorView& ranking, const TensorView& chosen) {
  check_shape(op, "chosen", chosen,
              {{"sequences", ranking.shape[0]}, {"kv_heads", ranking.shape[1]}, {"chosen"}});
  check_dtype(op, "chosen", chosen, DType::i32);
}

void check_choose(std::string_view op, const ChooseGroupsParams& params) {
  const TensorView& scores = params.scores;
  check_shape(op, "scores", scores, {{"sequences"}, {"heads"}, {"entries"}});
  check_dtype(op, "scores", scores, DType::f32);
  check_spans(op, scores, params.spans);
  check_shape(op, "lse", params.lse, {{"sequences", scores.shape[0]}, {"heads", scores.shape[1]}});
  check_dtype(op, "lse", params.lse, DType::f32);
  check_shape(op, "chosen", params.chosen, {{"sequences", scores.shape[0]}, {"kv_heads"}, {"chosen"}});
  check_dtype(op, "chosen", params.chosen, DType::i32);
  if (scores.elements() > 0) check_groups(op, scores.shape[1], params.chosen.shape[1]);
}

void check_find(std::string_view op, const FindSlotsParams& params) {
  const int64_t sequences = params.batch.size, heads = params.slots.kv_heads;
  check_ids(op, "chunks", params.chunks, sequences, heads, -1);
  check_ids(op, "found", params.found, sequences, heads, params.chunks.shape[2]);
  check_missing(op, params.missing, sequences, heads, params.chunks.shape[2]);
}

void check_assign(std::string_view op, const AssignSlotsParams& params) {
  const int64_t sequences = params.batch.size, heads = params.slots.kv_heads;
  check_ids(op, "chunks", params.chunks, sequences, heads, -1);
  check_ids(op, "found", params.found, sequences, heads, params.chunks.shape[2]);
  if (!params.picked.empty()) check_ids(op, "picked", params.picked, sequences, heads, -1);
  const int64_t entries = params.picked.empty() ? params.chunks.shape[2] : params.picked.shape[2];
  check_ids(op, "assigned", params.assigned, sequences, heads, entries);
  check_ids(op, "source", params.source, sequences, heads, entries);
  require(params.counters != nullptr, "{}: counters are missing, expected two of int64", op);
}

void check_forced(std::string_view op, const ForcedHits& forced, int64_t candidates) {
  if (forced.share < 0) return;
  require(forced.share <= 1, "{}: a hit share of {} was asked for; it must lie in [0, 1]", op, forced.share);
  require(forced.picks > 0 && candidates % forced.picks == 0,
          "{}: {} candidates are not a multiple of {} picks", op, candidates, forced.picks);
}

}  // namespace

void rank_groups(Queue& queue, const RankGroupsParams& params) {
  check_ranking("rank_groups", params.scores, params.ranking);
  if (params.scores.elements() == 0) return;
  SHADOWKV_DISPATCH(rank_groups, queue, params);
}

void top_k(Queue& queue, const TopKParams& params) {
  check_shape("top_k", "ranking", params.ranking, {{"sequences"}, {"kv_heads"}, {"entries"}});
  check_dtype("top_k", "ranking", params.ranking, DType::f32);
  check_chosen("top_k", params.ranking, params.chosen);
  if (params.chosen.elements() == 0) return;
  SHADOWKV_DISPATCH(top_k, queue, params);
}

void choose_groups(Queue& queue, const ChooseGroupsParams& params) {
  check_choose("choose_groups", params);
  if (params.chosen.elements() == 0) return;
  SHADOWKV_DISPATCH(choose_groups, queue, params);
}

void choose_candidates(Queue& queue, const ChooseCandidatesParams& params) {
  check_choose("choose_candidates", params.choose());
  check_find("choose_candidates", params.find());
  check_forced("choose_candidates", params.forced, params.candidates.shape[2]);
  if (params.candidates.elements() == 0) return;
  SHADOWKV_DISPATCH(choose_candidates, queue, params);
}

void pick_candidates(Queue& queue, const PickCandidatesParams& params) {
  check_choose("pick_candidates", params.choose());
  check_assign("pick_candidates", params.assign);
  check_shape("pick_candidates", "scores", params.scores,
              {{"sequences"}, {"heads"}, {"candidates", params.assign.chunks.shape[2]}});
  check_forced("pick_candidates", params.forced, params.assign.chunks.shape[2]);
  if (params.assign.picked.elements() == 0) return;
  SHADOWKV_DISPATCH(pick_candidates, queue, params);
}

void find_slots(Queue& queue, const FindSlotsParams& params) {
  check_find("find_slots", params);
  if (params.found.elements() == 0) return;
  SHADOWKV_DISPATCH(find_slots, queue, params);
}

void candidate_scores(Queue& queue, const CandidateScoresParams& params) {
  check_candidate_scores("candidate_scores", params, queue);
  if (params.scores.elements() == 0) return;
  SHADOWKV_DISPATCH(candidate_scores, queue, params);
}

void assign_slots(Queue& queue, const AssignSlotsParams& params) {
  check_assign("assign_slots", params);
  if (params.assigned.elements() == 0) return;
  SHADOWKV_DISPATCH(assign_slots, queue, params);
}

void fill_keys(Queue& queue, const FillKeysParams& params) {
  const int64_t sequences = params.batch.size, heads = params.slots.kv_heads;
  check_ids("fill_keys", "assigned", params.assigned, sequences, heads, -1);
  check_ids("fill_keys", "source", params.source, sequences, heads, params.assigned.shape[2]);
  check_shape("fill_keys", "rebuilt", params.rebuilt,
              {{"sequences", sequences},
               {"kv_heads", heads},
               {"candidates"},
               {"chunk * head_dim", params.slots.chunk * params.slots.head_dim}});
  check_dtype("fill_keys", "rebuilt", params.rebuilt, params.slots.dtype);
  if (params.assigned.elements() == 0) return;
  SHADOWKV_DISPATCH(fill_keys, queue, params);
}

void gather_values(Queue& queue, const GatherValuesParams& params) {
  const int64_t sequences = params.batch.size, heads = params.slots.kv_heads;
  check_ids("gather_values", "chunks", params.chunks, sequences, heads, -1);
  check_ids("gather_values", "assigned", params.assigned, sequences, heads, -1);
  check_ids("gather_values", "source", params.source, sequences, heads, params.assigned.shape[2]);
  check_quantized("gather_values", "values", params.values);
  check_number_dtype("gather_values", "slots", params.slots.dtype);
  check_whole_chunks("gather_values", "the values", params.values.data, params.slots.chunk);
  if (params.assigned.elements() == 0) return;
  SHADOWKV_DISPATCH(gather_values, queue, params);
}

}  // namespace shadowkv
