#include "base/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "shadowkv/error.h"

namespace shadowkv {
namespace {

class TensorTest : public ::testing::Test {
 protected:
  TensorTest() { std::iota(numbers_.begin(), numbers_.end(), 0.0f); }

  std::vector<float> numbers_ = std::vector<float>(24);
  TensorView tensor_{numbers_.data(), DType::f32, {4, 3, 2}};
};

TEST_F(TensorTest, SizesFollowFromTheShape) {
  EXPECT_EQ(tensor_.elements(), 24);
  EXPECT_EQ(tensor_.row_elements(), 6);
  EXPECT_EQ(tensor_.bytes(), 96);
  EXPECT_EQ(TensorView().elements(), 0);
  EXPECT_TRUE(TensorView().empty());
}

TEST_F(TensorTest, RowsAreAViewOfTheSameMemory) {
  const TensorView rows = tensor_.rows(1, 2);
  EXPECT_EQ(rows.shape[0], 2);
  EXPECT_EQ(rows.as<float>(), numbers_.data() + 6);
  EXPECT_EQ(tensor_.rows(4, 0).elements(), 0);
}

TEST_F(TensorTest, RowsOutsideAreRefused) {
  EXPECT_THROW((void)tensor_.rows(3, 2), InvalidInput);
  EXPECT_THROW((void)tensor_.rows(-1, 1), InvalidInput);
  EXPECT_THROW((void)tensor_.rows(0, -1), InvalidInput);
}

TEST_F(TensorTest, AReshapeKeepsTheElements) {
  const TensorView flat = tensor_.reshaped({24});
  EXPECT_EQ(flat.as<float>()[23], 23.0f);
  EXPECT_THROW((void)tensor_.reshaped({23}), InvalidInput);
}

TEST_F(TensorTest, ReadingAsAnotherTypeIsRefused) {
  EXPECT_THROW((void)tensor_.as<int32_t>(), InvalidInput);
  EXPECT_THROW((void)tensor_.as<bf16>(), InvalidInput);
}

TEST_F(TensorTest, MoreDimensionsThanSupportedAreRefused) {
  EXPECT_THROW(TensorView(numbers_.data(), DType::f32, {1, 1, 1, 1, 1}), InvalidInput);
}

TEST_F(TensorTest, AMisshapenTensorIsRefusedWithItsShapeAndTheExpectedOne) {
  check_shape("scale", "k", tensor_, {{"tokens", 4}, {"heads", -1}, {"dim", 2}});
  try {
    check_shape("scale", "k", tensor_, {{"tokens", 4}, {"heads", 5}, {"dim"}});
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_STREQ(error.what(), "scale: k is float32 [4, 3, 2], expected [tokens=4, heads=5, dim]");
  }
  EXPECT_THROW(check_shape("scale", "k", tensor_, {{"tokens", 4}}), InvalidInput);
}

}  // namespace
}  // namespace shadowkv
