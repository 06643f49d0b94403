#include "engine/stop_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/utf8.h"

namespace shadowkv {
namespace {

struct Shown {
  std::string text;
  bool is_found = false;
  bool operator==(const Shown&) const = default;
};

Shown show(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopText text(stops);
  Shown shown;
  for (const std::string& piece : pieces) shown.text += text.add(piece);
  shown.is_found = text.is_found();
  shown.text += text.finish();
  return shown;
}

TEST(StopText, ShowsWhatLiesBeforeIt) {
  EXPECT_EQ(show({"END"}, {"one END two"}), (Shown{"one ", true}));
  EXPECT_EQ(show({"END"}, {"one E", "N", "D two", "more"}), (Shown{"one ", true}));
  EXPECT_EQ(show({"END"}, {"one E", "N"}), (Shown{"one EN", false})) << "it was none";
  EXPECT_EQ(show({"aab"}, {"a", "a", "a", "b"}), (Shown{"a", true}));
  EXPECT_EQ(show({}, {"all", " of it"}), (Shown{"all of it", false}));
}

TEST(StopText, TheOneThatEndsFirstCountsOfSeveralTheLongest) {
  EXPECT_EQ(show({"abcdef", "cd"}, {"abcdef"}), (Shown{"ab", true}));
  EXPECT_EQ(show({"cd", "bcd"}, {"abcdef"}), (Shown{"a", true}));
}

TEST(StopText, HoldsBackOnlyWhatMayBeItsBeginning) {
  StopText text({"</tool>", "\n\n"});
  EXPECT_EQ(text.add("a <"), "a ");
  EXPECT_EQ(text.add("b\n"), "<b");
  EXPECT_EQ(text.add("c </too"), "\nc ");
  EXPECT_EQ(text.add("t"), "</toot");
  EXPECT_EQ(text.add("\n"), "");
  EXPECT_EQ(text.finish(), "\n");
  EXPECT_FALSE(text.is_found());
}

// Characters of one to four bytes, few enough for stop texts to be met.
std::string random_text(std::mt19937& random, int64_t most) {
  static const std::vector<std::string> kCharacters = {"a", "b", "é", "è", "€", "😀", "😁"};
  std::string text;
  const auto count = std::uniform_int_distribution<int64_t>(1, most)(random);
  for (int64_t i = 0; i < count; ++i) text += kCharacters[random() % kCharacters.size()];
  return text;
}

// The text in pieces of whole characters.
std::vector<std::string> cut(const std::string& text, std::mt19937& random) {
  std::vector<std::string> pieces(1);
  for (std::size_t at = 0; at < text.size();) {
    const auto length = static_cast<std::size_t>(read_utf8(std::string_view(text).substr(at)).length);
    pieces.back() += text.substr(at, length);
    at += length;
    if (random() % 3 == 0) pieces.emplace_back();
  }
  return pieces;
}

TEST(StopText, ThePiecesOfATextChangeNothingAndAreWholeCharacters) {
  std::mt19937 random(3);
  int found = 0;
  for (int i = 0; i < 5'000; ++i) {
    std::vector<std::string> stops;
    for (uint32_t n = random() % 4; n > 0; --n) stops.push_back(random_text(random, 4));
    const std::string text = random_text(random, 40);
    const Shown whole = show(stops, {text});
    found += whole.is_found ? 1 : 0;
    ASSERT_EQ(show(stops, cut(text, random)), whole);
    ASSERT_TRUE(text.starts_with(whole.text));
    StopText streamed(stops);
    for (const std::string& piece : cut(text, random)) ASSERT_FALSE(find_invalid_utf8(streamed.add(piece)));
    for (const std::string& stop : stops) ASSERT_EQ(whole.text.find(stop), std::string::npos);
  }
  EXPECT_GT(found, 500);
  EXPECT_LT(found, 4'500);
}

}  // namespace
}  // namespace shadowkv
