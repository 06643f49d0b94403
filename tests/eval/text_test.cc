#include "eval/text.h"

#include <gmock/gmock.h>

namespace shadowkv::eval {
namespace {

using testing::ElementsAre;

TEST(Text, SentencesEndWhereTheNextBegins) {
  EXPECT_THAT(split_sentences("One. Two!  \"Three?\" four.\nFive"),
              ElementsAre("One.", "Two!", "\"Three?\" four.", "Five"));
  EXPECT_THAT(split_sentences("It cost 3.50 in all. e.g. this"),
              ElementsAre("It cost 3.50 in all. e.g. this"));
  EXPECT_TRUE(split_sentences(" \n ").empty());
}

TEST(Text, SentencesJoinedAreTheTextAgain) {
  const std::string text =
      "To Sherlock Holmes she is always the woman. I have seldom heard him mention her. (Why?) So.";
  EXPECT_EQ(join(split_sentences(text), " "), text);
}

TEST(Text, WordsAndLinesLeaveOutWhatIsEmpty) {
  EXPECT_THAT(split_words("  a\tb \n c"), ElementsAre("a", "b", "c"));
  EXPECT_THAT(split_lines("a b\r\n\n c\n"), ElementsAre("a b", " c"));
}

TEST(Text, FillReplacesEveryPlaceAndLooksAtNoneTwice) {
  EXPECT_EQ(fill_in("{x} and {x}, {y}", "x", "{x}"), "{x} and {x}, {y}");
  EXPECT_EQ(fill_in("{a}{b}{a}", "a", "12"), "12{b}12");
  EXPECT_EQ(strip(" \n a b\t"), "a b");
  EXPECT_EQ(lower_case("ÀBC-1"), "Àbc-1");
}

}  // namespace
}  // namespace shadowkv::eval
