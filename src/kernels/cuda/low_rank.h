// Pieces of fit_basis that run on the device; fit_basis.cc puts them together.
#pragma once

#include "kernels/cuda/launch.h"

namespace shadowkv::cuda {

// to = x - mean for x [tokens, width] of either type, `to` of the same type.
void launch_centre(Queue& queue, const std::byte* x, DType dtype, int64_t tokens, int64_t width,
                   const float* mean, std::byte* to);
// *finite = 1 if every number of the diagonal of gram [width, width] is finite, else 0.
void launch_check_diagonal(Queue& queue, const float* gram, int64_t width, int32_t* finite);
// basis [rank, width] of either type = the last `rank` rows of vectors [width, width], last first, each with
// the sign that makes its number of largest magnitude (of equals the first) positive.
void launch_store_basis(Queue& queue, const float* vectors, const TensorView& basis);

}  // namespace shadowkv::cuda
