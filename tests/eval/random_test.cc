#include "eval/random.h"

#include <gmock/gmock.h>

#include <array>
#include <regex>
#include <set>

namespace shadowkv::eval {
namespace {

// SplitMix64's published first outputs from 1234567: prompts stay the same for ever.
TEST(Random, GivesThePublishedSequence) {
  Random random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317u);
  EXPECT_EQ(random.next(), 3203168211198807973u);
  EXPECT_EQ(random.next(), 9817491932198370423u);
}

TEST(Random, NamesGiveDifferentStreamsAndSeedsToo) {
  EXPECT_EQ(Random(1, "vt 4096 0").next(), Random(1, "vt 4096 0").next());
  EXPECT_NE(Random(1, "vt 4096 0").next(), Random(1, "vt 4096 1").next());
  EXPECT_NE(Random(1, "vt 4096 0").next(), Random(2, "vt 4096 0").next());
}

TEST(Random, BelowReachesEveryNumberAboutAsOften) {
  Random random(7);
  std::array<int, 10> seen{};
  for (int i = 0; i < 10000; ++i) seen.at(static_cast<std::size_t>(random.below(10))) += 1;
  for (const int count : seen) EXPECT_NEAR(count, 1000, 150);  // five standard deviations
  EXPECT_THROW(random.below(0), InvalidInput);
}

TEST(Random, SamplesHoldEachNumberOnce) {
  Random random(7);
  const std::vector<int64_t> drawn = random.sample(20, 20);
  EXPECT_EQ(std::set<int64_t>(drawn.begin(), drawn.end()).size(), 20u);
  EXPECT_EQ(random.sample(1000, 5).size(), 5u);
  EXPECT_THROW((void)random.sample(3, 4), InvalidInput);
}

TEST(Random, WordsHaveTheirForm) {
  Random random(7);
  const std::regex uuid("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}");
  for (int i = 0; i < 200; ++i) {
    EXPECT_TRUE(std::regex_match(random_uuid(random), uuid));
    EXPECT_TRUE(std::regex_match(random_number(random, 7), std::regex("[1-9][0-9]{6}")));
    EXPECT_TRUE(std::regex_match(random_letters(random, 5, 'A'), std::regex("[A-Z]{5}")));
  }
  EXPECT_EQ(distinct(26, [&] { return random_letters(random, 1, 'a'); }).size(), 26u);
}

TEST(Random, HashesAreThePublishedOnes) {
  EXPECT_EQ(hash_of(""), 0xcbf29ce484222325u);
  EXPECT_EQ(hash_of("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(hash_text(0xc0ffee), "0000000000c0ffee");
}

}  // namespace
}  // namespace shadowkv::eval
