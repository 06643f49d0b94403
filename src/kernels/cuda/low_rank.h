// Pieces of fit_basis that run on the device; fit_basis.cc puts them together.
#pragma once

#include "kernels/cuda/launch.h"

namespace shadowkv::cuda {

// to = x - mean for x [tokens, width] of either type, `to` of the same type.
void launch_centre(Queue& queue, const std::byte* x, DType dtype, int64_t tokens, int64_t width,
                   const float* mean, std::byte* to);
// *finite = 1 if every number of the diagonal of gram [width, width] is finite, else 0. Adds a little of the
// trace to the diagonal, so that no row that is multiplied by gram vanishes.
void launch_prepare_gram(Queue& queue, float* gram, int64_t width, int32_t* finite);
// Numbers 1 and -1, each by its place alone.
void launch_random_signs(Queue& queue, float* to, int64_t count);
// Row i is 1 at its place i and 0 elsewhere.
void launch_unit_rows(Queue& queue, float* to, int64_t width);
// basis [rank, width] of either type = rows, each with the sign that makes its number of largest magnitude
// (of equals the first) positive.
void launch_store_basis(Queue& queue, const float* rows, const TensorView& basis);

}  // namespace shadowkv::cuda
