#include "load_report.h"

#include <gmock/gmock.h>

#include "shadowkv/error.h"

namespace shadowkv::apps {
namespace {

using ::testing::HasSubstr;

// Answers of two tokens each, the first after 0.1 s, 0.2 s, ..., the second as long after that again.
std::vector<LoadAnswer> five_answers() {
  std::vector<LoadAnswer> answers;
  for (int i = 1; i <= 5; ++i) {
    const double wait = 0.1 * i, begun = 1;
    answers.push_back({.begun_s = begun,
                       .ended_s = 5,
                       .pieces_s = {begun + wait, begun + 2 * wait},
                       .prompt_tokens = 10,
                       .new_tokens = 2});
  }
  return answers;
}

TEST(LoadReport, TimesAndRatesAreThoseOfTheirDefinitions) {
  const Json report = load_json(five_answers(), {});
  EXPECT_EQ(report["completed"], 5);
  EXPECT_EQ(report["failed"], 0);
  EXPECT_DOUBLE_EQ(report["duration"], 5);
  EXPECT_DOUBLE_EQ(report["request_throughput"], 1);
  EXPECT_DOUBLE_EQ(report["output_throughput"], 2);
  EXPECT_DOUBLE_EQ(report["total_token_throughput"], 12);
  EXPECT_TRUE(report["request_goodput"].is_null());
  EXPECT_NEAR(report["mean_ttft_ms"], 300, 1e-6);
  EXPECT_NEAR(report["median_tpot_ms"], 300, 1e-6);
  EXPECT_NEAR(report["std_itl_ms"], 141.421356, 1e-5);
  EXPECT_NEAR(report["p99_e2el_ms"], 2 * 496, 1e-6) << "between the last two";
}

TEST(LoadReport, OnlyWhatMeetsAllLimitsIsGood) {
  const auto good = [](const std::string& limits) {
    return load_json(five_answers(), load_goals_of(limits))["request_goodput"].get<double>() * 5;
  };
  EXPECT_NEAR(good("ttft:301"), 3, 1e-9);
  EXPECT_NEAR(good("ttft:301,tpot:201"), 2, 1e-9);
  EXPECT_NEAR(good("e2el:201 ttft:1000"), 1, 1e-9);
  EXPECT_NEAR(good("tpot:1"), 0, 1e-9);
  for (const char* wrong : {"ttft", "ttft:", "ttft:x", "itl:5", "ttft:0"})
    EXPECT_THROW((void)load_goals_of(wrong), InvalidInput);
}

TEST(LoadReport, WhatFailedCountsOnlyAsSuch) {
  std::vector<LoadAnswer> answers = five_answers();
  answers[0].error = "cut";
  answers[1].pieces_s.clear();
  answers[2].pieces_s.resize(1);
  answers[2].new_tokens = 1;  // of one token, which has no time per further one
  const Json report = load_json(answers, {});
  EXPECT_EQ(report["completed"], 3);
  EXPECT_EQ(report["failed"], 2);
  EXPECT_EQ(report["total_output_tokens"], 5);
  EXPECT_NEAR(report["mean_tpot_ms"], 450, 1e-6);
  const std::string text = load_text(report);
  EXPECT_THAT(text, HasSubstr("Failed requests:                         2 "));
  EXPECT_THAT(text, HasSubstr("Mean TPOT (ms):                          450.00"));
  EXPECT_THAT(text, HasSubstr("--Time per Output Token (excl. 1st token)--"));
  EXPECT_EQ(load_json({}, {})["completed"], 0);
}

}  // namespace
}  // namespace shadowkv::apps
