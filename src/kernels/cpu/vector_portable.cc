#include "kernels/cpu/vector_loops.h"
#include "kernels/cpu/vector_sets.h"

namespace shadowkv::cpu {

const VectorOps* portable_ops() {
  return &kVectorOps;
}

}  // namespace shadowkv::cpu
