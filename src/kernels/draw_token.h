// draw_token (sampling_math.h) for callers that may ask for no memory.
#pragma once

#include <vector>

#include "kernels/sampling_math.h"

namespace shadowkv {

// keys: room for `vocab` numbers.
[[nodiscard]] int32_t draw_token(const float* logits, int64_t vocab, const SamplingRow& row,
                                 std::vector<uint64_t>& keys);

}  // namespace shadowkv
