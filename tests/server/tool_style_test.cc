#include "server/tool_style.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "formats/temporary_file.h"

namespace shadowkv::testing {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

std::string source_of(const std::string& family) {
  std::ifstream file(std::string(SHADOWKV_TEST_DATA) + "/template/families.jsonl");
  for (std::string line; std::getline(file, line);) {
    const auto one = nlohmann::json::parse(line);
    if (one["name"] == family) return one["source"];
  }
  ADD_FAILURE() << family;
  return {};
}

ToolStyle style_of(const std::string& family, std::optional<ToolFormat> format = std::nullopt) {
  const TemporaryFolder folder;
  EngineOptions options;
  options.model = std::string(SHADOWKV_TEST_DATA) + "/golden/llama_gqa/f32.gguf";
  options.threads = 1;
  if (!family.empty()) options.chat_template = folder.write("template.jinja", source_of(family));
  return tool_style_of(*Engine::load(options), format);
}

TEST(ToolStyles, AreWhatTheTemplateWrites) {
  for (const auto& [family, format] : {std::pair("llama3.1", ToolFormat::llama),
                                       {"qwen2.5", ToolFormat::hermes},
                                       {"mistral", ToolFormat::mistral},
                                       {"glm4", ToolFormat::glm}}) {
    SCOPED_TRACE(family);
    const ToolStyle style = style_of(family);
    EXPECT_EQ(style.format, format);
    EXPECT_TRUE(style.lists_tools);
    EXPECT_TRUE(style.writes_calls);
  }
}

TEST(ToolStyles, OfTemplatesWithoutToolsAreHermesUnlessSaidOtherwise) {
  for (const char* family : {"", "llama3", "phi3"}) {
    const ToolStyle style = style_of(family);
    EXPECT_EQ(style.format, ToolFormat::hermes);
    EXPECT_FALSE(style.lists_tools);
    EXPECT_FALSE(style.writes_calls);
  }
  EXPECT_EQ(style_of("qwen2.5", ToolFormat::glm).format, ToolFormat::glm);
}

constexpr const char* kTalk =
    R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"},
    {"role": "assistant", "content": "So:", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"z": 1, "a": 2}}},
                                                             {"id": "2", "function": {"name": "g"}}]},
    {"role": "tool", "content": "one"}, {"role": "tool", "content": "two"}, {"role": "user", "content": "y"}])";

TEST(ToolStyles, WhatATemplateLacksIsWrittenIntoTheMessages) {
  Json messages = Json::parse(kTalk);
  const Json tools = Json::parse(R"([{"function": {"name": "f", "description": "d"}}])");
  write_tools_into(messages, tools, {});
  ASSERT_EQ(messages.size(), 5);
  const auto system = messages[0]["content"].get<std::string>();
  EXPECT_TRUE(system.starts_with("Be brief.\n\nYou may call functions."));
  EXPECT_THAT(system, HasSubstr(tools[0].dump() + "\n</tools>"));
  EXPECT_THAT(system, HasSubstr("<tool_call>\n{\"name\": \"name\""));
  EXPECT_EQ(messages[2]["content"],
            "So:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"z\":1,\"a\":2}}\n</tool_call>\n"
            "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>");
  EXPECT_FALSE(messages[2].contains("tool_calls"));
  EXPECT_EQ(messages[3]["role"], "user");
  EXPECT_EQ(messages[3]["content"],
            "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>");
}

TEST(ToolStyles, WhatATemplateKnowsIsLeftToIt) {
  Json messages = Json::parse(kTalk);
  const Json before = messages;
  write_tools_into(messages, Json::array(), {.lists_tools = false, .writes_calls = true});
  EXPECT_EQ(messages, before);
  write_tools_into(messages, Json::parse(R"([{"function": {"name": "f"}}])"),
                   {.lists_tools = false, .writes_calls = true});
  EXPECT_EQ(messages.size(), before.size());
  EXPECT_THAT(messages[0]["content"].get<std::string>(), HasSubstr("You may call"));
}

}  // namespace
}  // namespace shadowkv::testing
