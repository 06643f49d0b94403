// One table of loops per instruction set. Call only what the machine can run.
#pragma once

#include "kernels/cpu/simd.h"

namespace shadowkv::cpu {

const VectorOps* portable_ops();
const VectorOps* avx2_ops();    // x86-64 builds only; AVX2 and FMA
const VectorOps* avx512_ops();  // x86-64 builds only; AVX-512 F, BW, DQ, VL

}  // namespace shadowkv::cpu
