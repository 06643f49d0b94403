// Cosines and sines of positions times frequencies, for keys that are rebuilt.
#pragma once

#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {

// Cosine and sine of position * frequency to about 2e-7. The product is held as a pair of floats, exactly for
// positions below 2^24; quarter turns are taken off in three parts of pi / 2.
__device__ inline float2 turn_of(int position, float frequency) {
  const float place = static_cast<float>(position);
  const float high = place * frequency, low = fmaf(place, frequency, -high);
  const float quarters = rintf(high * 0.636619772367581f);
  float r = fmaf(quarters, -1.57079637050628662109375f, high);  // exact
  r = fmaf(quarters, 4.37113900018624283e-8f, r);
  r = fmaf(quarters, 1.71512449999999988e-15f, r) + low;
  // `quarters` is off by one where high has no fraction left; adding 1.5 * 2^23 rounds to an integer.
  constexpr float kRound = 12582912.0f;
  const float shifted = fmaf(r, 0.636619772367581f, kRound), more = shifted - kRound;
  r = fmaf(more, -1.57079637050628662109375f, r);
  r = fmaf(more, 4.37113900018624283e-8f, r);
  const float z = r * r;
  float s = fmaf(z, 2.7525562e-6f, -1.9840874e-4f);
  s = fmaf(s, z, 8.3333310e-3f);
  s = fmaf(s, z, -1.6666667e-1f);
  s = fmaf(s * z, r, r);
  float c = fmaf(z, 2.4433157e-5f, -1.3887316e-3f);
  c = fmaf(c, z, 4.1666646e-2f);
  c = fmaf(c, z, -0.5f);
  c = fmaf(c, z, 1.0f);
  const int quadrant = static_cast<int>(quarters) + __float_as_int(shifted);  // 1.5 * 2^23 has no low bits
  const bool swapped = (quadrant & 1) != 0;
  const float cosine = swapped ? s : c, sine = swapped ? c : s;
  return make_float2(((quadrant + 1) & 2) != 0 ? -cosine : cosine, (quadrant & 2) != 0 ? -sine : sine);
}

// Turns a position as a binary fraction of 64 bits; whole turns do not count.
struct Frequency {
  uint32_t high, low;

  __device__ static Frequency of(float radians) {
    constexpr double kTurns = 0.15915494309189533577, kHigh = 4294967296.0;
    double turns = static_cast<double>(radians) * kTurns;
    turns = (turns - floor(turns)) * kHigh;
    const double whole = floor(turns);
    return {static_cast<uint32_t>(whole), static_cast<uint32_t>((turns - whole) * kHigh)};
  }
  // Cosine and sine to about 7e-7, for keys that are then rounded to bfloat16: the angle is exact to 2^-31
  // turns before it becomes a float.
  __device__ float2 turn(uint32_t position) const {
    constexpr float kRadians = 1.4629180792671596e-9f;  // 2 pi / 2^32
    const uint32_t angle = position * high + __umulhi(position, low);
    const float x = static_cast<float>(static_cast<int>(angle)) * kRadians;
    return make_float2(__cosf(x), __sinf(x));
  }
};

__device__ inline float2 product(float2 a, float2 b) {
  return make_float2(a.x * b.x - a.y * b.y, a.y * b.x + a.x * b.y);
}

}  // namespace shadowkv::cuda
