// Sixteen float32 lanes on whichever instruction set this translation unit is compiled for. Everything here
// has internal linkage, because the same names mean other instructions in other units.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "base/dtype.h"

namespace shadowkv::cpu {
namespace {

// Functions of 16 lanes, per instruction set:
//   zero, all(x)                   every lane 0, or x
//   load(p), load(p, n)            16 numbers, or n < 16 and zeros; float, bf16 or int8 to float
//   store(p, v), store(p, v, n)    all lanes, or the first n
//   multiply_add(a, b, c)          a * b + c
//   greater(a, b)                  the greater of each lane; b where either is no number
//   nearest(v)                     to integers, ties to even; |v| < 2^22
//   power_of_two(v)                2^v for integers v in [-126, 127]
//   zero_below(v, x, limit)        v where x >= limit or x is no number, else 0
//   first(v, n, other)             v in the first n lanes, other in the rest
//   magnitude(v)                   |v|
//   sum(v), greatest(v)            over all lanes, by one fixed tree
//   sum4(a, b, c, d, out)          the same sums of four vectors at once

#if defined(__AVX512F__)

#define SHADOWKV_VECTOR_NAME "avx512"
constexpr int kDotRows = 6;       // rows of x by 4 outputs: 24 sums held in registers
constexpr int kOuterRows = 6;     // rows of a ...
constexpr int kOuterVectors = 4;  // ... by vectors of b: 24 sums held in registers

using Lanes = __m512;

inline __mmask16 mask_of(int64_t n) {
  return static_cast<__mmask16>((1u << n) - 1u);
}
inline Lanes zero() {
  return _mm512_setzero_ps();
}
inline Lanes all(float x) {
  return _mm512_set1_ps(x);
}
inline Lanes load(const float* p) {
  return _mm512_loadu_ps(p);
}
inline Lanes load(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(mask_of(n), p);
}
inline Lanes from_bf16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Lanes load(const bf16* p) {
  return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Lanes load(const bf16* p, int64_t n) {
  return from_bf16(_mm256_maskz_loadu_epi16(mask_of(n), p));
}
inline Lanes from_i8(__m128i codes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}
inline Lanes load(const int8_t* p) {
  return from_i8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Lanes load(const int8_t* p, int64_t n) {
  return from_i8(_mm_maskz_loadu_epi8(mask_of(n), p));
}
inline void store(float* p, Lanes v) {
  _mm512_storeu_ps(p, v);
}
inline void store(float* p, Lanes v, int64_t n) {
  _mm512_mask_storeu_ps(p, mask_of(n), v);
}
inline Lanes add(Lanes a, Lanes b) {
  return _mm512_add_ps(a, b);
}
inline Lanes subtract(Lanes a, Lanes b) {
  return _mm512_sub_ps(a, b);
}
inline Lanes multiply(Lanes a, Lanes b) {
  return _mm512_mul_ps(a, b);
}
inline Lanes divide(Lanes a, Lanes b) {
  return _mm512_div_ps(a, b);
}
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline Lanes greater(Lanes a, Lanes b) {
  return _mm512_max_ps(a, b);
}
inline Lanes lesser(Lanes a, Lanes b) {
  return _mm512_min_ps(a, b);
}
inline Lanes nearest(Lanes v) {
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Lanes power_of_two(Lanes v) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
inline Lanes zero_below(Lanes v, Lanes x, float limit) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, all(limit), _CMP_NLT_UQ), v);
}
inline Lanes first(Lanes v, int64_t n, Lanes other) {
  return _mm512_mask_mov_ps(other, mask_of(n), v);
}
inline Lanes magnitude(Lanes v) {
  return _mm512_abs_ps(v);
}

inline __m128 halves_sum(Lanes v) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}
inline void sum4(Lanes a, Lanes b, Lanes c, Lanes d, float* out) {
  const Lanes ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const Lanes cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d x = _mm512_castps_pd(ab);
  const __m512d y = _mm512_castps_pd(cd);
  const Lanes quads =
      _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  _mm_storeu_ps(out, halves_sum(quads));
}
inline float greatest(Lanes v) {
  return _mm512_reduce_max_ps(v);
}

#elif defined(__AVX2__) && defined(__FMA__)

#define SHADOWKV_VECTOR_NAME "avx2"
constexpr int kDotRows = 1;
constexpr int kOuterRows = 6;
constexpr int kOuterVectors = 1;

struct Lanes {
  __m256 low, high;
};

inline Lanes zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
inline Lanes all(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline Lanes load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline __m256 half_from_bf16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Lanes load(const bf16* p) {
  return {half_from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          half_from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline Lanes load(const int8_t* p) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(codes, 8)))};
}
template <typename T>
Lanes load(const T* p, int64_t n) {
  T padded[16];
  std::memset(static_cast<void*>(padded), 0, sizeof padded);
  std::memcpy(static_cast<void*>(padded), p, static_cast<size_t>(n) * sizeof(T));
  return load(padded);
}
inline void store(float* p, Lanes v) {
  _mm256_storeu_ps(p, v.low);
  _mm256_storeu_ps(p + 8, v.high);
}
inline void store(float* p, Lanes v, int64_t n) {
  float whole[16];
  store(whole, v);
  std::memcpy(p, whole, static_cast<size_t>(n) * sizeof(float));
}
inline Lanes add(Lanes a, Lanes b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Lanes subtract(Lanes a, Lanes b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Lanes multiply(Lanes a, Lanes b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Lanes divide(Lanes a, Lanes b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Lanes greater(Lanes a, Lanes b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Lanes lesser(Lanes a, Lanes b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Lanes nearest(Lanes v) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(v.low, kMode), _mm256_round_ps(v.high, kMode)};
}
inline __m256 half_power_of_two(__m256 v) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline Lanes power_of_two(Lanes v) {
  return {half_power_of_two(v.low), half_power_of_two(v.high)};
}
inline Lanes zero_below(Lanes v, Lanes x, float limit) {
  const __m256 bound = _mm256_set1_ps(limit);
  return {_mm256_and_ps(v.low, _mm256_cmp_ps(x.low, bound, _CMP_NLT_UQ)),
          _mm256_and_ps(v.high, _mm256_cmp_ps(x.high, bound, _CMP_NLT_UQ))};
}
inline Lanes first(Lanes v, int64_t n, Lanes other) {
  float whole[16];
  store(whole, other);
  store(whole, v, n);
  return load(whole);
}
inline Lanes magnitude(Lanes v) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, v.low), _mm256_andnot_ps(sign, v.high)};
}

// Per quarter of a: (a0 + a2), (b0 + b2), (a1 + a3), (b1 + b3), and so on: the same tree as on 512 bits.
inline __m256 quad_sums(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256d ab = _mm256_castps_pd(_mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)));
  const __m256d cd = _mm256_castps_pd(_mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d)));
  return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)),
                       _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)));
}
inline void sum4(Lanes a, Lanes b, Lanes c, Lanes d, float* out) {
  const __m256 quads =
      _mm256_add_ps(quad_sums(a.low, b.low, c.low, d.low), quad_sums(a.high, b.high, c.high, d.high));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1)));
}
inline float greatest(Lanes v) {
  const __m256 h = _mm256_max_ps(v.low, v.high);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

#else

#define SHADOWKV_VECTOR_NAME "portable"
constexpr int kDotRows = 1;
constexpr int kOuterRows = 2;
constexpr int kOuterVectors = 1;

struct Lanes {
  float x[16];
};

template <typename Function>
inline Lanes lanes_of(Function function) {
  Lanes v;
  for (int i = 0; i < 16; ++i) v.x[i] = function(i);
  return v;
}
inline float widened(float x) {
  return x;
}
inline float widened(int8_t x) {
  return x;
}
inline float widened(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}
inline Lanes zero() {
  return lanes_of([](int) { return 0.0f; });
}
inline Lanes all(float x) {
  return lanes_of([=](int) { return x; });
}
template <typename T>
Lanes load(const T* p) {
  return lanes_of([=](int i) { return widened(p[i]); });
}
template <typename T>
Lanes load(const T* p, int64_t n) {
  return lanes_of([=](int i) { return i < n ? widened(p[i]) : 0.0f; });
}
inline void store(float* p, Lanes v) {
  std::memcpy(p, v.x, sizeof v.x);
}
inline void store(float* p, Lanes v, int64_t n) {
  std::memcpy(p, v.x, static_cast<size_t>(n) * sizeof(float));
}
inline Lanes add(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.x[i] + b.x[i]; });
}
inline Lanes subtract(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.x[i] - b.x[i]; });
}
inline Lanes multiply(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.x[i] * b.x[i]; });
}
inline Lanes divide(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.x[i] / b.x[i]; });
}
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return lanes_of([&](int i) { return a.x[i] * b.x[i] + c.x[i]; });
}
inline Lanes greater(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; });
}
inline Lanes lesser(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.x[i] < b.x[i] ? a.x[i] : b.x[i]; });
}
inline Lanes nearest(Lanes v) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: numbers this large have no fraction
  return lanes_of([&](int i) { return (v.x[i] + kShift) - kShift; });
}
inline Lanes power_of_two(Lanes v) {
  return lanes_of([&](int i) {
    const float n = v.x[i] >= -126.0f ? v.x[i] : -126.0f;  // also where v is no number
    const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
    float number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
  });
}
inline Lanes zero_below(Lanes v, Lanes x, float limit) {
  return lanes_of([&](int i) { return x.x[i] < limit ? 0.0f : v.x[i]; });
}
inline Lanes first(Lanes v, int64_t n, Lanes other) {
  return lanes_of([&](int i) { return i < n ? v.x[i] : other.x[i]; });
}
inline Lanes magnitude(Lanes v) {
  return lanes_of([&](int i) { return __builtin_fabsf(v.x[i]); });
}
inline float tree_sum(const Lanes& v) {
  float quads[4];
  for (int q = 0; q < 4; ++q) {
    const float* x = v.x + 4 * q;
    quads[q] = (x[0] + x[2]) + (x[1] + x[3]);
  }
  return (quads[0] + quads[2]) + (quads[1] + quads[3]);
}
inline void sum4(Lanes a, Lanes b, Lanes c, Lanes d, float* out) {
  out[0] = tree_sum(a);
  out[1] = tree_sum(b);
  out[2] = tree_sum(c);
  out[3] = tree_sum(d);
}
inline float greatest(Lanes v) {
  float most = v.x[0];
  for (const float x : v.x) most = x > most ? x : most;
  return most;
}

#endif

inline float sum(Lanes v) {
  float sums[4];
  sum4(v, v, v, v, sums);
  return sums[0];
}

// e^x to about one unit in the last place; 0 below -87, where results leave the normal numbers.
inline Lanes exponential(Lanes x) {
  constexpr float kLeast = -87.0f;
  constexpr float kMost = 88.3762f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693145751953125f;  // few bits, so that n * kLn2High is exact
  constexpr float kLn2Low = 1.42860682e-6f;
  const Lanes held = lesser(all(kMost), greater(all(kLeast), x));
  const Lanes n = nearest(multiply(held, all(kLog2E)));
  const Lanes r = multiply_add(n, all(-kLn2Low), multiply_add(n, all(-kLn2High), held));
  // The Taylor series: |r| <= ln 2 / 2, so the first term left out is below 1e-8.
  constexpr float kTerms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  Lanes series = all(1.0f / 5040);
#pragma GCC unroll 8
  for (const float term : kTerms) series = multiply_add(series, r, all(term));
  return zero_below(multiply(series, power_of_two(n)), x, kLeast);
}

}  // namespace
}  // namespace shadowkv::cpu
