// Finished samples of RULER, taken apart and put together again by our own layouts: byte for byte the same.
// They may not be passed on, so SHADOWKV_EVAL_DATA names the folder that holds ruler_reference/.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "eval/corpus.h"
#include "eval/niah.h"
#include "eval/question_answering.h"
#include "eval/text.h"
#include "eval/variable_tracking.h"
#include "eval/word_counts.h"

namespace shadowkv::eval {
namespace {

struct Finished {
  std::string input;
  std::vector<std::string> outputs;
};

class RulerReference : public testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("SHADOWKV_EVAL_DATA");
    if (folder == nullptr)
      GTEST_SKIP() << "the data may not be shipped, and SHADOWKV_EVAL_DATA names no folder that has it";
    folder_ = folder;
  }
  [[nodiscard]] std::vector<Finished> read(const char* name) const {
    std::vector<Finished> all;
    for (const std::string& line :
         split_lines(read_data_file(folder_ / "ruler_reference" / name, "its source"))) {
      const nlohmann::json json = nlohmann::json::parse(line);
      all.push_back({json.at("input"), json.at("outputs")});
    }
    return all;
  }
  std::filesystem::path folder_;
};

std::string between(const std::string& text, const std::string& from, const std::string& to) {
  const std::size_t begin = text.find(from) + from.size();
  return text.substr(begin, text.find(to, begin) - begin);
}

// As a prompt stands in a file: chat frame, question, end of the frame, prefix.
std::string framed(const Prompt& prompt) {
  return "[INST] " + prompt.question + " [/INST]" + prompt.answer_prefix;
}

TEST_F(RulerReference, MultikeyNeedles) {
  const std::vector<Finished> samples = read("niah_multikey_3_4096_first5.jsonl");
  EXPECT_EQ(samples.size(), 5u);
  for (const Finished& sample : samples) {
    const std::vector<std::string> lines = split_lines(sample.input);
    std::vector<std::string> haystack, needle;
    std::vector<int64_t> before;
    for (std::size_t i = 1; i + 1 < lines.size(); ++i) {
      const std::string key = between(lines[i], "uuids for ", " is: "),
                        value = between(lines[i], " is: ", ".");
      const bool asked = value == sample.outputs[0];
      if (asked) before.push_back(static_cast<int64_t>(haystack.size()));
      (asked ? needle : haystack).push_back(needle_sentence(Token::uuids, key, value));
    }
    EXPECT_EQ(haystack.size(), 50u);
    const std::vector<std::string> query{between(lines.back(), "uuid for ", " mentioned")};
    const Prompt prompt = niah_prompt(Token::uuids, line_context(haystack, needle, before), query, true);
    EXPECT_EQ(prompt.question + prompt.answer_prefix, sample.input);
  }
}

TEST_F(RulerReference, FrequentWordsAndTheirCounts) {
  const Finished sample = read("fwe_120k_sample.json").at(0);
  const std::string context = between(sample.input, "appeared coded words. ", "\nQuestion:");
  EXPECT_EQ(framed(frequent_words_prompt(context)), sample.input);
  std::map<std::string, int64_t> count;
  for (const std::string& word : split_words(context)) count[word] += 1;
  std::vector<int64_t> counts;
  for (const auto& [word, times] : count) counts.push_back(times);
  std::sort(counts.rbegin(), counts.rend());
  // The size is not in the file, but few sizes give these counts.
  int64_t size = counts[0];
  while (frequent_count(size, 1) < counts[0]) ++size;
  const auto gives_all = [&](int64_t s) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      if (frequent_count(s, static_cast<int64_t>(i) + 1) != counts[i]) return false;
    }
    return true;
  };
  int64_t end = size;
  while (frequent_count(end, 1) == counts[0] && !gives_all(end)) ++end;
  EXPECT_TRUE(gives_all(end)) << size;
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(count[sample.outputs[i]], counts[i + 1]);
}

TEST_F(RulerReference, QuestionAmongItsDocuments) {
  const Finished sample = read("qa1_120k_sample.json").at(0);
  const std::string context =
      between(sample.input, "given documents.\n\nDocument 1:\n", "\n\nAnswer the question");
  std::vector<std::string> documents;
  std::size_t begin = 0;
  for (int64_t i = 2;; ++i) {
    const std::string next = fmt::format("\n\nDocument {}:\n", i);
    const std::size_t end = context.find(next, begin);
    documents.push_back(context.substr(begin, end - begin));
    if (end == std::string::npos) break;
    begin = end + next.size();
  }
  EXPECT_EQ(documents.size(), 690u);
  const std::string question = between(sample.input, "\n\nQuestion: ", " [/INST]");
  EXPECT_EQ(framed(question_prompt(documents, question)), sample.input);

  // Its question is our first, and its documents are in our pool.
  Corpus corpus(folder_);
  EXPECT_EQ(corpus.squad().questions.at(0).text, question);
  EXPECT_EQ(corpus.squad().questions.at(0).answers, sample.outputs);
  std::vector<std::string> pool = corpus.squad().documents;
  EXPECT_EQ(pool.size(), 1204u);
  std::sort(pool.begin(), pool.end());
  for (const std::string& document : documents) {
    EXPECT_TRUE(std::binary_search(pool.begin(), pool.end(), document)) << document.substr(0, 80);
  }
}

// What stands in a text of the 2024 layout.
TrackedChain chain_in(const std::string& text) {
  TrackedChain chain;
  chain.value = between(text, "assigned the value ", " in the text");
  const std::regex part("VAR ([A-Z]+) = (?:[0-9]+|VAR [A-Z]+ )|The grass is green");
  for (std::sregex_iterator i(text.begin(), text.end(), part); i != std::sregex_iterator(); ++i) {
    if ((*i)[1].matched) {
      chain.names.push_back((*i)[1]);
      chain.before.push_back(chain.noise_lines);
    } else {
      chain.noise_lines += 1;
    }
  }
  return chain;
}

TEST_F(RulerReference, VariableTrackingOf2024) {
  const Finished sample = read("vt_120k_sample.json").at(0);
  const std::size_t asked_at = sample.input.rfind("Memorize and track");
  const TrackedChain asked = chain_in(sample.input.substr(asked_at));
  const TrackedChain example = chain_in(sample.input.substr(0, asked_at));
  EXPECT_EQ(asked.names, sample.outputs);
  const Prompt prompt = tracking_prompt(example, asked, Edition::y2024);
  const std::size_t own_asked_at = prompt.question.rfind("Memorize and track");
  EXPECT_EQ(prompt.question.substr(own_asked_at) + " [/INST]" + prompt.answer_prefix,
            sample.input.substr(asked_at));
  // Within a chat frame the original turns white space of the example's frame into blanks; its words are the
  // same.
  EXPECT_EQ(split_words("[INST] " + prompt.question.substr(0, own_asked_at)),
            split_words(sample.input.substr(0, asked_at)));
  EXPECT_TRUE(prompt.question.substr(0, own_asked_at)
                  .ends_with(between(sample.input, "64886, they are:", "Memorize")));
}

TEST_F(RulerReference, TheRealWordListsHaveTheirSizes) {
  Corpus corpus(folder_);
  EXPECT_EQ(corpus.words().nouns.size(), 6782u);
  EXPECT_EQ(corpus.words().adjectives.size(), 912u);
  EXPECT_EQ(corpus.words().all.size(), 8166u);
  EXPECT_EQ(corpus.haystack_words().size(), 525448u);
  EXPECT_EQ(corpus.squad().questions.size(), 2910u);
  EXPECT_EQ(corpus.hotpot().questions.size(), 100u);
  EXPECT_EQ(corpus.hotpot().documents.size(), 991u);
}

}  // namespace
}  // namespace shadowkv::eval
