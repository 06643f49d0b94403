#include "eval/babilong.h"

#include <gmock/gmock.h>

#include <cstdlib>

#include "eval/metrics.h"
#include "eval/text.h"
#include "small_corpus.h"

namespace shadowkv::eval {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kFile =
    "1 John travelled to the hallway.\n2 Mary journeyed to the bathroom.\n3 Where is John? \thallway\t1\n"
    "4 John moved to the bedroom.\n5 Where is Mary? \tbathroom\t2\n"
    "1 Sandra went to the kitchen.\n2 Where is Sandra? \tkitchen\t1\n";

std::vector<std::string> book() {
  std::vector<std::string> sentences;
  for (int i = 0; i < 500; ++i)
    sentences.push_back(fmt::format("Sentence {} of the book says nothing at all.", i));
  return sentences;
}

class BabiLong : public testing::Test {
 protected:
  Sample make(const std::string& task, int64_t length, int64_t index = 0) {
    return make_babilong(stories_, book_, {task, length, index, 42, Edition::current, corpus_, count_});
  }
  std::vector<BabiStory> stories_ = parse_babi(kFile, "a file");
  std::vector<std::string> book_ = book();
  Corpus corpus_{"/nonexistent"};
  CountTokens count_ = quarter_bytes;
};

TEST_F(BabiLong, StoriesHoldTheFactsUpToTheirQuestion) {
  ASSERT_EQ(stories_.size(), 3u);
  EXPECT_EQ(stories_[0].facts.size(), 2u);
  EXPECT_THAT(stories_[1].facts,
              ElementsAre("John travelled to the hallway.", "Mary journeyed to the bathroom.",
                          "John moved to the bedroom."));
  EXPECT_EQ(stories_[1].question, "Where is Mary?");
  EXPECT_EQ(stories_[1].answer, "bathroom");
  EXPECT_EQ(stories_[2].facts.size(), 1u);  // a new story
  for (const char* bad : {"", "no number\n", "1 fact alone.\n", "1 Where? \t\t1\n", "1\n"}) {
    EXPECT_THROW((void)parse_babi(bad, "a file"), InvalidInput) << bad;
  }
}

TEST_F(BabiLong, FactsStandInOrderAmongTheBook) {
  for (int64_t index = 0; index < 3; ++index) {
    const Sample sample = make("qa1", 3000, index);
    const std::string& text = sample.prompt.question;
    EXPECT_LE(quarter_bytes(sample.prompt) + kBabiAnswerTokens, 3000);
    EXPECT_GT(quarter_bytes(sample.prompt) + kBabiAnswerTokens, 3000 - 16);
    const std::string question = text.substr(text.rfind("Question: ") + 10);
    const auto story =
        std::find_if(stories_.begin(), stories_.end(), [&](const auto& s) { return s.question == question; });
    ASSERT_NE(story, stories_.end());
    std::size_t at = text.find("<context>\n");
    for (const std::string& fact : story->facts) {
      at = text.find(fact, at);
      ASSERT_NE(at, std::string::npos) << fact;
    }
    EXPECT_THAT(text, HasSubstr("</context>\n\nQuestion: "));
    EXPECT_THAT(text, HasSubstr("Answer: The most recent location of Alan is shop.\n</example>"));
  }
}

TEST_F(BabiLong, TheOnlyLabelOfTheFirstSentenceCounts) {
  const Sample sample = make("qa1", 3000, 0);
  const std::string right = sample.outputs[0], wrong = right == "garden" ? "kitchen" : "garden";
  EXPECT_EQ(score(sample, "The most recent location is " + right + ". Not the " + wrong, Scoring::ruler), 1);
  EXPECT_EQ(score(sample, "The " + right + " or the " + wrong, Scoring::ruler), 0);
  EXPECT_EQ(score(sample, "The " + wrong, Scoring::ruler), 0);
  EXPECT_EQ(score(sample, "", Scoring::ruler), 0);
}

TEST_F(BabiLong, LabelsOfTheQuestionDoNotCount) {
  stories_ = {{{"The garden is north of the office."}, "What is north of the office?", "garden"}};
  const Sample sample = make("qa4", 3000);
  EXPECT_EQ(score(sample, "North of the office is the garden", Scoring::ruler), 1);
  EXPECT_EQ(score(sample, "The garden and the kitchen", Scoring::ruler), 0);
}

TEST_F(BabiLong, WhatIsNotThereIsRefused) {
  EXPECT_THROW((void)make("qa1", 3000, 3), InvalidInput);
  EXPECT_THROW((void)make("qa9", 3000), InvalidInput);
  EXPECT_THROW((void)make("qa1", 100), InvalidInput);
  try {
    (void)read_babi("/nonexistent", "qa2");
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_THAT(error.what(), testing::AllOf(HasSubstr("/nonexistent/qa2_"), HasSubstr("can be had from")));
  }
}

TEST(BabiLongData, TheRealStoriesAnswerWithLabels) {
  const char* folder = std::getenv("SHADOWKV_EVAL_DATA");
  if (folder == nullptr)
    GTEST_SKIP() << "the data may not be shipped, and SHADOWKV_EVAL_DATA names no folder that has it";
  for (const std::string& task : babilong_tasks()) {
    const std::vector<BabiStory> stories = read_babi(std::string(folder) + "/babi", task);
    EXPECT_EQ(stories.size(), 1000u) << task;
    const std::vector<std::string> labels =
        task == "qa5"
            ? std::vector<std::string>{"Bill", "Fred", "Jeff", "Mary", "apple", "football", "milk"}
            : std::vector<std::string>{"bathroom", "bedroom", "garden", "hallway", "kitchen", "office"};
    for (const BabiStory& story : stories) EXPECT_THAT(labels, testing::Contains(story.answer)) << task;
  }
}

}  // namespace
}  // namespace shadowkv::eval
