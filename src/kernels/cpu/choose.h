// choose_groups of one KV head, for ops that go on with what it chose.
#pragma once

#include "kernels/kernels.h"

namespace shadowkv::cpu {

// head: of p.chosen's [B * G].
void choose_group(const ChooseGroupsParams& p, int64_t head);
// About how many nanoseconds it takes.
[[nodiscard]] int64_t choosing_cost(const ChooseGroupsParams& p);

}  // namespace shadowkv::cpu
