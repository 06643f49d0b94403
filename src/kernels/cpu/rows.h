// One row of numbers in its stored form: float32, bfloat16, or int8 with a bfloat16 scale.
#pragma once

#include "kernels/views.h"

namespace shadowkv::cpu {

// Writes x [n] as token `token` of head `head` of sequence row `row`, rounded or quantised to the view's
// type. A row of int8 whose largest number is 0 or too small for a scale becomes all zeros.
void store_row(const QuantizedView& to, int64_t row, int64_t head, int64_t token, const float* x, int64_t n);

// Reads it back into out [n].
void load_row(const QuantizedView& from, int64_t row, int64_t head, int64_t token, float* out, int64_t n);

// The scale of an int8 row; 1 for other types.
[[nodiscard]] float row_scale(const QuantizedView& view, int64_t row, int64_t head, int64_t token);

}  // namespace shadowkv::cpu
