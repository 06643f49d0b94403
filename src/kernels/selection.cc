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
  const TensorView& scores = params.scores;
  check_shape("choose_groups", "scores", scores, {{"sequences"}, {"heads"}, {"entries"}});
  check_dtype("choose_groups", "scores", scores, DType::f32);
  check_spans("choose_groups", scores, params.spans);
  check_shape("choose_groups", "lse", params.lse,
              {{"sequences", scores.shape[0]}, {"heads", scores.shape[1]}});
  check_dtype("choose_groups", "lse", params.lse, DType::f32);
  check_shape("choose_groups", "chosen", params.chosen,
              {{"sequences", scores.shape[0]}, {"kv_heads"}, {"chosen"}});
  check_dtype("choose_groups", "chosen", params.chosen, DType::i32);
  if (scores.elements() > 0) check_groups("choose_groups", scores.shape[1], params.chosen.shape[1]);
  if (params.chosen.elements() == 0) return;
  SHADOWKV_DISPATCH(choose_groups, queue, params);
}

void find_slots(Queue& queue, const FindSlotsParams& params) {
  check_ids("find_slots", "chunks", params.chunks, params.batch.size, params.slots.kv_heads, -1);
  check_ids("find_slots", "found", params.found, params.batch.size, params.slots.kv_heads,
            params.chunks.shape[2]);
  if (params.found.elements() == 0) return;
  SHADOWKV_DISPATCH(find_slots, queue, params);
}

void candidate_scores(Queue& queue, const CandidateScoresParams& params) {
  check_candidate_scores("candidate_scores", params, queue);
  if (params.scores.elements() == 0) return;
  SHADOWKV_DISPATCH(candidate_scores, queue, params);
}

void assign_slots(Queue& queue, const AssignSlotsParams& params) {
  const int64_t sequences = params.batch.size, heads = params.slots.kv_heads;
  check_ids("assign_slots", "chunks", params.chunks, sequences, heads, -1);
  check_ids("assign_slots", "found", params.found, sequences, heads, params.chunks.shape[2]);
  if (!params.picked.empty()) check_ids("assign_slots", "picked", params.picked, sequences, heads, -1);
  const int64_t entries = params.picked.empty() ? params.chunks.shape[2] : params.picked.shape[2];
  check_ids("assign_slots", "assigned", params.assigned, sequences, heads, entries);
  check_ids("assign_slots", "source", params.source, sequences, heads, entries);
  require(params.counters != nullptr, "assign_slots: counters are missing, expected two of int64");
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
