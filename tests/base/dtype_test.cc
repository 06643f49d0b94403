#include "base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace shadowkv {
namespace {

TEST(DType, EveryBfloat16SurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    bf16 value;
    value.bits = static_cast<uint16_t>(bits);
    const auto wide = static_cast<float>(value);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(bf16(wide))));
    } else {
      ASSERT_EQ(bf16(wide).bits, bits);
    }
  }
}

TEST(DType, Bfloat16RoundsHalvesToEven) {
  const auto rounded = [](uint32_t bits) { return bf16(std::bit_cast<float>(bits)).bits; };
  EXPECT_EQ(rounded(0x3f808000u), 0x3f80u);  // a tie goes to the even neighbour below
  EXPECT_EQ(rounded(0x3f818000u), 0x3f82u);  // and above
  EXPECT_EQ(rounded(0x3f808001u), 0x3f81u);
  EXPECT_EQ(rounded(0x3f807fffu), 0x3f80u);
  EXPECT_EQ(rounded(0xbf818000u), 0xbf82u);
}

TEST(DType, NumbersBeyondTheLargestBecomeInfinite) {
  EXPECT_TRUE(std::isinf(static_cast<float>(bf16(std::numeric_limits<float>::max()))));
  EXPECT_TRUE(std::isinf(static_cast<float>(f16(70000.0f))));
  EXPECT_EQ(static_cast<float>(f16(65504.0f)), 65504.0f);
}

TEST(DType, SizesAreThoseOfTheTypes) {
  EXPECT_EQ(size_of(DType::f32), 4);
  EXPECT_EQ(size_of(DType::bf16), static_cast<int64_t>(sizeof(bf16)));
  EXPECT_EQ(size_of(DType::f16), static_cast<int64_t>(sizeof(f16)));
  EXPECT_EQ(size_of(DType::i8), 1);
  EXPECT_EQ(size_of(DType::i64), 8);
  EXPECT_EQ(name_of(DType::bf16), "bfloat16");
}

}  // namespace
}  // namespace shadowkv
