#include "eval/runner.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "eval/report.h"
#include "eval/summary.h"
#include "shadowkv/error.h"

namespace shadowkv::eval {
namespace {

using testing::HasSubstr;

// "full" answers the question's last word, "blind" always "no".
class Echo final : public Subject {
 public:
  std::string name() const override { return "echo"; }
  const std::vector<std::string>& methods() const override { return methods_; }
  int64_t context() const override { return 40; }
  std::vector<int32_t> encode(const Prompt& prompt) const override {
    return {prompt.question.begin(), prompt.question.end()};
  }
  std::vector<Answer> answer(std::span<const int32_t> ids, std::span<const int64_t> methods,
                             int64_t max_new) override {
    std::vector<Answer> answers;
    const std::string text(ids.begin(), ids.end());
    for (const int64_t method : methods) {
      asked += 1;
      const std::string output =
          methods_[static_cast<std::size_t>(method)] == "full" ? text.substr(text.rfind(' ')) : "no";
      answers.push_back({output, max_new, 0.5, 1.0, 1000 * (method + 1), 10});
    }
    return answers;
  }
  // Says how many prompts it has heard; "blind" only of the first.
  std::vector<Answer> converse(std::span<const Prompt> turns, int64_t method, int64_t max_new) override {
    std::vector<Answer> answers;
    for (std::size_t t = 0; t < turns.size(); ++t) {
      asked += 1;
      const bool hears = methods_[static_cast<std::size_t>(method)] == "full" || t == 0;
      answers.push_back({hears ? std::to_string(t + 1) : "no", max_new, 0.5, 1.0, 1000, 10});
    }
    return answers;
  }

  int64_t asked = 0;

 private:
  std::vector<std::string> methods_{"full", "blind"};
};

class Running : public testing::Test {
 protected:
  Running()
      : path_(std::filesystem::temp_directory_path() / fmt::format("shadowkv_run_{}.jsonl", getpid())) {}
  ~Running() override { std::filesystem::remove(path_); }

  static Sample sample(const std::string& task, int64_t index, const std::string& question,
                       const std::string& answer) {
    Sample made;
    made.task = task;
    made.length = 32;
    made.index = index;
    made.prompt = {question, ""};
    made.outputs = {answer};
    made.max_new_tokens = 4;
    return made;
  }
  static SampleSource source() {
    SampleSource all;
    for (int64_t i = 0; i < 4; ++i) {
      all.emplace_back(
          [i] { return sample("echo", i, fmt::format("say {}", 100 + i), fmt::format("{}", 100 + i)); });
    }
    all.emplace_back([] { return sample("long", 0, std::string(37, 'x'), "x"); });
    all.emplace_back([] { return sample("deny", 0, "say no", "no"); });
    return all;
  }
  RunOutcome run(Echo& subject) {
    ResultFile file(path_);
    return run_samples(source(), subject, file, {});
  }
  [[nodiscard]] std::string text() const {
    std::ifstream file(path_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write(const std::string& text) const { std::ofstream(path_) << text; }

  std::filesystem::path path_;
};

TEST_F(Running, AsksEverySampleUnderEveryMethodAndCountsWhatIsTooLong) {
  Echo subject;
  const RunOutcome outcome = run(subject);
  EXPECT_EQ(subject.asked, 10);
  EXPECT_EQ(outcome.samples, 6);
  EXPECT_EQ(outcome.skipped, 1);
  ASSERT_EQ(outcome.results.size(), 10u);
  EXPECT_EQ(outcome.results[0].method, "full");
  EXPECT_EQ(outcome.results[0].score, 1);
  EXPECT_EQ(outcome.results[1].score, 0);
  EXPECT_EQ(outcome.results[9].score, 1);  // "no" is right there
  EXPECT_EQ(outcome.results[0].prompt_tokens, 7);
  EXPECT_EQ(outcome.results[1].device_bytes, 2000);
}

TEST_F(Running, AskedAgainTakesEverythingFromTheFile) {
  Echo first, second;
  const RunOutcome before = run(first), after = run(second);
  EXPECT_EQ(second.asked, 0);
  EXPECT_EQ(after.found, 10);
  EXPECT_EQ(after.prompts_hash, before.prompts_hash);
  ASSERT_EQ(after.results.size(), before.results.size());
  for (std::size_t i = 0; i < after.results.size(); ++i) {
    EXPECT_EQ(result_line(after.results[i]), result_line(before.results[i]));
  }
}

TEST_F(Running, TurnsOfAConversationAreScoredEachByItself) {
  const SampleSource talks = {[] {
    Sample made = sample("turn 1", 0, "what", "1");
    made.later = {{"turn 2", {"\nand then"}, {"2"}}, {"turn 3", {"\nand then"}, {"9"}}};
    return made;
  }};
  for (const int64_t asked : {6, 0}) {  // the second time all is in the file
    Echo subject;
    ResultFile file(path_);
    const RunOutcome outcome = run_samples(talks, subject, file, {});
    EXPECT_EQ(subject.asked, asked);
    EXPECT_EQ(outcome.found, 6 - asked);
    ASSERT_EQ(outcome.results.size(), 6u);
    std::vector<double> scores;
    for (const Result& r : outcome.results) scores.push_back(r.score);
    EXPECT_EQ(scores, (std::vector<double>{1, 1, 1, 0, 0, 0}));
    EXPECT_EQ(outcome.results[2].task, "turn 2");
    EXPECT_EQ(outcome.results[2].prompt_tokens, 4 + 4 + 9);
    EXPECT_NE(outcome.results[2].prompt_hash, outcome.results[4].prompt_hash) << "the same words, later";
  }
  const SampleSource long_talk = {[] {
    Sample made = sample("turn 1", 0, "what", "1");
    made.later = {{"turn 2", {std::string(29, 'x')}, {"2"}}};
    return made;
  }};
  Echo subject;
  ResultFile file;
  EXPECT_EQ(run_samples(long_talk, subject, file, {}).skipped, 1);
}

// Wherever a run was cut off, the next one goes on from there and ends with the same file.
TEST_F(Running, GoesOnAfterACutAtAnyByte) {
  Echo subject;
  (void)run(subject);
  const std::string whole = text();
  for (std::size_t cut = 0; cut < whole.size(); cut += 97) {
    write(whole.substr(0, cut));
    Echo again;
    const RunOutcome outcome = run(again);
    EXPECT_EQ(text(), whole) << cut;
    EXPECT_EQ(again.asked, 10 - outcome.found) << cut;
    EXPECT_EQ(outcome.results.size(), 10u);
  }
}

TEST_F(Running, ResultsOfAnotherModelAreNotTakenForOurs) {
  Echo subject;
  (void)run(subject);
  std::string other = text();
  for (std::size_t at = other.find("\"echo\""); at != std::string::npos;
       at = other.find("\"echo\"", at + 1)) {
    if (other.compare(at - 6, 6, "\"run\":") == 0) other.replace(at, 6, "\"ohce\"");
  }
  write(other);
  Echo again;
  (void)run(again);
  EXPECT_EQ(again.asked, 10);
}

TEST_F(Running, AFileOfSomethingElseIsRefusedWithItsLine) {
  Echo subject;
  (void)run(subject);
  write(text() + "{\"run\": 3}\n");
  try {
    (void)run(subject);
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_THAT(error.what(), HasSubstr("line 11"));
  }
  write("not JSON\n");
  EXPECT_THROW((void)run(subject), InvalidInput);
}

TEST_F(Running, WhatWasStoppedKeepsWhatWasAnswered) {
  Echo subject;
  ResultFile file(path_);
  RunOptions options;
  options.progress = [](int64_t done, int64_t, const std::string&) {
    if (done == 3) throw Interrupted("stopped");
  };
  EXPECT_THROW((void)run_samples(source(), subject, file, options), Interrupted);
  EXPECT_EQ(ResultFile(path_).results().size(), 6u);
}

TEST_F(Running, SummaryHasMeansDifferencesAndCosts) {
  Echo subject;
  const RunOutcome outcome = run(subject);
  const Summary summary(outcome.results);
  EXPECT_THAT(summary.tasks(), testing::ElementsAre("echo", "deny"));
  EXPECT_THAT(summary.methods(), testing::ElementsAre("full", "blind"));
  EXPECT_THAT(summary.lengths(), testing::ElementsAre(32));
  EXPECT_EQ(summary.cell(0, 0, 0).mean, 100);
  EXPECT_EQ(summary.cell(0, 0, 1).mean, 0);
  EXPECT_EQ(summary.cell(0, 0, 0).samples, 4);
  EXPECT_EQ(summary.average(0, 1).mean, 50);  // of the two tasks
  EXPECT_EQ(summary.difference(0, 1).mean, -50);
  EXPECT_EQ(summary.difference(0, 1).worse, 4);
  EXPECT_EQ(summary.cost(0, 1).device_bytes, 2000);
  EXPECT_NEAR(summary.cost(0, 0).token_seconds, 1.0 / 3, 1e-12);  // the first token is the prefill's
}

TEST_F(Running, ReportIsOnePageWithTablesAndPlotsThatNeedsNoNetwork) {
  Echo subject;
  const RunOutcome outcome = run(subject);
  const std::string page =
      html_report({"A <title>", {{"model", "echo & co"}}, {"<svg>mine</svg>"}}, outcome.results);
  for (const char* part :
       {"<!DOCTYPE html>", "A &lt;title&gt;", "echo &amp; co", "<svg>mine</svg>", "mean of the tasks",
        "Paired differences", "<svg xmlns", "Bytes held", "4 samples.", "-50.00", "</html>"}) {
    EXPECT_THAT(page, HasSubstr(part));
  }
  for (const char* part : {"<script", "<link", "src=", "href=", "@import", "url("})
    EXPECT_THAT(page, Not(HasSubstr(part)));
  EXPECT_THAT(html_report({"None", {}, {}}, {}), HasSubstr("No sample"));
}

}  // namespace
}  // namespace shadowkv::eval
