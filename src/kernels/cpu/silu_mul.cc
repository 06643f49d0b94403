#include "kernels/cpu/simd.h"
#include "kernels/cpu/work.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {

void silu_mul(Queue& queue, const SiluMulParams& params) {
  constexpr int64_t kGrain = 1 << 14;  // numbers: 128 KiB read
  constexpr int64_t kOperations = 4;   // multiply-adds' worth of time a number
  const VectorOps& ops = vector_ops();
  const int64_t numbers = params.gate.elements();
  const float* gate = params.gate.as<float>();
  const float* up = params.up.as<float>();
  float* out = params.out.as<float>();
  share_ranges(queue, numbers, kGrain, kOperations * numbers, [&](int64_t first, int64_t count) {
    ops.silu_mul(gate + first, up + first, out + first, count);
  });
}

}  // namespace shadowkv::cpu
