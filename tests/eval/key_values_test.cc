#include "eval/key_values.h"

#include <gmock/gmock.h>

#include <iterator>
#include <nlohmann/json.hpp>

#include "eval/metrics.h"
#include "small_corpus.h"

namespace shadowkv::eval {
namespace {

class KeyValues : public testing::Test {
 protected:
  Sample make(int64_t pairs, int64_t length, int64_t index = 0) {
    return make_key_values(pairs, {"kv", length, index, 42, Edition::current, corpus_, count_});
  }
  // The object within a prompt, in its order.
  static nlohmann::ordered_json object_of(const Sample& sample) {
    const std::string& text = sample.prompt.question;
    const std::size_t begin = text.find('{');
    return nlohmann::ordered_json::parse(text.substr(begin, text.find('}') + 1 - begin));
  }
  static std::string key_of(const Sample& sample) {
    const std::string& text = sample.prompt.question;
    const std::size_t at = text.find("Key: \"") + 6;
    return text.substr(at, 36);
  }

  Corpus corpus_{"/nonexistent"};
  CountTokens count_ = quarter_bytes;
};

TEST_F(KeyValues, AreAnObjectThatHoldsTheAnswerUnderItsKey) {
  const Sample sample = make(105, 0);
  const auto object = object_of(sample);
  EXPECT_EQ(object.size(), 105u);
  EXPECT_EQ(object.at(key_of(sample)), sample.outputs[0]);
  EXPECT_EQ(sample.length, 4096);  // of about 2,100 tokens as counted here
  EXPECT_TRUE(sample.prompt.question.starts_with(
      "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{\""));
  EXPECT_EQ(sample.prompt.answer_prefix, "The value associated with the specified key is: ");
}

TEST_F(KeyValues, FitTheirLength) {
  const Sample sample = make(0, 8192);
  EXPECT_LE(quarter_bytes(sample.prompt) + kKeyValueAnswerTokens, 8192);
  EXPECT_GT(quarter_bytes(sample.prompt) + kKeyValueAnswerTokens, 8192 - 22);  // another pair has 20
  EXPECT_EQ(sample.length, 8192);
}

TEST_F(KeyValues, AskAtSixDepths) {
  for (int64_t index = 0; index < 12; ++index) {
    const Sample sample = make(101, 0, index);
    const auto object = object_of(sample);
    const auto place = std::distance(object.begin(), object.find(key_of(sample)));
    EXPECT_EQ(place, 20 * (index % 6));
  }
}

TEST_F(KeyValues, TakeTheWholeValueAlone) {
  const Sample sample = make(5, 0);
  const std::string& value = sample.outputs[0];
  EXPECT_EQ(score(sample, " \"" + value + "\"}", Scoring::ruler), 1);
  EXPECT_EQ(score(sample, value + "0", Scoring::ruler), 0);
  EXPECT_EQ(score(sample, value.substr(1), Scoring::ruler), 0);
}

}  // namespace
}  // namespace shadowkv::eval
