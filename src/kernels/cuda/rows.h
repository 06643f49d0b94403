// Rows of numbers in their stored form, for every twin that writes them.
#pragma once

#include "kernels/cuda/launch.h"

namespace shadowkv::cuda {

// Queues the storing of x [tokens, heads, n], float32 or bfloat16 on the device, as store_rows does.
void launch_store_rows(Queue& queue, const std::byte* x, DType dtype, int64_t heads, int64_t n,
                       const TokenBatch& tokens, const QuantizedView& to, const char* op);

}  // namespace shadowkv::cuda
