// Weights as they are multiplied: rows of numbers, or of codes with a scale a row.
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "kernels/views.h"

namespace shadowkv {

// [out, in] float32, bfloat16, or int8: number = code * scale of its row. A scale a row leaves the inner loop
// of a product to the codes alone.
struct Matrix : TensorView {
  TensorView scales;  // [out] float32, with int8

  Matrix() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): numbers alone are a matrix
  Matrix(const TensorView& numbers) : TensorView(numbers) {}
  Matrix(const TensorView& codes, const TensorView& row_scales) : TensorView(codes), scales(row_scales) {}

  [[nodiscard]] SHADOWKV_HD bool quantized() const { return dtype == DType::i8; }
};

// Where in its row the code of a column lies: within each 16 columns so that the four that a lane of a tensor
// core's product takes (columns 2 t, 2 t + 1, 2 t + 8 and 2 t + 9) are one word. What is beyond the last
// whole 16 stays.
SHADOWKV_HD constexpr int64_t code_place(int64_t column, int64_t columns) {
  constexpr int64_t kStretch = 16;
  if (column >= columns / kStretch * kStretch) return column;
  const int64_t within = column % kStretch;
  return column - within + within % 8 / 2 * 4 + within / 8 * 2 + within % 2;
}

// A row of n numbers as codes in [-127, 127], each in its place; returns the row's scale, 0 for zeros alone.
[[nodiscard]] float quantize_matrix_row(const float* numbers, int64_t n, int8_t* codes);

}  // namespace shadowkv
