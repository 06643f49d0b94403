#include <algorithm>

#include "kernels/twins.h"

namespace shadowkv::cpu {

void pick_likeliest(Queue& /*queue*/, const PickLikeliestParams& params) {
  const int64_t vocab = params.logits.shape[1];
  for (int64_t b = 0; b < params.logits.shape[0]; ++b) {
    const float* row = params.logits.as<float>() + b * vocab;
    params.ids.as<int32_t>()[b] = static_cast<int32_t>(std::max_element(row, row + vocab) - row);
  }
}

}  // namespace shadowkv::cpu
