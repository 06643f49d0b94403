#include "server/completion_request.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/api_error.h"
#include "server/fake_engine.h"

namespace shadowkv::testing {
namespace {

using Json = nlohmann::ordered_json;

// A completion of "x" with further fields.
CompletionRequest completion(Json fields, const RequestLimits& limits = {}) {
  static const FakeEngine engine;
  static const std::string name = "m";
  static const ToolStyle style;
  if (!fields.contains("prompt")) fields["prompt"] = "x";
  return completion_request_of(fields, {engine, name, style}, limits);
}

// The field that a refusal names, and whether its message holds a part.
void expect_refusal(const Json& fields, const std::string& param, const std::string& part,
                    const RequestLimits& limits = {}) {
  try {
    (void)completion(fields, limits);
    ADD_FAILURE() << fields << " was taken";
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    EXPECT_EQ(error.param, param) << fields;
    EXPECT_NE(error.message.find(part), std::string::npos) << error.message;
  }
}

TEST(CompletionRequests, MakeAsManyAnswersAsTheyShowUnlessTheyWantTheBest) {
  const CompletionRequest plain = completion({{"n", 3}});
  EXPECT_EQ(plain.choices, 3);
  EXPECT_EQ(plain.best_of, 3);
  EXPECT_FALSE(plain.sampling.logprobs) << "nobody needs them";
  const CompletionRequest best = completion({{"n", 2}, {"best_of", 5}});
  EXPECT_EQ(best.choices, 2);
  EXPECT_EQ(best.best_of, 5);
  EXPECT_EQ(best.sampling.logprobs, 0) << "to tell which are the best";
  EXPECT_FALSE(best.show_logprobs);
  EXPECT_TRUE(completion({{"best_of", 5}, {"logprobs", 2}}).show_logprobs);
  EXPECT_EQ(completion({{"best_of", 5}, {"logprobs", 2}}).sampling.logprobs, 2);
}

TEST(CompletionRequests, RefuseABestOfThatCannotBe) {
  expect_refusal({{"n", 3}, {"best_of", 2}}, "best_of", "n = 3");
  expect_refusal({{"best_of", 2}, {"stream", true}}, "best_of", "stream");
  expect_refusal({{"best_of", 0}}, "best_of", "from 1 to");
  expect_refusal({{"best_of", 17}}, "best_of", "from 1 to 16");
  expect_refusal({{"best_of", true}}, "best_of", "whole number");
  expect_refusal({{"prompt", {"x", "y"}}, {"best_of", 9}}, "best_of", "18 answers");
  expect_refusal({{"prompt", {"x", "y"}}, {"n", 9}}, "n", "18 answers");
}

TEST(CompletionRequests, KeepToTheLimitsOfLengths) {
  const RequestLimits limits{.max_prompt_tokens = 3, .max_new_tokens = 5};
  EXPECT_EQ(completion({{"prompt", "abc"}, {"max_tokens", 5}}, limits).max_new_tokens, 5);
  EXPECT_EQ(completion({{"prompt", "abc"}}, limits).max_new_tokens, 5) << "where 16 would be the default";
  expect_refusal({{"prompt", {"a", "abcd"}}}, "prompt", "4 tokens was given, and this server takes 3",
                 limits);
  expect_refusal({{"max_tokens", 6}}, "max_tokens", "from 1 to 5", limits);
  EXPECT_EQ(completion({{"prompt", "abcd"}, {"max_tokens", 6}}).max_new_tokens, 6) << "without limits";
}

TEST(CompletionRequests, StreamWhereNothingIsLeftOut) {
  EXPECT_EQ(completion({{"best_of", 1}, {"stream", true}}).best_of, 1);
  EXPECT_EQ(completion({{"n", 2}, {"best_of", 2}, {"stream", true}}).best_of, 2);
}

TEST(CompletionRequests, EchoWhereLogProbabilitiesOnlyRankTheAnswers) {
  EXPECT_EQ(completion({{"echo", true}, {"best_of", 2}}).echoes.at(0), "x");
  expect_refusal({{"echo", true}, {"logprobs", 1}}, "echo", "logprobs");
}

}  // namespace
}  // namespace shadowkv::testing
