#include "eval/metrics.h"

#include <gmock/gmock.h>

#include "shadowkv/error.h"

namespace shadowkv::eval {
namespace {

Sample asked(const char* task, std::vector<std::string> outputs, Metric metric = Metric::all) {
  Sample sample;
  sample.task = task;
  sample.outputs = std::move(outputs);
  sample.metric = metric;
  return sample;
}

double by_ruler(const Sample& sample, std::string_view output) {
  return score(sample, output, Scoring::ruler);
}
double by_shadowkv(const Sample& sample, std::string_view output) {
  return score(sample, output, Scoring::shadowkv);
}

TEST(Metrics, StringMatchAllIsTheShareOfReferencesThatOccur) {
  const Sample sample = asked("vt", {"ABCDE", "FGHIJ", "KLMNO", "PQRST"});
  EXPECT_EQ(by_ruler(sample, " abcde and xFGHIJx"), 0.5);
  EXPECT_EQ(by_ruler(sample, ""), 0);
  EXPECT_EQ(by_ruler(sample, "ABCDE FGHIJ KLMNO PQRST"), 1);
}

TEST(Metrics, StringMatchPartTakesAnyReference) {
  const Sample sample = asked("qa_1", {"in the 10th century", "France"}, Metric::part);
  EXPECT_EQ(by_ruler(sample, "It is france."), 1);
  EXPECT_EQ(by_ruler(sample, "Germany"), 0);
  EXPECT_EQ(by_ruler(sample, ""), 0);
}

TEST(Metrics, ControlCharactersBecomeLineEnds) {
  EXPECT_EQ(clean_output(" \x01 a\tb\x1f"), "a\nb");
  EXPECT_EQ(by_ruler(asked("qa_2", {"a b"}, Metric::part), "a\tb"), 0);
}

TEST(Metrics, PaperTakesUuidsAsOneWord) {
  const Sample sample = asked("niah_single_3", {"1ee34dc4-3b04"});
  EXPECT_EQ(by_shadowkv(sample, " 1EE34DC4-3B04."), 1);
  EXPECT_EQ(by_shadowkv(sample, "It is 1ee34dc4-3b04, I think"), 1);
  EXPECT_EQ(by_shadowkv(sample, "it is 91ee34dc4-3b04"), 0);
  EXPECT_EQ(by_ruler(sample, "it is 91ee34dc4-3b04"), 1);
}

TEST(Metrics, PaperTakesNumbersByTheirDigits) {
  const Sample sample = asked("niah_multivalue", {"1234567", "7654321"});
  EXPECT_EQ(by_shadowkv(sample, "1234567, and 17654321."), 0.5);
  EXPECT_EQ(by_ruler(sample, "1234567, and 17654321."), 1);
}

TEST(Metrics, PaperTakesWordsWhole) {
  EXPECT_EQ(by_shadowkv(asked("fwe", {"abcdef", "ghijkl"}), "abcdef, xghijkl"), 0.5);
}

// As the original does: that is why RULER's own is the default.
TEST(Metrics, PaperTakesAnEmptyAnswerToAQuestionForRight) {
  const Sample sample = asked("qa_1", {"France"}, Metric::part);
  EXPECT_EQ(by_shadowkv(sample, ""), 1);
  EXPECT_EQ(by_shadowkv(sample, "Germany"), 0);
}

TEST(Metrics, NormalizedDropsArticlesAndPunctuation) {
  EXPECT_EQ(normalized("The  Cat, a dog; AN owl."), "cat dog owl");
}

TEST(Metrics, UnknownScoringNamesTheKnown) {
  EXPECT_EQ(parse_scoring("shadowkv"), Scoring::shadowkv);
  try {
    (void)parse_scoring("rouge");
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("ruler, shadowkv"));
  }
}

}  // namespace
}  // namespace shadowkv::eval
