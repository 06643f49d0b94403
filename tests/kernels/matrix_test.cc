#include "kernels/matrix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/devices.h"

namespace shadowkv::testing {
namespace {

TEST(Matrices, GiveEveryColumnAPlaceOfItsOwnNearIt) {
  for (const int64_t columns : {1, 15, 16, 17, 31, 48, 100}) {
    std::vector<int64_t> places(static_cast<size_t>(columns));
    for (int64_t i = 0; i < columns; ++i) {
      places[static_cast<size_t>(i)] = code_place(i, columns);
      EXPECT_EQ(code_place(i, columns) / 16, i / 16);
    }
    std::sort(places.begin(), places.end());
    std::vector<int64_t> all(places.size());
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(places, all) << columns << " columns";
  }
}

// What a lane of a tensor core's product takes of 16 columns is one word.
TEST(Matrices, PutALanesColumnsSideBySide) {
  for (int64_t t = 0; t < 4; ++t) {
    const int64_t columns[] = {2 * t, 2 * t + 1, 2 * t + 8, 2 * t + 9};
    for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(code_place(32 + columns[i], 48), 32 + 4 * t + i);
  }
}

TEST(Matrices, AreOffByHalfAStepAtMost) {
  for (const int64_t columns : {1, 16, 100}) {
    const auto row = random_numbers(columns, 1);
    std::vector<int8_t> codes(static_cast<size_t>(columns));
    const float scale = quantize_matrix_row(row.data(), columns, codes.data());
    float most = 0;
    for (int64_t i = 0; i < columns; ++i) {
      const int code = codes[static_cast<size_t>(code_place(i, columns))];
      most = std::max(most, static_cast<float>(std::abs(code)));
      EXPECT_NEAR(scale * static_cast<float>(code), row[static_cast<size_t>(i)], 0.5001f * scale);
    }
    EXPECT_EQ(most, 127.0f);  // the largest number has the largest code
  }
}

TEST(Matrices, KeepZerosAndTheSmallestNumbersFinite) {
  for (const float number : {0.0f, std::numeric_limits<float>::denorm_min(), 1e-38f}) {
    const std::vector<float> row(20, number);
    std::vector<int8_t> codes(row.size(), 1);
    const float scale = quantize_matrix_row(row.data(), 20, codes.data());
    EXPECT_TRUE(std::isfinite(scale));
    for (const int8_t code : codes) EXPECT_NEAR(scale * static_cast<float>(code), number, 1e-38f);
  }
}

}  // namespace
}  // namespace shadowkv::testing
