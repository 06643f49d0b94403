#include "eval/needle.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>

#include "eval/metrics.h"
#include "small_corpus.h"

namespace shadowkv::eval {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

class Needle : public testing::Test {
 protected:
  static std::string story() {
    std::ifstream file(std::string(SHADOWKV_TEXTS) + "/a_scandal_in_bohemia.txt");
    return {std::istreambuf_iterator<char>(file), {}};
  }
  Sample make(NeedlePrompt prompt, int64_t depth, int64_t length = 4096, int64_t index = 0) {
    return make_needle({prompt, depth, haystack_},
                       {"needle", length, index, 42, Edition::current, corpus_, count_});
  }
  // Where the needle begins, as a share of the context.
  static double place_of(const Sample& sample, const std::string& needle, std::size_t before) {
    const std::string& text = sample.prompt.question;
    const auto at = static_cast<double>(text.find(needle)), size = static_cast<double>(text.size());
    const auto start = static_cast<double>(before);
    return (at - start) / (size - start - 250);
  }

  std::string haystack_ = story();
  Corpus corpus_{"/nonexistent"};
  CountTokens count_ = quarter_bytes;
};

TEST_F(Needle, TurnsAskForEachOfAsManyNeedles) {
  const Sample sample = make_needle_turns({.haystack = haystack_, .answer_tokens = 24}, 8,
                                          {"needle turns", 4096, 3, 42, Edition::current, corpus_, count_});
  const std::vector<Sample> turns = turns_of(sample);
  ASSERT_EQ(turns.size(), 8u);
  std::set<std::string> numbers, cities;
  std::vector<std::size_t> places;
  int64_t tokens = 0;
  for (std::size_t t = 0; t < turns.size(); ++t) {
    EXPECT_EQ(turns[t].task, "turn " + std::to_string(t + 1));
    const std::string& text = turns[t].prompt.question;
    const std::size_t at = text.rfind("Question: What is the special magic ") + 36;
    const std::string city = text.substr(at, text.find(" number?", at) - at);
    const std::string needle = "\nThe special magic " + city + " number is: " + turns[t].outputs[0] + "\n";
    places.push_back(sample.prompt.question.find(needle));
    EXPECT_NE(places.back(), std::string::npos);
    numbers.insert(turns[t].outputs[0]);
    cities.insert(city);
    tokens += count_(turns[t].prompt) + turns[t].max_new_tokens;
    if (t > 0) {
      EXPECT_THAT(text, StartsWith("\n\nQuestion: "));
    }
  }
  EXPECT_EQ(sample.max_new_tokens, 24);
  EXPECT_EQ(numbers.size(), 8u);
  EXPECT_EQ(cities.size(), 8u);
  EXPECT_FALSE(std::is_sorted(places.begin(), places.end())) << "the order is drawn";
  const auto [first, last] = std::minmax_element(places.begin(), places.end());
  EXPECT_LT(*first, sample.prompt.question.size() / 20);
  EXPECT_GT(*last, sample.prompt.question.size() * 9 / 10);
  EXPECT_LE(tokens, 4096);
  EXPECT_GT(tokens, 3900);
}

TEST_F(Needle, PaperPromptAsksForAMagicNumber) {
  const Sample sample = make(NeedlePrompt::paper, 50);
  const std::string& text = sample.prompt.question;
  EXPECT_THAT(
      text,
      StartsWith("Write a high-quality answer for the given question using only the provided search results "
                 "(some of which might be irrelevant).\n"));
  EXPECT_THAT(
      text,
      EndsWith(" Don't give information outside the document or repeat your findings. Keep your response "
               "short and direct. Answer: "));
  const std::size_t at = text.find("\nThe special magic ");
  ASSERT_NE(at, std::string::npos);
  const std::string city = text.substr(at + 19, text.find(" number is: ", at) - at - 19);
  EXPECT_THAT(text, HasSubstr("The special magic " + city + " number is: " + sample.outputs[0] + "\n"));
  EXPECT_THAT(text, HasSubstr("\n\nQuestion: What is the special magic " + city + " number?"));
  EXPECT_EQ(sample.max_new_tokens, 10);
  EXPECT_EQ(score(sample, " 1,234,567", Scoring::ruler), 0);
  EXPECT_EQ(score(sample, "It is " + sample.outputs[0] + ".", Scoring::ruler), 1);
}

TEST_F(Needle, ClassicPromptAsksAboutSanFrancisco) {
  const Sample sample = make(NeedlePrompt::classic, 50, 8192);
  EXPECT_THAT(sample.prompt.question,
              HasSubstr(" The best thing to do in San Francisco is eat a sandwich and sit in "
                        "Dolores Park on a sunny day."));
  EXPECT_EQ(sample.max_new_tokens, 300);
  EXPECT_LE(quarter_bytes(sample.prompt), 8192 - 200);
  EXPECT_NEAR(score(sample, "Eat a sandwich in Dolores Park", Scoring::ruler), 2.0 / 3, 1e-12);
}

TEST_F(Needle, StandsAtItsDepthAfterASentenceAndFillsTheLength) {
  for (const int64_t depth : {0, 25, 50, 75, 100}) {
    const Sample sample = make(NeedlePrompt::paper, depth);
    EXPECT_LE(quarter_bytes(sample.prompt), 4096 - 32);
    EXPECT_GE(quarter_bytes(sample.prompt), 4096 - 34);
    EXPECT_NEAR(place_of(sample, "\nThe special magic ", 128), static_cast<double>(depth) / 100, 0.02)
        << depth;
    const std::size_t at = sample.prompt.question.find("\nThe special magic ");
    if (depth < 100) {
      EXPECT_THAT(std::string(".\n"), HasSubstr(sample.prompt.question.substr(at - 1, 1)));
    }
  }
}

TEST_F(Needle, EveryDrawHasItsOwnNumberAndBeginning) {
  std::set<std::string> numbers, beginnings;
  for (int64_t index = 0; index < 8; ++index) {
    const Sample sample = make(NeedlePrompt::paper, 50, 2048, index);
    numbers.insert(sample.outputs[0]);
    beginnings.insert(sample.prompt.question.substr(128, 60));
  }
  EXPECT_EQ(numbers.size(), 8u);
  EXPECT_GE(beginnings.size(), 7u);
}

TEST_F(Needle, AHaystackThatRunsOutBeginsAgainAndCutsNoCharacter) {
  haystack_ = "Drei \u00c4pfel. Vier \u00d6fen. ";
  for (int64_t length = 200; length < 240; ++length) {
    const Sample sample = make(NeedlePrompt::paper, 100, length);
    const std::string& text = sample.prompt.question;
    const std::size_t at = text.find("\nThe special magic ");
    const auto last = static_cast<unsigned char>(text[at - 1]);
    EXPECT_TRUE(last < 0x80 || (last & 0xc0u) == 0x80u) << length;  // no character's first byte alone
  }
}

TEST(NeedlePlace, IsAfterTheLastSentenceOrLineBeforeTheDepth) {
  EXPECT_EQ(plant("One. Two. Three", "#", 0), "#One. Two. Three");
  EXPECT_EQ(plant("One. Two. Three", "#", 40), "One.# Two. Three");
  EXPECT_EQ(plant("One. Two. Three", "#", 99), "One. Two.# Three");
  EXPECT_EQ(plant("One. Two. Three", "#", 100), "One. Two. Three#");
  EXPECT_EQ(plant("One\nTwo", "#", 90), "One\n#Two");
  EXPECT_THAT(needle_depths(10), testing::ElementsAre(0, 11, 22, 33, 44, 56, 67, 78, 89, 100));
  EXPECT_THAT(needle_depths(1), testing::ElementsAre(50));
}

TEST(NeedlePromptName, UnknownNamesTheKnown) {
  EXPECT_EQ(parse_needle_prompt("classic"), NeedlePrompt::classic);
  EXPECT_THROW((void)parse_needle_prompt("clasic"), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::eval
