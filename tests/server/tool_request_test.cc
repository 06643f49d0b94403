#include "server/tool_request.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "constraint/tokens.h"
#include "server/api_error.h"
#include "server/completion_request.h"
#include "server/fake_engine.h"

namespace shadowkv::testing {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

constexpr const char* kTwo =
    R"("tools": [{"type": "function", "function": {"name": "to_rome", "parameters":
         {"properties": {"way": {"$ref": "#/$defs/w"}, "at": {"type": "integer"}}, "$defs": {"w": {"enum": ["a", "b"]}}}}},
        {"function": {"name": "stay"}}])";

ToolRequest read(const std::string& fields) {
  const Json body = Json::parse(fmt::format("{{{}}}", fields));
  return tool_request_of(JsonFields(body));
}

std::string refusal(const std::string& fields) {
  try {
    (void)read(fields);
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    return error.param + ": " + error.message;
  }
  return "taken";
}

TEST(ToolRequests, ChoicesAreRead) {
  EXPECT_EQ(read("").choice, ToolChoice::none);
  EXPECT_EQ(read(R"("tools": [], "tool_choice": "auto")").choice, ToolChoice::none);
  EXPECT_EQ(read(kTwo).choice, ToolChoice::automatic);
  EXPECT_EQ(read(std::string(kTwo) + R"(, "tool_choice": "none")").choice, ToolChoice::none);
  const ToolRequest named =
      read(std::string(kTwo) + R"(, "tool_choice": {"type": "function", "function": {"name": "stay"}})");
  EXPECT_EQ(named.choice, ToolChoice::required);
  EXPECT_EQ(named.only, 1);
  EXPECT_EQ(named.names, (std::vector<std::string>{"to_rome", "stay"}));
  EXPECT_FALSE(read(R"("parallel_tool_calls": false)").is_parallel);
}

TEST(ToolRequests, RefusalsNameThePlace) {
  EXPECT_THAT(refusal(R"("tools": 5)"), HasSubstr("tools: tools must be a list"));
  EXPECT_THAT(refusal(R"("tools": [5])"), HasSubstr("tools[0]: tools[0] = 5 must be an object"));
  EXPECT_THAT(refusal(R"("tools": [{"type": "web_search"}])"), HasSubstr("tools[0].type must be"));
  EXPECT_THAT(refusal(R"("tools": [{}])"), HasSubstr("tools[0].function is missing"));
  EXPECT_THAT(refusal(R"("tools": [{"function": {"name": "a b"}}])"),
              HasSubstr("tools[0].function.name must"));
  EXPECT_THAT(refusal(R"("tools": [{"function": {"name": "a", "parameters": []}}])"),
              HasSubstr("a JSON schema"));
  EXPECT_THAT(refusal(R"("tools": [{"function": {"name": "a"}}, {"function": {"name": "a"}}])"),
              HasSubstr("tools[1].function.name = \"a\" is another"));
  EXPECT_THAT(refusal(R"("tool_choice": "required")"), HasSubstr("no tools are"));
  EXPECT_THAT(refusal(R"("tool_choice": "any")"), HasSubstr("\"any\" is unknown"));
  EXPECT_THAT(refusal(R"("tool_choice": 5)"), HasSubstr("must be a string"));
  EXPECT_THAT(refusal(std::string(kTwo) + R"(, "tool_choice": {"function": {"name": "go"}})"),
              HasSubstr("\"go\" is none of the tools"));
}

TEST(ToolRequests, SchemasAreThoseOfTheFamily) {
  ToolRequest request = read(std::string(kTwo));
  const Json hermes = schema_of_calls(request, ToolFormat::hermes, CallPlace::alone);
  EXPECT_EQ(hermes["x-frame"]["before"], "<tool_call>\n");
  EXPECT_EQ(hermes["x-frame"]["most"], kMostCalls);
  const Json first = hermes["anyOf"][0];
  EXPECT_EQ(first["properties"]["name"]["const"], "to_rome");
  EXPECT_EQ(first["properties"]["arguments"]["$id"], "to_rome") << "its references start at itself";
  EXPECT_EQ(first["properties"]["arguments"]["properties"].items().begin().key(), "way");
  EXPECT_EQ(hermes["anyOf"][1]["properties"]["arguments"]["properties"], Json::object());

  request.is_parallel = false;
  EXPECT_EQ(schema_of_calls(request, ToolFormat::hermes, CallPlace::alone)["x-frame"]["most"], 1);
  EXPECT_EQ(schema_of_calls(request, ToolFormat::mistral, CallPlace::opened)["maxItems"], 1);
  request.only = 1;
  const Json glm = schema_of_calls(request, ToolFormat::glm, CallPlace::alone);
  EXPECT_EQ(glm["anyOf"].size(), 1);
  EXPECT_EQ(glm["anyOf"][0]["x-frame"]["before"], "stay\n");
  EXPECT_TRUE(
      schema_of_calls(request, ToolFormat::llama, CallPlace::alone)["anyOf"][0]["properties"].contains(
          "parameters"));
}

CompletionRequest chat(const std::string& fields, ToolFormat format) {
  const FakeEngine engine;
  const std::string name = "m";
  ToolStyle style = tool_style_of(engine, format);
  const Json body =
      Json::parse(fmt::format(R"({{"messages": [{{"role": "user", "content": "x"}}], {}}})", fields));
  return chat_request_of(body, {engine, name, style}, {});
}

TEST(ToolRequests, ATokenThatTextsLeaveOutEndsThePromptWhereCallsAreRequired) {
  const CompletionRequest required =
      chat(std::string(kTwo) + R"(, "tool_choice": "required")", ToolFormat::mistral);
  EXPECT_EQ(required.prompts[0].back(), FakeEngine::kHidden);
  EXPECT_TRUE(required.tools->is_opened);
  EXPECT_EQ(required.open_token, FakeEngine::kHidden);
  EXPECT_EQ(Json::parse(required.sampling.json_schema)["type"], "array");
  const CompletionRequest free = chat(kTwo, ToolFormat::mistral);
  EXPECT_NE(free.prompts[0].back(), FakeEngine::kHidden);
  EXPECT_TRUE(free.sampling.json_schema.empty());
}

TEST(ToolRequests, AFormMayBeTakenInsteadOfCalls) {
  const std::string form = R"(, "response_format": {"type": "json_object"})";
  const CompletionRequest request = chat(kTwo + form, ToolFormat::hermes);
  EXPECT_FALSE(request.sampling.json_object);
  const Json schema = Json::parse(request.sampling.json_schema);
  EXPECT_EQ(schema["anyOf"][0]["type"], "object");
  EXPECT_TRUE(schema["anyOf"][1].contains("x-frame"));
  EXPECT_TRUE(chat(kTwo + form + R"(, "tool_choice": "none")", ToolFormat::hermes).sampling.json_object);
}

TEST(ToolRequests, StrictToolsKeepCallsWithinTextToTheirSchemas) {
  const std::string tools =
      R"("tools": [{"function": {"name": "f", "strict": true, "parameters": {"properties": {"a": {}}}}},
                                         {"function": {"name": "g", "parameters": {"not": {}}}}])";
  const Json schema = Json::parse(chat(tools, ToolFormat::hermes).sampling.json_schema);
  EXPECT_EQ(schema["x-frame"].dump(), R"({"before":"<tool_call>","after":"</tool_call>","in_text":true})");
  EXPECT_TRUE(schema["anyOf"][0]["properties"]["arguments"]["properties"].contains("a"));
  EXPECT_EQ(schema["anyOf"][1]["properties"]["arguments"].dump(), R"({"type":"object"})");
  for (const char* more : {R"(, "ignore_eos": true)", R"(, "min_tokens": 3)", R"(, "tool_choice": "none")"})
    EXPECT_EQ(chat(tools + more, ToolFormat::hermes).sampling.json_schema, "") << more;
  EXPECT_EQ(chat(tools, ToolFormat::llama).sampling.json_schema, "");
  EXPECT_EQ(chat(kTwo, ToolFormat::hermes).sampling.json_schema, "");
  EXPECT_THAT(refusal(R"("tools": [{"function": {"name": "f", "strict": 1}}])"),
              HasSubstr("tools[0].function.strict"));
}

// As the constraint understands the schema.
TEST(ToolRequests, CallsWithinTextAreTakenWhereTheySatisfyTheirSchemas) {
  const std::string tools =
      R"("tools": [{"function": {"name": "f", "strict": true, "parameters": {"properties": {"a": {"$ref":
      "#/$defs/a"}}, "required": ["a"], "$defs": {"a": {"enum": [1]}}}}}, {"function": {"name": "g"}}])";
  const auto taken =
      compile(ConstraintKind::json_schema, chat(tools, ToolFormat::hermes).sampling.json_schema);
  EXPECT_TRUE(takes(taken, "Let me see."));
  EXPECT_TRUE(
      takes(taken, "So: <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call> Well."));
  EXPECT_TRUE(takes(
      taken,
      R"(<tool_call>{"name": "g", "arguments": {"x": [2]}}</tool_call><tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>)"));
  EXPECT_FALSE(takes(taken, R"(<tool_call>{"name": "f", "arguments": {"a": 2}}</tool_call>)"));
  EXPECT_FALSE(takes(taken, R"(<tool_call>{"name": "h", "arguments": {}}</tool_call>)"));
  EXPECT_FALSE(takes(taken, "<tool_call>"));
}

// The fake engine's prompt shows what its template would be given.
TEST(ToolRequests, TheTemplateSeesToolsInTheirOrderUnlessNoneMayBeCalled) {
  const FakeEngine engine;
  const std::string tools = Json::parse(fmt::format("{{{}}}", kTwo))["tools"].dump();
  const auto prompt = [&](const std::string& more) {
    return engine.detokenize(chat(kTwo + more, ToolFormat::hermes).prompts[0], false);
  };
  EXPECT_THAT(prompt(""), HasSubstr(fmt::format("\n{}\n", tools)));
  EXPECT_THAT(prompt(R"(, "tool_choice": "none")"), ::testing::Not(HasSubstr("to_rome")));
}

}  // namespace
}  // namespace shadowkv::testing
