#include "kernels/cpu/simd.h"

#include <array>

#include "kernels/cpu/vector_sets.h"

namespace shadowkv::cpu {
namespace {

std::array<const VectorOps*, 4> find_sets() {
  std::array<const VectorOps*, 4> sets{};
  size_t count = 0;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) sets[count++] = avx512_ops();
  if (avx2) sets[count++] = avx2_ops();
#endif
  sets[count] = portable_ops();
  return sets;
}

}  // namespace

const VectorOps* const* all_vector_ops() {
  static const std::array<const VectorOps*, 4> sets = find_sets();
  return sets.data();
}

const VectorOps& vector_ops() {
  return *all_vector_ops()[0];
}

}  // namespace shadowkv::cpu
