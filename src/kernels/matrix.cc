#include "kernels/matrix.h"

#include <algorithm>
#include <cmath>

#include "kernels/quantize_math.h"

namespace shadowkv {

float quantize_matrix_row(const float* numbers, int64_t n, int8_t* codes) {
  constexpr float kMostCode = 127.0f;
  float most = 0.0f;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, std::abs(numbers[i]));
  const float scale = most / kMostCode;
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  for (int64_t i = 0; i < n; ++i) codes[code_place(i, n)] = quantize_code(numbers[i], inverse);
  return scale;
}

}  // namespace shadowkv
