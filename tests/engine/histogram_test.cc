#include <gtest/gtest.h>

#include "shadowkv/service.h"

namespace shadowkv::testing {
namespace {

TEST(Durations, QuantilesAreUpperBoundsOfTheirBuckets) {
  DurationHistogram histogram;
  EXPECT_EQ(histogram.quantile(0.5), 0);
  for (const double seconds : {0.0, 1e-5, 0.01, 0.02, 0.04, 1e9}) histogram.add(seconds);
  EXPECT_EQ(histogram.count(), 6);
  EXPECT_EQ(histogram.in_bucket(0), 2);
  EXPECT_EQ(histogram.in_bucket(DurationHistogram::kBuckets - 1), 1);
  EXPECT_GE(histogram.quantile(0.5), 0.01);
  EXPECT_LE(histogram.quantile(0.5), 0.01 * 1.19);
  EXPECT_EQ(histogram.max(), 1e9);
}

TEST(Tokens, BucketsTakeWhatIsUpToTheirBounds) {
  TokenHistogram histogram;
  for (const double tokens : {0.5, 1.0, 1.5, 8.0, 8.5, 1e9}) histogram.add(tokens);
  EXPECT_EQ(histogram.count(), 6);
  EXPECT_EQ(histogram.sum(), 0.5 + 1 + 1.5 + 8 + 8.5 + 1e9);
  EXPECT_EQ(histogram.in_bucket(0), 2);
  EXPECT_EQ(histogram.in_bucket(1), 1);
  EXPECT_EQ(TokenHistogram::upper_bound(3), 8);
  EXPECT_EQ(histogram.in_bucket(3), 1);
  EXPECT_EQ(histogram.in_bucket(4), 1);
  EXPECT_EQ(histogram.in_bucket(TokenHistogram::kBuckets - 1), 1);
}

}  // namespace
}  // namespace shadowkv::testing
