#include "base/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shadowkv {
namespace {

TEST(Check, ArithmeticIsExactUpToTheLargestSize) {
  EXPECT_EQ(checked_mul(INT64_MAX, 1, "x"), INT64_MAX);
  EXPECT_EQ(checked_mul(int64_t{1} << 31, int64_t{1} << 31, "x"), int64_t{1} << 62);
  EXPECT_EQ(checked_mul(0, INT64_MAX, "x"), 0);
  EXPECT_EQ(checked_add(INT64_MAX - 1, 1, "x"), INT64_MAX);
}

TEST(Check, OverflowAndNegativeSizesAreRefused) {
  EXPECT_THROW((void)checked_mul(INT64_MAX, 2, "x"), InvalidInput);
  EXPECT_THROW((void)checked_mul(-1, -1, "x"), InvalidInput);
  EXPECT_THROW((void)checked_mul(0, -1, "x"), InvalidInput);
  EXPECT_THROW((void)checked_add(INT64_MAX, 1, "x"), InvalidInput);
  EXPECT_THROW((void)checked_add(2, -1, "x"), InvalidInput);
}

TEST(Check, TheMessageNamesWhatWasComputed) {
  try {
    (void)checked_mul(INT64_MAX, 3, "the size of q");
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("the size of q of 9223372036854775807 x 3"));
  }
}

TEST(Check, RoundingUpReachesTheNextMultiple) {
  EXPECT_EQ(ceil_div(0, 8), 0);
  EXPECT_EQ(ceil_div(8, 8), 1);
  EXPECT_EQ(ceil_div(9, 8), 2);
  EXPECT_EQ(round_up(9, 8), 16);
  EXPECT_EQ(round_up(16, 8), 16);
}

}  // namespace
}  // namespace shadowkv
