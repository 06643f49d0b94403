// What traces of a layer (attention.h) are read back with.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/exact_store.h"
#include "base/device.h"
#include "base/tensor.h"

namespace shadowkv {

// All numbers of a float32 or bfloat16 view; waits for the queue.
[[nodiscard]] std::vector<float> read_numbers(Queue& queue, const TensorView& from);
// A key before rotation, and what it is kept by.
struct KeptKey {
  std::vector<float> x, mean;  // [W]
  std::vector<float> basis;    // [R, W]
  std::vector<float> factors;  // [R]
};
[[nodiscard]] KeyError key_error(const KeptKey& key);
// Appends first, ..., first + count - 1.
void append_positions(std::vector<int32_t>& positions, int64_t first, int64_t count);
// Of a sequence whose `tokens` tokens lie in `row` of a store of that shape. q: [heads, head_dim] rotated.
[[nodiscard]] LayerTrace trace_exact(ExactStore& store, const AttentionShape& shape, Device& device,
                                     const TensorView& q, int64_t layer, int64_t row, int64_t tokens);

}  // namespace shadowkv
