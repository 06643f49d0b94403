#include "server/tool_call_parser.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

namespace shadowkv {
namespace {

using enum ToolFormat;

// What a client ends up with: the text, then name and arguments of each call.
struct Heard {
  std::string text;
  std::vector<std::pair<std::string, std::string>> calls;

  void add(const ToolDelta& delta) {
    text += delta.text;
    for (const ToolDelta::Call& call : delta.calls) {
      if (!call.name.empty()) {
        ASSERT_EQ(call.index, std::ssize(calls));
        ASSERT_EQ(call.arguments, "") << "the name comes first";
        calls.emplace_back(call.name, "");
      } else {
        ASSERT_EQ(call.index, std::ssize(calls) - 1);
        calls.back().second += call.arguments;
      }
    }
  }
  [[nodiscard]] std::string shown() const {
    std::string all = text;
    for (const auto& [name, arguments] : calls) all += fmt::format(" | {} {}", name, arguments);
    return all;
  }
};

std::string hear(const ToolParsing& parsing, std::initializer_list<std::string_view> pieces) {
  ToolCallParser parser(parsing);
  Heard heard;
  for (const std::string_view piece : pieces) heard.add(parser.add(piece));
  heard.add(parser.finish());
  EXPECT_EQ(parser.calls(), std::ssize(heard.calls));
  return heard.shown();
}

std::string hear_bytes(const ToolParsing& parsing, std::string_view text) {
  ToolCallParser parser(parsing);
  Heard heard;
  for (const char c : text) heard.add(parser.add({&c, 1}));
  heard.add(parser.finish());
  return heard.shown();
}

// However the text is cut.
void expect(ToolParsing parsing, std::string_view text, const std::string& expected) {
  SCOPED_TRACE(std::string(text));
  parsing.names = {"f", "get_time", "get"};
  for (const bool by_pieces : {false, true}) {
    parsing.by_pieces = by_pieces;
    EXPECT_EQ(hear(parsing, {text}), expected);
    EXPECT_EQ(hear_bytes(parsing, text), expected);
    for (std::size_t cut = 1; cut < text.size(); ++cut) {
      ASSERT_EQ(hear(parsing, {text.substr(0, cut), text.substr(cut)}), expected) << "cut at " << cut;
    }
  }
}

TEST(ToolCalls, OfHermes) {
  const ToolParsing p{.format = hermes};
  expect(p, "Hello, <b>world</b> 1 < 2 <tool", "Hello, <b>world</b> 1 < 2 <tool");
  expect(p, " \n two lines \n", " \n two lines \n");
  expect(p, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\\\"\"]}}\n</tool_call>",
         " | f {\"a\": [1, \"}\\\"\"]}");
  expect(p,
         "Let me see.\n\n<tool_call>{\"arguments\": {\"é\": {}}, \"name\": \"other\"}</tool_call>\nDone.\n",
         "Let me see.\nDone. | other {\"é\": {}}");
  expect(p,
         "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": "
         "\"get_time\", \"arguments\": {\"zone\": \"UTC\"}}\n</tool_call>",
         " | f {} | get_time {\"zone\": \"UTC\"}");
  expect(p, R"(<tool_call>[{"name": "f", "arguments": {"a": 1}}, {"name": "f"}]</tool_call>)",
         R"( | f {"a": 1} | f {})");
  expect(p, R"(<tool_call>{"id": 7, "name": "f", "arguments": "{\"a\": 1}", "x": null}</tool_call>)",
         R"( | f {"a": 1})");
  expect(p, R"(<tool_call>{"name": "f", "arguments": null}</tool_call>)", " | f {}");
}

TEST(ToolCalls, OfHermesThatLackTheirEndAreCalls) {
  const ToolParsing p{.format = hermes};
  expect(p, R"(<tool_call>{"name": "f", "arguments": {"a": 1}})", R"( | f {"a": 1})");
  expect(p, R"(<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_)", R"( | f {"a": 1})");
  expect(p, R"(<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>, and)", R"(, and | f {"a": 1})");
  expect(p, R"(<tool_call>{"name": "f", "arguments": {"a": 1})", R"( | f {"a": 1})");
  expect(p, R"(<tool_call>{"name": "f", "arguments": {"a": 1}}}</tool_call>)",
         R"(}</tool_call> | f {"a": 1})");
}

TEST(ToolCalls, WhatIsMalformedIsText) {
  for (const char* text : {
           "<tool_call>",
           "<tool_call>\n",
           "<tool_call>call f</tool_call>",
           "<tool_call>[1]</tool_call>",
           R"(<tool_call>{"arguments": {"a": 1}}</tool_call>)",
           R"(<tool_call>{"name": 5, "arguments": {"a": 1}}</tool_call>)",
           R"(<tool_call>{"name": "", "arguments": {"a": 1}}</tool_call>)",
           R"(<tool_call>{"name": "f", "arguments": [1]}</tool_call>)",
           R"(<tool_call>{"name": "f", "arguments": "none"}</tool_call>)",
           R"(<tool_call>{"name": "f" "arguments": {}}</tool_call>)",
           R"(<tool_call>{"name": "f", "arguments": tr)",
           R"(<tool_call>{"name": "f)",
           R"(<tool_call>{name: "f"}</tool_call>)",
           R"(<tool_call>{"name": {"f": 1}, "arguments": {}}</tool_call>)",
           R"(<tool_call>{"na\u00zzme": "f"}</tool_call>)",
       }) {
    expect({.format = hermes}, text, text);
  }
  expect({.format = hermes},
         R"(<tool_call>oops<tool_call>{"x": <tool_call>{"name": "f", "arguments": {}}</tool_call>)",
         R"(<tool_call>oops<tool_call>{"x": | f {})");
}

TEST(ToolCalls, ArgumentsThatAreMalformedAreTextUnlessTheyWereHandedOn) {
  const std::string_view text = R"(<tool_call>{"name": "f", "arguments": {"a": tru}}</tool_call>)";
  const std::string_view cut = R"(<tool_call>{"name": "f", "arguments": {"a": "b)";
  EXPECT_EQ(hear({.format = hermes}, {text}), text);
  EXPECT_EQ(hear({.format = hermes}, {cut}), cut);
  EXPECT_EQ(hear_bytes({.format = hermes, .by_pieces = true}, text), R"( | f {"a": tru})");
  EXPECT_EQ(hear_bytes({.format = hermes, .by_pieces = true}, cut), R"( | f {"a": "b)");
}

TEST(ToolCalls, OfLlama) {
  const ToolParsing p{.format = llama};
  expect(p, "Hello {\"name\": \"f\"}", "Hello {\"name\": \"f\"}");
  expect(p, R"({"name": "f", "parameters": {"a": "b"}})", R"( | f {"a": "b"})");
  expect(
      p,
      R"( <|python_tag|>{"type": "function", "name": "f", "parameters": {}}; {"name": "other", "parameters": {}})",
      " | f {} | other {}");
  expect(p, R"(Well: <|python_tag|>{"name": "other", "parameters": {}})", "Well: | other {}");
  expect(p, "<|python_tag|>brave_search.call(query=\"x\")", "<|python_tag|>brave_search.call(query=\"x\")");
}

TEST(ToolCalls, OfLlamaAreToldFromAnswersThatAreJson) {
  for (const char* text : {R"({"name": "Ada", "parameters": {"born": 1815}})", R"({"name": "Ada"})",
                           R"({"city": "Rome", "name": "f", "parameters": {}})", R"({"type": [1, 2]} )", "{}",
                           "{", R"({"name": "x", "parameters": {"a": "<|python_tag|>{"}})"}) {
    expect({.format = llama}, text, text);
  }
}

TEST(ToolCalls, OfMistral) {
  const ToolParsing p{.format = mistral};
  expect(p, "[1, 2] [TOOL", "[1, 2] [TOOL");
  expect(
      p,
      R"([TOOL_CALLS] [{"name": "f", "arguments": {"a": [1]}, "id": "abcdefghi"}, {"name": "g", "arguments": {}}])",
      R"( | f {"a": [1]} | g {})");
  expect(p, R"([TOOL_CALLS]{"name": "f", "arguments": {}} so)", " so | f {}");
  expect(p, "[TOOL_CALLS] []", "[TOOL_CALLS] []");
  expect({.format = mistral, .is_opened = true}, R"([{"name": "f", "arguments": {"a": 1}}])",
         R"( | f {"a": 1})");
  expect({.format = mistral, .is_opened = true}, "no", "no");
}

TEST(ToolCalls, OfGlm) {
  const ToolParsing p{.format = glm};
  expect(p, "\nget_time\n{\"zone\": \"UTC\"}", R"( | get_time {"zone": "UTC"})");
  expect(p, "get \n\n {\"a\": {\"b\": []}}\nf\n{}", R"( | get {"a": {"b": []}} | f {})");
  for (const char* text :
       {"get", "get_time it\n{}", "get_tim\n{}", "get\nit", "f\n", "f\n[1]", "what\n{}", "f\n{\"a\""})
    if (std::string_view(text) != "f\n{\"a\"") expect(p, text, text);
  EXPECT_EQ(hear({.format = glm, .names = {"f"}}, {"f\n{\"a\""}), "f\n{\"a\"");
}

TEST(ToolCalls, MoreThanMayBeAreDropped) {
  const std::string call = R"(<tool_call>{"name": "f", "arguments": {}}</tool_call>)";
  expect({.format = hermes, .most = 1}, "a " + call + call + " b", "a | f {}");
}

// Nothing that may be part of a call is shown, and arguments do not wait for their end.
TEST(ToolCalls, ComeAsSoonAsTheyAreCertain) {
  ToolCallParser parser({.format = hermes, .by_pieces = true});
  EXPECT_EQ(parser.add("Hi <to").text, "Hi");
  EXPECT_EQ(parser.add("ol_ca").text, "");
  EXPECT_TRUE(parser.add(R"(ll>{"name": "f", "argum)").calls.empty());
  const ToolDelta begun = parser.add(R"(ents": {"a": "lo)");
  ASSERT_EQ(begun.calls.size(), 2);
  EXPECT_EQ(begun.calls[0].name, "f");
  EXPECT_EQ(begun.calls[1].arguments, R"({"a": "lo)");
  EXPECT_EQ(parser.add("ng").calls.at(0).arguments, "ng");
  EXPECT_EQ(parser.add("\"}}</tool").calls.at(0).arguments, "\"}");
  EXPECT_EQ(parser.add("_call>").text, "");
  EXPECT_EQ(parser.finish().text, "");
}

TEST(ToolCalls, AreReadInLinearTime) {
  const std::string long_text(2'000'000, 'x');
  std::string call = R"(<tool_call>{"name": "f", "arguments": {"a": ")" + long_text + "\"}}";
  for (const bool by_pieces : {false, true}) {
    ToolCallParser parser({.format = hermes, .by_pieces = by_pieces});
    Heard heard;
    for (std::size_t i = 0; i < call.size(); i += 4)
      heard.add(parser.add(std::string_view(call).substr(i, 4)));
    heard.add(parser.finish());
    ASSERT_EQ(heard.calls.size(), 1);
    EXPECT_GT(heard.calls[0].second.size(), long_text.size());
  }
}

}  // namespace
}  // namespace shadowkv
