#include "best_of.h"

#include <gtest/gtest.h>

namespace shadowkv::apps {
namespace {

// An answer of tokens that are so likely; each comes with the likeliest beside its own.
GenerateResult answer_of(const std::vector<float>& logprobs) {
  GenerateResult answer;
  for (const float logprob : logprobs) answer.logprobs.push_back({{.logprob = logprob}, {.logprob = 0.0f}});
  answer.ids.resize(logprobs.size());
  answer.text = std::to_string(logprobs.size());
  answer.finish = FinishReason::stop;
  return answer;
}

TEST(BestOf, ScoresAnAnswerByItsOwnTokensWhateverItsLength) {
  EXPECT_EQ(mean_logprob(answer_of({-1.0f, -0.5f})), -0.75);
  EXPECT_EQ(mean_logprob(answer_of({-0.75f})), mean_logprob(answer_of({-0.75f, -0.75f, -0.75f})));
  EXPECT_EQ(mean_logprob(answer_of({})), 0.0);
}

TEST(BestOf, TakesTheLikeliestAndOfEqualsTheFirst) {
  EXPECT_EQ(likeliest(std::vector{answer_of({-1.0f}), answer_of({-0.5f, -0.5f}), answer_of({-0.5f})}), 1);
  EXPECT_EQ(likeliest(std::vector{answer_of({-2.0f})}), 0);
}

TEST(BestOf, TellsWhatWasChosenFrom) {
  const Json json = best_of_json(std::vector{answer_of({-1.0f}), answer_of({-0.5f, -0.25f})});
  EXPECT_EQ(json.dump(),
            R"({"chosen":1,"answers":[{"mean_logprob":-1.0,"tokens":1,"finish":"stop","text":"1"},)"
            R"({"mean_logprob":-0.375,"tokens":2,"finish":"stop","text":"2"}]})");
}

}  // namespace
}  // namespace shadowkv::apps
