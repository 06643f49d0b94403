#include "bench_stages.h"

#include <algorithm>
#include <iterator>

namespace shadowkv::apps {
namespace {

struct Place {
  std::string_view op, stage;
};

constexpr Place kPlaces[] = {
    {"matmul", "matrices"},
    {"matmul_group", "matrices"},
    {"embed", "norms"},
    {"rms_norm", "norms"},
    {"silu_mul", "norms"},
    // New tokens become part of what is held.
    {"rotate", "append"},
    {"store_rows", "append"},
    {"store_resident", "append"},
    {"project_keys", "append"},
    {"sketch_encode", "append"},
    {"update_means", "append"},
    {"update_bounds", "append"},
    {"column_mean", "append"},
    {"fit_basis", "append"},
    {"chunk_means", "append"},
    {"chunk_bounds", "append"},
    {"store_outliers", "append"},
    {"sketch_scores", "score"},
    {"landmark_scores", "score"},
    {"bound_scores", "score"},
    {"mask_outliers", "select"},
    {"rank_groups", "select"},
    {"top_k", "select"},
    {"choose_groups", "select"},
    {"choose_candidates", "select"},
    {"candidate_scores", "select"},
    {"assign_slots", "select"},
    {"pick_candidates", "select"},
    {"rebuild_keys", "rebuild"},
    {"rebuild_and_score", "rebuild"},
    {"gather_keys", "rebuild"},
    {"fill_keys", "rebuild"},
    {"gather_values", "gather"},
    {"prefill_attention", "attend"},
    {"paged_attention", "attend"},
    {"resident_attention", "attend"},
    {"slot_attention", "attend"},
    {"change_logits", "other"},
    {"sample_tokens", "other"},
    {"rank_tokens", "other"},
};

constexpr std::string_view kIndexOps[] = {"column_mean", "fit_basis",    "project_keys",   "sketch_encode",
                                          "chunk_means", "chunk_bounds", "store_resident", "store_outliers"};

}  // namespace

std::string_view stage_of(std::string_view op) {
  const auto* place = std::find_if(std::begin(kPlaces), std::end(kPlaces),
                                   [op](const Place& known) { return known.op == op; });
  return place == std::end(kPlaces) ? "other" : place->stage;
}

std::array<double, kStages.size()> stage_seconds(const std::vector<OpTime>& times) {
  std::array<double, kStages.size()> seconds{};
  for (const OpTime& time : times) {
    const auto* stage = std::find(kStages.begin(), kStages.end(), stage_of(time.op));
    seconds[static_cast<std::size_t>(stage - kStages.begin())] += time.seconds;
  }
  return seconds;
}

double index_seconds(const std::vector<OpTime>& times) {
  double seconds = 0;
  for (const OpTime& time : times) {
    if (std::find(std::begin(kIndexOps), std::end(kIndexOps), time.op) != std::end(kIndexOps))
      seconds += time.seconds;
  }
  return seconds;
}

}  // namespace shadowkv::apps
