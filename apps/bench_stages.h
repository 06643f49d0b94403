// Times of a decode step's ops, gathered into its stages.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

// In the order of a step.
inline constexpr std::array<std::string_view, 9> kStages = {"matrices", "norms",  "append", "score", "select",
                                                            "rebuild",  "gather", "attend", "other"};

// The stage that an op of kernels.h belongs to; "other" for those that belong to none.
[[nodiscard]] std::string_view stage_of(std::string_view op);
// Seconds of each of kStages.
[[nodiscard]] std::array<double, kStages.size()> stage_seconds(const std::vector<OpTime>& times);
// Of a prefill: seconds of the ops that build the index, the factors of keys and what stays resident.
[[nodiscard]] double index_seconds(const std::vector<OpTime>& times);

}  // namespace shadowkv::apps
