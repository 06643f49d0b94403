#include "eval/fit.h"

#include <gmock/gmock.h>

#include <cmath>

#include "eval/random.h"

namespace shadowkv::eval {
namespace {

TEST(Fit, FindsTheLargestOfAnyRisingCourse) {
  Random random(3);
  for (int round = 0; round < 300; ++round) {
    std::vector<int64_t> tokens{random.between(0, 50)};
    const int64_t steepness = random.between(1, 40);
    for (int i = 0; i < 200; ++i) tokens.push_back(tokens.back() + random.below(steepness));
    const int64_t least = random.between(1, 20), most = random.between(least, 200),
                  limit = random.between(0, 4000);
    const auto tokens_of = [&](int64_t size) { return tokens.at(static_cast<std::size_t>(size)); };
    int64_t wanted = least - 1;
    for (int64_t size = least; size <= most; ++size) {
      if (tokens_of(size) <= limit) wanted = size;
    }
    EXPECT_EQ(largest_fitting({least, most}, limit, tokens_of), wanted);
  }
}

TEST(Fit, NeedsFewLooksWhereTheCourseIsEven) {
  int looks = 0;
  const auto tokens_of = [&](int64_t size) { return ++looks, 100 + 17 * size + size % 3; };
  EXPECT_EQ(largest_fitting({1, 1'000'000}, 131'072, tokens_of), 7704);
  EXPECT_LE(looks, 8);
}

TEST(Fit, NeverTakesMoreThanTwiceBisection) {
  int looks = 0;
  const auto tokens_of = [&](int64_t size) {
    return ++looks, size < 900'000 ? int64_t{1} : int64_t{1'000'000'000};
  };
  EXPECT_EQ(largest_fitting({1, 1'000'000}, 1000, tokens_of), 899'999);
  EXPECT_LE(looks, 60);
}

TEST(Fit, GivesWhatFitsEvenWhereTheCourseFalls) {
  Random random(5);
  for (int round = 0; round < 200; ++round) {
    const auto tokens_of = [&](int64_t size) {
      return size * 10 + static_cast<int64_t>(25 * std::sin(size));
    };
    const int64_t limit = random.between(60, 3000);
    const int64_t size = largest_fitting({1, 1000}, limit, tokens_of);
    EXPECT_LE(tokens_of(size), limit);
    EXPECT_GE(size, limit / 10 - 6);
  }
}

TEST(Fit, SaysWhereNothingFits) {
  EXPECT_EQ(largest_fitting({4, 10}, 3, [](int64_t size) { return size; }), 3);
  EXPECT_EQ(largest_fitting({4, 3}, 100, [](int64_t size) { return size; }), 3);
  EXPECT_EQ(largest_fitting({4, 10}, 100, [](int64_t size) { return size; }), 10);
}

}  // namespace
}  // namespace shadowkv::eval
