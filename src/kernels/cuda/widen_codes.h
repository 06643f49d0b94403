// int8 matrices as bfloat16 ones, for products of many tokens.
#pragma once

#include "kernels/cuda/launch.h"

namespace shadowkv::cuda {

// Rows [first, first + count) of codes times their scales, columns in order: to out [count, in] bfloat16.
void widen_codes(Queue& queue, const Matrix& codes, int64_t first, int64_t count, std::byte* out);

}  // namespace shadowkv::cuda
