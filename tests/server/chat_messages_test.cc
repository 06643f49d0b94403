#include "server/chat_messages.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/api_error.h"

namespace shadowkv {
namespace {

using Json = nlohmann::ordered_json;

Json read(const char* text) {
  return chat_messages_of(Json::parse(text));
}

std::string refusal(const char* text) {
  try {
    (void)read(text);
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    return error.param + ": " + error.message;
  }
  return "taken";
}

TEST(ChatMessages, PartsBecomeOneText) {
  const Json messages = read(R"([{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}])");
  EXPECT_EQ(messages[0]["content"], "a\nb");
}

TEST(ChatMessages, DevelopersAreTheSystemAndNothingIsEmpty) {
  const Json messages =
      read(R"([{"role": "developer", "content": "x"}, {"role": "assistant", "content": null}])");
  EXPECT_EQ(messages[0]["role"], "system");
  EXPECT_EQ(messages[1]["content"], "");
}

TEST(ChatMessages, ArgumentsOfCallsAreOpenedWhereTheyAreObjects) {
  const Json messages = read(R"([{"role": "assistant", "tool_calls": [
      {"function": {"name": "f", "arguments": "{\"a\": 1}"}},
      {"function": {"name": "g", "arguments": "no JSON"}}, 5]}])");
  EXPECT_EQ(messages[0]["tool_calls"][0]["function"]["arguments"], Json({{"a", 1}}));
  EXPECT_EQ(messages[0]["tool_calls"][1]["function"]["arguments"], "no JSON");
}

TEST(ChatMessages, NamesInArgumentsKeepTheirOrder) {
  const Json messages = read(R"([{"role": "assistant", "tool_calls": [
      {"function": {"name": "f", "arguments": "{\"to\": 1, \"from\": {\"z\": 1, \"a\": 2}}"}},
      {"function": {"name": "g", "arguments": " "}}]}])");
  EXPECT_EQ(messages[0]["tool_calls"][0]["function"]["arguments"].dump(), R"({"to":1,"from":{"z":1,"a":2}})");
  EXPECT_EQ(messages[0]["tool_calls"][1]["function"]["arguments"].dump(), "{}");
}

// Deeper ones could not be written out again.
TEST(ChatMessages, ArgumentsThatAreNestedTooDeeplyStayText) {
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += R"({\"a\":)";
  const std::string text =
      R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ")" + deep + "\"}}]}]";
  EXPECT_TRUE(read(text.c_str())[0]["tool_calls"][0]["function"]["arguments"].is_string());
}

TEST(ChatMessages, RefusalsNameThePlace) {
  EXPECT_EQ(refusal("[]"), "messages: messages must be a list of at least one message");
  EXPECT_EQ(refusal(R"([{"role": "user", "content": "x"}, 5])"),
            "messages[1]: messages[1] = 5 must be an object");
  EXPECT_EQ(refusal(R"([{"content": "x"}])"), "messages[0].role: messages[0].role is missing");
  EXPECT_EQ(refusal(R"([{"role": "user", "content": 5}])"),
            "messages[0].content: messages[0].content must be a string or a list of text parts");
  EXPECT_EQ(refusal(R"([{"role": "assistant", "tool_calls": {}}])"),
            "messages[0].tool_calls: messages[0].tool_calls must be a list");
  EXPECT_EQ(refusal(R"([{"role": "tool", "content": "", "tool_call_id": 5}])"),
            "messages[0].tool_call_id: messages[0].tool_call_id = 5 must be a string");
  EXPECT_EQ(
      refusal(R"([{"role": "user", "content": [{"type": "image_url"}]}])"),
      "messages[0].content[0]: messages[0].content[0] is of type \"image_url\"; only text is supported");
}

}  // namespace
}  // namespace shadowkv
