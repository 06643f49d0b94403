// Float arithmetic sixteen numbers at a time, and the choice of an instruction set at run time. Sums run over
// sixteen lanes in a fixed order whatever the instruction set, so results depend on it only through the
// rounding of fused multiply-adds.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/dtype.h"
#include "kernels/cpu/simd.h"

#define SHADOWKV_INLINE inline __attribute__((always_inline))
#define SHADOWKV_LAMBDA_INLINE __attribute__((always_inline))
#define SHADOWKV_UNROLL _Pragma("GCC unroll 16")  // for loops over registers

namespace shadowkv::cpu {

using Lanes [[gnu::vector_size(64)]] = float;
using HalfLanes [[gnu::vector_size(32)]] = float;
using IntLanes [[gnu::vector_size(64)]] = int32_t;

SHADOWKV_INLINE void load(const float* from, Lanes& to) {
  std::memcpy(&to, from, sizeof(to));
}
SHADOWKV_INLINE void load(const bf16* from, Lanes& to) {
  using Words [[gnu::vector_size(32)]] = uint16_t;
  Words words;
  std::memcpy(&words, from, sizeof(words));
  const IntLanes bits = __builtin_convertvector(words, IntLanes) << 16;
  std::memcpy(&to, &bits, sizeof(to));
}
SHADOWKV_INLINE void store(const Lanes& from, float* to) {
  std::memcpy(to, &from, sizeof(from));
}

// The first n < 16 numbers; the other lanes are 0.
template <typename T>
SHADOWKV_INLINE void load_part(const T* from, int64_t n, Lanes& to) {
  to = Lanes{};
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]);
}

SHADOWKV_INLINE float sum_lanes(const Lanes& x) {
  const HalfLanes low = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
  const HalfLanes high = __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  const HalfLanes eight = low + high;
  const HalfLanes four = eight + __builtin_shufflevector(eight, eight, 4, 5, 6, 7, 0, 1, 2, 3);
  const HalfLanes two = four + __builtin_shufflevector(four, four, 2, 3, 0, 1, 4, 5, 6, 7);
  return two[0] + two[1];
}

SHADOWKV_INLINE float dot(const float* a, const float* b, int64_t n) {
  Lanes sum{}, x, y;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    load(a + i, x);
    load(b + i, y);
    sum += x * y;
  }
  if (i < n) {
    load_part(a + i, n - i, x);
    load_part(b + i, n - i, y);
    sum += x * y;
  }
  return sum_lanes(sum);
}

// x = exp(x) for x <= 0, relative error below 2e-7; exactly 1 at 0 and exactly 0 below -87.
SHADOWKV_INLINE void exp_lanes(Lanes& x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLeast = -87.0f;
  const IntLanes kept = x >= kLeast;
  const Lanes least = Lanes{} + kLeast;
  x = kept ? x : least;  // exponents far below would overflow
  const Lanes shifted = x * 1.44269504088896341f + kRound;
  const Lanes n = shifted - kRound;
  const Lanes r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Lanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  IntLanes power, bits;
  std::memcpy(&power, &shifted, sizeof(power));
  std::memcpy(&bits, &p, sizeof(bits));
  bits += (power - std::bit_cast<int32_t>(kRound)) << 23;
  bits &= kept;
  std::memcpy(&x, &bits, sizeof(x));
}

// x = log(x) for normal x > 0, absolute error below 2e-7 near 1 and relative elsewhere.
SHADOWKV_INLINE void log_lanes(Lanes& x) {
  IntLanes bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const IntLanes exponent = (bits - 0x3f3504f3) >> 23;  // mantissas from sqrt(1/2) on
  bits -= exponent << 23;
  Lanes f;
  std::memcpy(&f, &bits, sizeof(f));
  f -= 1.0f;
  const Lanes e = __builtin_convertvector(exponent, Lanes);
  const Lanes z = f * f;
  Lanes p = f * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  p = p * f * z + e * -2.12194440e-4f - 0.5f * z;
  x = f + p + e * 0.693359375f;
}

// x[i] = exp(x[i]) for n numbers <= 0; returns their sum, lane by lane in a fixed order.
SHADOWKV_INLINE float exp_sum(float* x, int64_t n) {
  Lanes sum{}, v;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    load(x + i, v);
    exp_lanes(v);
    store(v, x + i);
    sum += v;
  }
  if (i < n) {
    load_part(x + i, n - i, v);
    exp_lanes(v);
    for (int64_t j = 0; j < kLanes; ++j) {
      if (i + j < n)
        x[i + j] = v[j];
      else
        v[j] = 0.0f;
    }
    sum += v;
  }
  return sum_lanes(sum);
}

// x[i] = log(x[i]) for n normal numbers > 0.
SHADOWKV_INLINE void log_each(float* x, int64_t n) {
  Lanes v;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    load(x + i, v);
    log_lanes(v);
    store(v, x + i);
  }
  if (i < n) {
    v = Lanes{} + 1.0f;
    for (int64_t j = 0; i + j < n; ++j) v[j] = x[i + j];
    log_lanes(v);
    for (int64_t j = 0; i + j < n; ++j) x[i + j] = v[j];
  }
}

SHADOWKV_INLINE float max_of(const float* x, int64_t n) {
  Lanes best = Lanes{} - std::numeric_limits<float>::infinity(), v;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    load(x + i, v);
    best = v > best ? v : best;
  }
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < kLanes; ++j) largest = best[j] > largest ? best[j] : largest;
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

enum class Isa : uint8_t { base, avx2, avx512 };

inline Isa best_isa() {
  static const Isa isa = [] {
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vpopcntdq");
    if (avx512) return Isa::avx512;
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
    return avx2 ? Isa::avx2 : Isa::base;
  }();
  return isa;
}

template <typename F>
[[gnu::noinline]] void run_base(const F& body) {
  body();
}
template <typename F>
[[gnu::noinline, gnu::target("avx2,fma,bmi,bmi2,popcnt")]] void run_avx2(const F& body) {
  body();
}
template <typename F>
[[gnu::noinline, gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx2,fma,bmi,bmi2,popcnt,"
                             "prefer-vector-width=512")]] void
run_avx512(const F& body) {
  body();
}

// Runs a lambda marked SHADOWKV_LAMBDA_INLINE, compiled once for each instruction set, with the best one that
// this machine has. What it calls should be SHADOWKV_INLINE too, or stays compiled for the oldest machine.
template <typename F>
inline void run_best(const F& body) {
  switch (best_isa()) {
    case Isa::avx512:
      return run_avx512(body);
    case Isa::avx2:
      return run_avx2(body);
    case Isa::base:
      return run_base(body);
  }
}

}  // namespace shadowkv::cpu
