#include "conversation.h"

#include <gtest/gtest.h>

#include "formats/temporary_file.h"
#include "shadowkv/error.h"

namespace shadowkv::apps {
namespace {

using shadowkv::testing::TemporaryFolder;

class Conversations : public ::testing::Test {
 protected:
  [[nodiscard]] std::filesystem::path messages(std::string_view json) const {
    return folder_.write("m.json", json);
  }
  TemporaryFolder folder_;
};

constexpr std::string_view kHi = R"({"role":"user","content":"Hi"})";

TEST_F(Conversations, TheSystemMessageComesFirstAndTheTextLast) {
  const ConversationArguments arguments{.system = "S", .messages = messages("[" + std::string(kHi) + "]")};
  EXPECT_EQ(
      conversation_of(arguments, {.text = "more"}).messages,
      R"([{"role":"system","content":"S"},)" + std::string(kHi) + R"(,{"role":"user","content":"more"}])");
  EXPECT_EQ(conversation_of({.chat = true}, {.text = "Hi"}).messages, "[" + std::string(kHi) + "]");
}

TEST_F(Conversations, FieldsAndTheirOrderAreKept) {
  const std::string json = R"([{"z":1,"role":"assistant","a":[null],"tool_calls":[]}])";
  EXPECT_EQ(conversation_of({.messages = messages(json)}, {}).messages, json);
}

TEST_F(Conversations, TextsOfJsonAmongArgumentsOfCallsBecomeObjects) {
  const Json read = read_messages(messages(R"([{"role": "assistant", "tool_calls": [
      {"function": {"arguments": "{\"b\": 1, \"a\": 2}"}}, {"arguments": "{}"},
      {"function": {"arguments": "no JSON"}}, {"function": {"arguments": "3"}}, 4]}])"),
                                  "--messages");
  EXPECT_EQ(read[0]["tool_calls"].dump(),
            R"([{"function":{"arguments":{"b":1,"a":2}}},{"arguments":{}},)"
            R"({"function":{"arguments":"no JSON"}},{"function":{"arguments":"3"}},4])");
}

TEST_F(Conversations, ToolsAreAnArrayOfObjects) {
  EXPECT_EQ(read_tools(messages(R"([{"name": "f"}])")), R"([{"name":"f"}])");
  for (const char* json : {"{}", "[]", "[1]", "[{}"})
    EXPECT_THROW((void)read_tools(messages(json)), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::apps
