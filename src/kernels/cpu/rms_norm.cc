#include "kernels/cpu/simd.h"
#include "kernels/cpu/work.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {

void rms_norm(Queue& queue, const RmsNormParams& params) {
  constexpr int64_t kGrain = 16;
  const VectorOps& ops = vector_ops();
  const int64_t tokens = params.x.shape[0];
  const int64_t hidden = params.x.shape[1];
  const float* x = params.x.as<float>();
  const float* weight = params.weight.as<float>();
  float* out = params.out.as<float>();
  share_ranges(queue, tokens, kGrain, tokens * hidden, [&](int64_t first, int64_t count) {
    const Scratch normed(params.accumulate ? hidden : 0);
    for (int64_t t = first; t < first + count; ++t) {
      float* to = out + t * hidden;
      float* row = params.accumulate ? normed.data() : to;
      ops.rms_norm(x + t * hidden, weight, static_cast<float>(params.eps), row, hidden);
      if (!params.accumulate) continue;
      for (int64_t i = 0; i < hidden; ++i) to[i] += row[i];
    }
  });
}

}  // namespace shadowkv::cpu
