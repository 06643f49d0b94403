// The arithmetic of int8 rows, one definition for every twin: number = code * scale, scale in bfloat16.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/views.h"

namespace shadowkv {

// Smallest bfloat16 scale (as float) with which codes in [-127, 127] reach max_abs; 0 for a row of zeros.
SHADOWKV_HD inline float quantize_scale(float max_abs) {
  constexpr float kCodes = 127.0f;
  const float exact = max_abs / kCodes;
  union {
    float number;
    uint32_t bits;
  } rounded{exact};
  rounded.bits =
      (rounded.bits + 0xffffu) & 0xffff0000u;  // round up, so that max_abs / scale stays within 127
  return rounded.number;
}

SHADOWKV_HD inline int8_t quantize_code(float number, float inverse_scale) {
  const float code = nearbyintf(number * inverse_scale);
  return static_cast<int8_t>(code > 127.0f ? 127.0f : code >= -127.0f ? code : -127.0f);  // NaN: -127
}

}  // namespace shadowkv
