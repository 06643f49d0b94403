#include "eval/ruler.h"

#include <gmock/gmock.h>

#include <map>
#include <regex>
#include <set>

#include "eval/metrics.h"
#include "eval/text.h"
#include "small_corpus.h"

namespace shadowkv::eval {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class Ruler : public testing::Test {
 protected:
  [[nodiscard]] Sample make(const std::string& task, int64_t length, int64_t index = 0, uint64_t seed = 42) {
    return make_ruler({task, length, index, seed, Edition::current, corpus_, count_});
  }
  static int64_t occurrences(const std::string& text, const std::string& of) {
    int64_t count = 0;
    for (std::size_t at = text.find(of); at != std::string::npos; at = text.find(of, at + 1)) ++count;
    return count;
  }

  SmallCorpus files_;
  Corpus corpus_ = files_.open();
  CountTokens count_ = quarter_bytes;
};

class EveryTask : public Ruler, public testing::WithParamInterface<std::string> {};

TEST_P(EveryTask, FitsItsLengthAndLeavesRoomForTheAnswer) {
  for (const int64_t length : {2048, 6000}) {
    for (int64_t index = 0; index < 3; ++index) {
      const Sample sample = make(GetParam(), length, index);
      const int64_t tokens = quarter_bytes(sample.prompt) + sample.max_new_tokens;
      EXPECT_LE(tokens, length);
      // One more of its unit (ten documents of 40 bytes, a word that stands 30 times) would be too long.
      if (!GetParam().starts_with("qa")) {
        EXPECT_GT(tokens, length - 120) << length;
      }
      EXPECT_EQ(sample.max_new_tokens, ruler_facts(GetParam()).max_new_tokens);
      EXPECT_EQ(sample.metric, ruler_facts(GetParam()).metric);
    }
  }
}

TEST_P(EveryTask, HoldsItsAnswersAndScoresThemFull) {
  const Sample sample = make(GetParam(), 4096);
  ASSERT_FALSE(sample.outputs.empty());
  for (const std::string& answer : sample.outputs) {
    if (GetParam() != "qa_2") {
      EXPECT_THAT(sample.prompt.question, HasSubstr(answer));
    }
  }
  EXPECT_EQ(score(sample, " " + join(sample.outputs, ", ") + ".", Scoring::ruler), 1);
  EXPECT_EQ(score(sample, " " + join(sample.outputs, ", ") + ".", Scoring::shadowkv), 1);
  EXPECT_EQ(score(sample, "I cannot tell", Scoring::ruler), 0);
}

TEST_P(EveryTask, DependsOnSeedTaskLengthAndIndexAlone) {
  const Sample first = make(GetParam(), 3000, 1);
  (void)make(GetParam(), 2048, 0);
  EXPECT_EQ(prompt_hash(make(GetParam(), 3000, 1).prompt), prompt_hash(first.prompt));
  EXPECT_NE(prompt_hash(make(GetParam(), 3000, 2).prompt), prompt_hash(first.prompt));
  EXPECT_NE(prompt_hash(make(GetParam(), 3000, 1, 43).prompt), prompt_hash(first.prompt));
}

TEST_P(EveryTask, SaysWhereALengthIsTooShort) {
  try {
    (void)make(GetParam(), 100);
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_THAT(error.what(), testing::AllOf(StartsWith(GetParam()), HasSubstr("100 tokens")));
  }
}

INSTANTIATE_TEST_SUITE_P(Ruler, EveryTask, testing::ValuesIn(ruler_tasks()),
                         [](const auto& task) { return task.param; });

struct NiahCase {
  const char* task;
  int64_t planted, queries, answers;
  const char* value;
};

TEST_F(Ruler, NeedleTasksPlantAndAskWhatTheTableSays) {
  const NiahCase cases[] = {{"niah_single_1", 1, 1, 1, "number"},   {"niah_single_2", 1, 1, 1, "number"},
                            {"niah_single_3", 1, 1, 1, "uuid"},     {"niah_multikey_1", 4, 1, 1, "number"},
                            {"niah_multivalue", 4, 1, 4, "number"}, {"niah_multiquery", 4, 4, 4, "number"}};
  for (const NiahCase& c : cases) {
    const Sample sample = make(c.task, 4096);
    const std::string& text = sample.prompt.question;
    EXPECT_EQ(occurrences(text, "One of the special magic "), c.planted) << c.task;
    EXPECT_EQ(static_cast<int64_t>(sample.outputs.size()), c.answers) << c.task;
    const bool one = c.answers == 1;
    const std::string type = std::string(c.value) + (one ? "" : "s");
    EXPECT_THAT(text, StartsWith(one ? "A special magic " + type + " is hidden"
                                     : "Some special magic " + type + " are hidden"));
    EXPECT_THAT(text, HasSubstr("quiz you about the " + type + " afterwards.\n"));
    EXPECT_THAT(sample.prompt.answer_prefix, StartsWith(" The special magic " + type + " for "));
    EXPECT_TRUE(sample.prompt.answer_prefix.ends_with(one ? " mentioned in the provided text is"
                                                          : " mentioned in the provided text are"));
    EXPECT_EQ(occurrences(sample.prompt.answer_prefix, ", "), c.queries - 1) << c.task;
  }
  EXPECT_THAT(make("niah_multiquery", 4096).prompt.answer_prefix, HasSubstr(", and "));
}

TEST_F(Ruler, MultikeyHaystacksAreNeedlesThroughout) {
  for (const char* task : {"niah_multikey_2", "niah_multikey_3"}) {
    const Sample sample = make(task, 4096);
    const std::vector<std::string> lines = split_lines(sample.prompt.question);
    const std::regex needle(task == std::string("niah_multikey_2")
                                ? "One of the special magic numbers for [a-z]+-[a-z]+ is: [1-9][0-9]{6}\\."
                                : "One of the special magic uuids for [0-9a-f-]{36} is: [0-9a-f-]{36}\\.");
    for (std::size_t i = 1; i + 1 < lines.size(); ++i)
      EXPECT_TRUE(std::regex_match(lines[i], needle)) << lines[i];
    EXPECT_EQ(occurrences(sample.prompt.question, sample.outputs[0]), 1);
  }
}

TEST_F(Ruler, NoiseStandsLineByLine) {
  const std::vector<std::string> lines = split_lines(make("niah_single_1", 4096).prompt.question);
  std::map<std::string, int> count;
  for (std::size_t i = 1; i + 1 < lines.size(); ++i) count[lines[i]] += 1;
  EXPECT_EQ(count.size(), 2u);  // the needle and the noise
}

TEST_F(Ruler, NeedlesOfEssaysStandBetweenSentences) {
  const std::string text = make("niah_single_2", 4096).prompt.question;
  const std::size_t at = text.find("One of the special magic");
  ASSERT_NE(at, std::string::npos);
  EXPECT_THAT(std::string(".!?\"\n,; "), HasSubstr(std::string(1, text[at - 2]))) << text.substr(at - 20, 40);
}

TEST_F(Ruler, VariableTrackingChainsInOrderAfterASolvedExample) {
  const Sample sample = make("vt", 4096);
  const std::string& text = sample.prompt.question;
  EXPECT_EQ(occurrences(text, "Memorize and track"), 2);
  EXPECT_EQ(occurrences(text, "Answer: According to the chain(s)"), 1);
  ASSERT_EQ(sample.outputs.size(), 5u);
  std::size_t at = text.rfind("Memorize and track");
  for (std::size_t i = 0; i < 5; ++i) {
    const std::string statement = i == 0
                                      ? "VAR " + sample.outputs[0] + " = "
                                      : "VAR " + sample.outputs[i] + " = VAR " + sample.outputs[i - 1] + " ";
    const std::size_t next = text.find(statement, at);
    ASSERT_NE(next, std::string::npos) << statement;
    EXPECT_EQ(text[next - 1], '\n');
    at = next;
  }
  const std::string value = text.substr(text.find("VAR " + sample.outputs[0] + " = ") + 12, 5);
  EXPECT_TRUE(
      sample.prompt.answer_prefix.ends_with("5 variables are assigned the value " + value + ", they are: "));
}

TEST_F(Ruler, CommonWordsStandThirtyTimesAndTheOthersThree) {
  for (const int64_t length : {3000, 6000}) {
    const Sample sample = make("cwe", length);
    const std::string& text = sample.prompt.question;
    const std::string list = text.substr(text.rfind("appear most often.\n") + 19);
    std::map<std::string, int> count;
    for (const std::string& word : split_words(list.substr(0, list.find('\n')))) count[word] += 1;
    for (const std::string& word : sample.outputs) EXPECT_EQ(count[word], length < 4096 ? 6 : 30) << word;
    const std::set<std::string> common(sample.outputs.begin(), sample.outputs.end());
    EXPECT_EQ(common.size(), 10u);
    for (const auto& [word, times] : count) {
      if (common.contains(word) || word.ends_with(".")) continue;
      EXPECT_EQ(times, length < 4096 ? 1 : 3) << word;
    }
    EXPECT_THAT(list, StartsWith("1. "));
  }
}

TEST_F(Ruler, FrequentWordsFollowTheirLaw) {
  const Sample sample = make("fwe", 6000);
  const std::string& text = sample.prompt.question;
  const std::size_t begin = text.find("coded words. ") + 13;
  std::map<std::string, int> count;
  for (const std::string& word : split_words(text.substr(begin, text.find('\n') - begin))) count[word] += 1;
  const double dots = count["..."];
  for (int rank = 2; rank <= 4; ++rank) {
    EXPECT_NEAR(count[sample.outputs[static_cast<std::size_t>(rank) - 2]], dots / (rank * rank), 1.0);
  }
}

TEST_F(Ruler, QuestionsStandInFileOrderWithTheirDocuments) {
  const Sample first = make("qa_1", 4096, 0), fourth = make("qa_1", 4096, 3);
  EXPECT_THAT(first.prompt.question, HasSubstr("Question: What says 0-0?"));
  EXPECT_THAT(fourth.prompt.question, HasSubstr("Question: What says 1-0?"));
  EXPECT_THAT(fourth.prompt.question, HasSubstr("Paragraph 0 of article 1"));
  EXPECT_THAT(fourth.outputs, testing::ElementsAre("blue", "says blue"));
  EXPECT_EQ(occurrences(first.prompt.question, "Document "), 6);  // all there are
  EXPECT_THAT(make("qa_2", 4096).prompt.question, HasSubstr("Title 0-3\nFirst sentence. Second of 3."));
  EXPECT_THROW((void)make("qa_1", 4096, 6), InvalidInput);
}

TEST_F(Ruler, GoldAndRelatedParagraphsComeFirstWhereFewFit) {
  const Sample sample = make("qa_1", 145, 4);  // gold is paragraph 1 of article 1
  EXPECT_THAT(sample.prompt.question, HasSubstr("Paragraph 1 of article 1"));
  EXPECT_EQ(occurrences(sample.prompt.question, "of article 1"), 3);
  EXPECT_EQ(occurrences(sample.prompt.question, "of article 0"), 0);
}

TEST_F(Ruler, UnknownTaskNamesTheKnown) {
  try {
    (void)make("niah_single", 4096);
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_THAT(error.what(),
                testing::AllOf(HasSubstr("niah_single_1"), HasSubstr("qa_2"), HasSubstr("did you mean")));
  }
}

TEST_F(Ruler, MissingFileIsNamedWithItsSource) {
  Corpus empty("/nonexistent");
  for (const std::string& task : ruler_tasks()) {
    try {
      (void)make_ruler({task, 4096, 0, 42, Edition::current, empty, count_});
      EXPECT_TRUE(task == "vt" || task == "fwe" || task == "niah_multikey_3") << task;
    } catch (const InvalidInput& error) {
      EXPECT_THAT(error.what(),
                  testing::AllOf(StartsWith("/nonexistent/ruler"), HasSubstr("can be had from")));
    }
  }
}

TEST_F(Ruler, DamagedDataIsRefused) {
  files_.write("ruler/dev-v2.0.json", R"({"data": [{"paragraphs": [{"context": 7}]}]})");
  EXPECT_THROW((void)make("qa_1", 4096), InvalidInput);
  files_.write("ruler/dev-v2.0.json", "{");
  EXPECT_THROW((void)make("qa_1", 4096), InvalidInput);
  files_.write("ruler/hotpot_dev_distractor_v1.json",
               R"([{"question": "", "answer": "", "context": [["a"]]}])");
  EXPECT_THROW((void)make("qa_2", 4096), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::eval
