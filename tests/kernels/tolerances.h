// How far an op's numbers may lie from a plain float64 reference: |found - expected| <= absolute + relative *
// |expected|. One row an op and type of number; every row says where the error comes from.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/dtype.h"

namespace shadowkv::testing {

struct Tolerance {
  double absolute;
  double relative;
};

// An op's tolerance where activations are float32 (the CPU) and where they are bfloat16 (a GPU).
struct OpTolerance {
  Tolerance f32;
  Tolerance bf16;
  [[nodiscard]] constexpr Tolerance of(DType dtype) const { return dtype == DType::f32 ? f32 : bf16; }
};

// bfloat16 keeps 8 bits: one rounding is at most 2^-8 of the number, 0.004; rows below allow two.
inline constexpr OpTolerance kExact{{0, 0}, {0, 0}};                // copies
inline constexpr OpTolerance kRmsNorm{{1e-6, 1e-5}, {1e-3, 8e-3}};  // float32 sum of a row
inline constexpr OpTolerance kMatmul{{1e-4, 1e-5}, {1e-2, 8e-3}};   // float32 sum of up to 2,000 products
// What is added may find sums that are rounded already.
inline constexpr OpTolerance kMatmulInTwo{{1e-4, 1e-5}, {2e-2, 1.6e-2}};
inline constexpr OpTolerance kSiluMul{{1e-6, 2e-6}, {1e-3, 8e-3}};    // one exp of about 1 ulp
inline constexpr OpTolerance kRotate{{1e-6, 1e-6}, {2.5e-2, 8e-3}};   // there and back again, pairs up to 4
inline constexpr OpTolerance kAttention{{1e-5, 1e-5}, {8e-3, 8e-3}};  // float32 scores up to about 10
inline constexpr OpTolerance kLogSumExp{{2e-5, 1e-6}, {2e-3, 1e-3}};  // always float32
inline constexpr OpTolerance kScores{{1e-5, 1e-5}, {5e-5, 2e-5}};     // float32 sums of products of up to 256
inline constexpr OpTolerance kEstimates{{2e-5, 1e-5}, {5e-5, 2e-5}};  // integer sums times float32
inline constexpr OpTolerance kMerge{{2e-5, 2e-5}, {2e-2, 1.6e-2}};    // two rounded parts
inline constexpr Tolerance kSpans{1e-6, 2e-6};  // sums of up to 16 exponentials of a few ulp
// On a GPU keys read from int8 are rounded to bfloat16: 256 products off by up to 2^-9 each.
inline constexpr OpTolerance kLogSumExpInt8{{2e-5, 1e-6}, {8e-3, 2e-3}};
// On a GPU bases, and factors that are not int8, are rounded to bfloat16: 128 products of about 3 by 0.2,
// each off by up to 2^-8.
inline constexpr OpTolerance kRebuild{{1e-4, 1e-5}, {2e-1, 8e-3}};
// float32 from bfloat16: tensor cores drop what lies beneath 2^-23 of the running sum, up to 100, in 128
// steps.
inline constexpr OpTolerance kMatmulToF32{{1e-4, 1e-5}, {1.5e-3, 1e-5}};
inline constexpr OpTolerance kAngles{{1e-6, 0}, {4e-6, 0}};  // float64 on the CPU, pairs of floats on a GPU

// Every number of `found` within tolerance of `expected`, which must be as many.
inline void expect_near(const std::vector<float>& found, const std::vector<double>& expected,
                        Tolerance tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i] == static_cast<float>(expected[i])) continue;  // equal infinities too
    const double allowed = tolerance.absolute + tolerance.relative * std::abs(expected[i]);
    ASSERT_LE(std::abs(static_cast<double>(found[i]) - expected[i]), allowed)
        << "number " << i << ": found " << found[i] << ", expected " << expected[i];
  }
}

}  // namespace shadowkv::testing
