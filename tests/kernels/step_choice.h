// One step's choice over given scores: all that choose_candidates and pick_candidates take and leave.
#pragma once

#include <vector>

#include "kernels/fixtures.h"

namespace shadowkv::testing {

struct StepChoice {
  struct Shape {
    int64_t sequences, kv_heads, group;
    int64_t chunks, candidates, picks;
  };
  struct Limits {
    std::vector<int32_t> candidates, picks;  // of each sequence
  };

  // scores: [sequences, heads, chunks]; exact: [sequences, heads, candidates], as a rerank would find them.
  StepChoice(Device& device, const Shape& s, const Limits& limit, const std::vector<float>& all_scores,
             const std::vector<float>& exact)
      : limits(upload(device, limit.candidates, {s.sequences})),
        pick_limits(upload(device, limit.picks, {s.sequences})),
        scores(upload(device, all_scores, {s.sequences, s.kv_heads * s.group, s.chunks})),
        exact_scores(upload(device, exact, {s.sequences, s.kv_heads * s.group, s.candidates})),
        lse(allocate(device, DType::f32, {s.sequences, s.kv_heads * s.group})),
        chosen(allocate(device, DType::i32, {s.sequences, s.kv_heads, s.candidates})),
        found(allocate(device, DType::i32, {s.sequences, s.kv_heads, s.candidates})),
        missing(allocate(device, DType::i32, {s.sequences, s.kv_heads, s.candidates, 2})),
        picked(allocate(device, DType::i32, {s.sequences, s.kv_heads, s.picks})),
        assigned(allocate(device, DType::i32, {s.sequences, s.kv_heads, s.picks})),
        source(allocate(device, DType::i32, {s.sequences, s.kv_heads, s.picks})),
        counters(upload(device, std::vector<int64_t>{0, 0}, {2})) {}

  [[nodiscard]] ChooseCandidatesParams choose(const DecodeBatch& batch, const SlotView& slots,
                                              const ForcedHits& forced = {}) const {
    return {.scores = scores.view,
            .spans = {},
            .limits = limits.view.as<int32_t>(),
            .lse = lse.view,
            .batch = batch,
            .slots = slots,
            .forced = forced,
            .candidates = chosen.view,
            .found = found.view,
            .missing = missing.view};
  }
  [[nodiscard]] PickCandidatesParams pick(const DecodeBatch& batch, const SlotView& slots,
                                          const ForcedHits& forced = {}) const {
    return {.scores = exact_scores.view,
            .limits = pick_limits.view.as<int32_t>(),
            .lse = lse.view,
            .forced = forced,
            .assign = {.batch = batch,
                       .chunks = chosen.view,
                       .found = found.view,
                       .picked = picked.view,
                       .slots = slots,
                       .assigned = assigned.view,
                       .source = source.view,
                       .counters = counters.view.as<int64_t>()}};
  }

  Array limits, pick_limits, scores, exact_scores, lse;
  Array chosen, found, missing, picked, assigned, source, counters;
};

}  // namespace shadowkv::testing
