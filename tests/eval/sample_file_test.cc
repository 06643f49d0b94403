#include "eval/sample_file.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "shadowkv/error.h"

namespace shadowkv::eval {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class SampleFile : public testing::Test {
 protected:
  SampleFile()
      : folder_(std::filesystem::temp_directory_path() / fmt::format("shadowkv_samples_{}", getpid())) {
    std::filesystem::create_directories(folder_ / "cwe");
  }
  ~SampleFile() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] std::vector<Sample> read(const std::string& text, const std::string& name = "a.jsonl",
                                         const std::string& task = "") const {
    std::ofstream(folder_ / name) << text;
    return read_samples(folder_ / name, {task});
  }
  void refuse(const std::string& text, const std::string& says) const {
    try {
      (void)read(text);
      ADD_FAILURE() << text;
    } catch (const InvalidInput& error) {
      EXPECT_THAT(error.what(), HasSubstr(says));
    }
  }
  std::filesystem::path folder_;
};

TEST_F(SampleFile, RulersOwnLinesTakeTheirTaskFromTheFolder) {
  const std::vector<Sample> samples =
      read("{\"index\": 3, \"input\": \"a b\", \"outputs\": [\"x\", \"y\"], \"length\": 3181}\n\n",
           "cwe/validation.jsonl");
  ASSERT_EQ(samples.size(), 1u);
  EXPECT_EQ(samples[0].task, "cwe");
  EXPECT_EQ(samples[0].index, 3);
  EXPECT_EQ(samples[0].length, 4096);  // what it was made for
  EXPECT_EQ(samples[0].max_new_tokens, 120);
  EXPECT_THAT(samples[0].outputs, ElementsAre("x", "y"));
}

TEST_F(SampleFile, FieldsOfALineWin) {
  const std::vector<Sample> samples = read(
      R"({"task": "qa_1", "input": "q", "answer": "one", "gen_prefix": "Answer:", "max_new_tokens": 7, "max_length": 5000})"
      "\n"
      R"({"input": "r", "answers": ["two"], "answer_prefix": "A"})",
      "a.jsonl", "vt");
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[0].metric, Metric::part);
  EXPECT_EQ(samples[0].prompt.answer_prefix, " Answer:");
  EXPECT_EQ(samples[0].max_new_tokens, 7);
  EXPECT_EQ(samples[0].length, 5000);
  EXPECT_EQ(samples[1].task, "vt");
  EXPECT_EQ(samples[1].index, 1);
  EXPECT_EQ(samples[1].prompt.answer_prefix, "A");
}

TEST_F(SampleFile, WhatIsWrittenIsReadBack) {
  Sample sample;
  sample.task = "vt";
  sample.length = 6000;
  sample.index = 2;
  sample.prompt = {"line\n\"quoted\" \u00e9", " prefix "};
  sample.outputs = {"A", "B"};
  sample.max_new_tokens = 31;
  const std::vector<Sample> back = read(sample_line(sample));
  ASSERT_EQ(back.size(), 1u);
  EXPECT_EQ(sample_line(back[0]), sample_line(sample));
  EXPECT_EQ(prompt_hash(back[0].prompt), prompt_hash(sample.prompt));
}

TEST_F(SampleFile, WhatIsNoSampleIsRefusedWithItsPlace) {
  refuse("", "no samples");
  refuse("[1]", "sample 1");
  refuse("{\"task\": \"vt\", \"input\": \"x\", \"outputs\": [\"y\"]}\n{\"task\"", "sample 2");
  refuse(R"({"task": "vt", "outputs": ["y"]})", "\"input\"");
  refuse(R"({"task": "vt", "input": "x"})", "\"outputs\"");
  refuse(R"({"task": "vt", "input": "x", "outputs": []})", "list of texts");
  refuse(R"({"task": "vt", "input": "x", "outputs": [3]})", "list of texts");
  refuse(R"({"task": "vt", "input": 3, "outputs": ["y"]})", "\"input\"");
  refuse(R"({"task": "vt", "input": "x", "outputs": ["y"], "index": -1})", "\"index\"");
  refuse(R"({"input": "x", "outputs": ["y"]})", "\"task\"");
  refuse(R"({"task": "vtt", "input": "x", "outputs": ["y"]})", "niah_single_1");
}

TEST_F(SampleFile, AMissingFileIsNamed) {
  EXPECT_THROW((void)read_samples(folder_ / "none.jsonl", {}), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::eval
