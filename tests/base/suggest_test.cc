#include "base/suggest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace shadowkv {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const std::vector<std::string> kNames = {"shadow", "full", "quest", "loki"};

TEST(Suggest, DistanceCountsInsertionsDeletionsReplacementsAndSwaps) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("abc", "abc"), 0);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("abc", "ac"), 1);
  EXPECT_EQ(edit_distance("abc", "axc"), 1);
  EXPECT_EQ(edit_distance("abc", "acb"), 1);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
}

TEST(Suggest, DistanceIsTheSameBothWays) {
  for (const std::string& a : kNames) {
    for (const std::string& b : kNames) EXPECT_EQ(edit_distance(a, b), edit_distance(b, a)) << a << " " << b;
  }
}

TEST(Suggest, TheNearestNameIsFound) {
  EXPECT_EQ(nearest_name("shaodw", kNames), "shadow");
  EXPECT_EQ(nearest_name("qest", kNames), "quest");
  EXPECT_EQ(nearest_name("full", kNames), "full");
}

TEST(Suggest, WhatIsFarFromAllNamesHasNoNearest) {
  EXPECT_EQ(nearest_name("streaming", kNames), "");
  EXPECT_EQ(nearest_name("shadow", {}), "");
}

TEST(Suggest, TheSentenceNamesWhatWasAskedTheNearestAndAll) {
  EXPECT_EQ(unknown_name("method", "quets", kNames),
            "unknown method \"quets\", did you mean \"quest\"? Known are: shadow, full, quest, loki");
  EXPECT_THAT(unknown_name("method", "streaming", kNames),
              AllOf(HasSubstr("Known are"), Not(HasSubstr("mean"))));
}

}  // namespace
}  // namespace shadowkv
