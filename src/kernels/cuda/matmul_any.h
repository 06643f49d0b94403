// Products that cuBLASLt has no kernel for, and the bias.
#pragma once

#include "kernels/cuda/launch.h"

namespace shadowkv::cuda {

// out = x weight^T (+ out, when accumulate), any sizes, alignments and types: slow.
void launch_any_matmul(Queue& queue, const MatmulParams& params);
// out += bias.
void launch_add_bias(Queue& queue, const MatmulParams& params);

}  // namespace shadowkv::cuda
