#include "eval/longbench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/check.h"
#include "eval/metrics.h"
#include "formats/temporary_file.h"

namespace shadowkv::eval {
namespace {

using ::testing::HasSubstr;
using Layouts = std::map<std::string, std::string>;

double score_of(const std::string& task, Metric metric, std::vector<std::string> references,
                const std::string& output, std::vector<std::string> kinds = {}) {
  return score({.task = task,
                .prompt = {},
                .outputs = std::move(references),
                .metric = metric,
                .distractors = std::move(kinds)},
               output, Scoring::ruler);
}

class LongBench : public ::testing::Test {
 protected:
  std::vector<Sample> read(const std::string& task, const std::string& lines, const Layouts& layouts = {}) {
    std::ofstream(folder_.path() / (task + ".jsonl")) << lines;
    return read_longbench(folder_.path(), task, layouts);
  }
  void expect_refused(const std::string& task, const std::string& lines, const std::string& part) {
    try {
      (void)read(task, lines);
      ADD_FAILURE() << "read; expected \"" << part << "\"";
    } catch (const InvalidInput& error) {
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  }
  testing::TemporaryFolder folder_;
};

TEST_F(LongBench, ReadsFinishedPrompts) {
  const auto samples = read("hotpotqa", R"({"task": "hotpotqa", "prompt": "Who?", "answers": ["A", "B"]})"
                                        "\n"
                                        R"({"prompt": "What?", "answers": ["C"]})"
                                        "\n");
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[0].prompt.question, "Who?");
  EXPECT_EQ(samples[0].outputs, (std::vector<std::string>{"A", "B"}));
  EXPECT_EQ(samples[0].max_new_tokens, 32);
  EXPECT_TRUE(samples[0].prompt.frame);
  EXPECT_EQ(samples[1].index, 1);
}

TEST_F(LongBench, LaysOutItsOwnLines) {
  const Layouts layouts = {{"trec", "{context}|{input}|{x}"}};
  const auto samples = read(
      "trec", R"({"input": "in", "context": "a {input} b", "answers": ["X"], "all_classes": ["X", "Y"]})",
      layouts);
  EXPECT_EQ(samples[0].prompt.question, "a {input} b|in|{x}");
  EXPECT_EQ(samples[0].distractors, (std::vector<std::string>{"X", "Y"}));
  EXPECT_FALSE(samples[0].prompt.frame);
}

TEST_F(LongBench, SaysWhatIsWrongWithAFile) {
  expect_refused("qasper", "[]", "no JSON object");
  expect_refused("qasper", R"({"input": "x", "context": "y", "answers": ["z"]})", "dataset2prompt.json");
  expect_refused("qasper", R"({"prompt": 1, "answers": ["z"]})", "\"prompt\" is no text");
  expect_refused("qasper", R"({"prompt": "x", "answers": []})", "\"answers\" is no list of texts");
  expect_refused("trec", R"({"prompt": "x", "answers": ["z"]})", "\"all_classes\"");
  expect_refused("qasper", "", "no samples");
  EXPECT_THROW((void)read_longbench(folder_.path(), "lcc", {}), InvalidInput);
  EXPECT_THROW((void)read_longbench(folder_.path(), "hotpot", {}), InvalidInput);
}

TEST(LongBenchScores, TakeTheBestReference) {
  EXPECT_EQ(score_of("qasper", Metric::f1, {"nothing", "The Answer!"}, "answer"), 1);
  EXPECT_DOUBLE_EQ(score_of("qasper", Metric::f1, {"red blue"}, "a red car"), 0.5);
  EXPECT_EQ(score_of("qasper", Metric::f1, {"yes"}, ""), 0);
}

TEST(LongBenchScores, CountCharactersOfChinese) {
  EXPECT_DOUBLE_EQ(score_of("multifieldqa_zh", Metric::f1, {"北京。"}, "是，北京"), 0.8);
  EXPECT_NEAR(score_of("dureader", Metric::rouge, {"北京"}, "北京"), 1, 1e-7);
}

TEST(LongBenchScores, NumbersAreSharesOfAllThatAreGiven) {
  EXPECT_EQ(score_of("passage_retrieval_en", Metric::number, {"Paragraph 19"}, "Paragraph 19"), 1);
  EXPECT_EQ(score_of("passage_retrieval_en", Metric::number, {"Paragraph 19"}, "19 or 7, 190 or 19"), 0.5);
  EXPECT_EQ(score_of("passage_count", Metric::number, {"4"}, "none"), 0);
}

TEST(LongBenchScores, KindsAreSharedAmongAllThatAreNamed) {
  const std::vector<std::string> kinds = {"Date", "Other number", "number", "City"};
  EXPECT_EQ(score_of("trec", Metric::kind, {"Other number"}, "Other number\nCity", kinds), 1)
      << "the first line counts";
  EXPECT_EQ(score_of("trec", Metric::kind, {"Other number"}, "\nOther number or City", kinds), 0.5);
  EXPECT_EQ(score_of("trec", Metric::kind, {"Other number"}, "City", kinds), 0);
}

TEST(LongBenchScores, OfCodeTheFirstLineThatIsSomeCounts) {
  EXPECT_EQ(score_of("lcc", Metric::code, {"return a"}, "\n```python\n# so\nreturn a\nreturn b"), 1);
  EXPECT_EQ(score_of("lcc", Metric::code, {"ab"}, "// ab"), 0.57);
}

TEST(LongBenchCuts, KeepBeginningAndEnd) {
  // A token is a byte, and a frame of 4 stands round each prompt.
  const CountTokens count = [](const Prompt& p) { return std::ssize(p.question) + 4; };
  const Prompt prompt{.question = "0123456789"};
  EXPECT_EQ(cut_middle(prompt, 14, count).question, prompt.question);
  EXPECT_EQ(cut_middle(prompt, 10, count).question, "012789");
  EXPECT_EQ(cut_middle(prompt, 9, count).question, "01789");
  EXPECT_EQ(cut_middle(prompt, 4, count).question, "");
  const Prompt wide{.question = "ééééé"};
  EXPECT_EQ(cut_middle(wide, 11, count).question, "ééé") << "6 bytes of whole characters, of 7";
}

}  // namespace
}  // namespace shadowkv::eval
