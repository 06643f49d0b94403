#include "constraint/json_schema.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "constraint/tokens.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

void expect_refused(std::string_view schema, const std::string& part) {
  try {
    (void)compile(ConstraintKind::json_schema, schema);
    ADD_FAILURE() << schema << " was taken; expected \"" << part << "\"";
  } catch (const InvalidInput& error) {
    EXPECT_THAT(error.what(), HasSubstr(part)) << schema;
  }
}

TEST(JsonSchema, WhatIsNotSupportedIsNamedWithItsPlace) {
  expect_refused(R"({"properties": {"a": {"type": "string", "contentEncoding": "x"}}})",
                 R"("#/properties/a", the keyword "contentEncoding" is not supported)");
  expect_refused(R"({"type": "array", "uniqueItems": true})", "\"uniqueItems\" is not supported");
  expect_refused(R"({"type": "number", "minimum": 1})", "minimum is supported for integers alone");
  expect_refused(R"({"not": {}})", "\"not\" is not supported");
  expect_refused(R"({"type": "string", "format": "uri"})", "the format \"uri\"");
  expect_refused(R"({"type": "string", "pattern": "a", "maxLength": 3})", "only one is supported");
  expect_refused(R"({"anyOf": [{}], "type": "object"})", "anyOf and type stand together");
  expect_refused(R"({"allOf": [{}, {}]})", "allOf of 2 schemas");
  expect_refused(R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", "may hold at once");
  expect_refused(R"({"oneOf": [{"type": "integer"}, {}]})", "cannot be told apart");
  expect_refused(R"({"$ref": "other.json"})", "only places in the schema itself");
  expect_refused(R"x({"type": "string", "pattern": "a(?=b)"})x", "this kind of group");
  expect_refused(R"({"properties": {"é": {}}, "additionalProperties": true})", "not plain ASCII");
}

TEST(JsonSchema, AFrameIsTextAroundAValue) {
  const auto framed = compile(ConstraintKind::json_schema, R"({"type": "boolean", "x-frame":
      {"before": "<a>\n", "between": ", ", "after": "</a>", "most": 2}})");
  EXPECT_TRUE(takes(framed, "<a>\ntrue</a>"));
  EXPECT_TRUE(takes(framed, "<a>\ntrue</a>, <a>\nfalse</a>"));
  EXPECT_FALSE(takes(framed, "<a>\ntrue</a>, "));
  EXPECT_FALSE(takes(framed, "<a>\ntrue</a>, <a>\nfalse</a>, <a>\ntrue</a>"));
  EXPECT_FALSE(takes(framed, "true"));
  const auto either = compile(ConstraintKind::json_schema,
                              R"({"anyOf": [{"type": "null"}, {"x-frame": {"before": "f\n"}, "const": 1}]})");
  EXPECT_TRUE(takes(either, "null"));
  EXPECT_TRUE(takes(either, "f\n1"));
  EXPECT_FALSE(takes(either, "f\nnull"));
  expect_refused(R"({"x-frame": 3})", R"("#/x-frame", a frame must be an object)");
  expect_refused(R"({"x-frame": {"most": 0}})", "most must be from 1 to 64");
  expect_refused(R"({"x-frame": {"most": 65}})", "most must be from 1 to 64");
  expect_refused(R"({"x-frame": {"before": 3}})", "\"before\" is no part of a frame");
  expect_refused(R"({"x-frame": {"above": "x"}})", "\"above\" is no part of a frame");
}

TEST(JsonSchema, AFrameInTextBeginsWhereverItsTextStands) {
  const auto framed = compile(ConstraintKind::json_schema, R"({"type": "boolean", "x-frame":
      {"before": "<<a>", "after": "</a>", "in_text": true}})");
  for (const char* text : {"", "any <text> at all, <<", "<<a>true</a>", "x<<<a> true\n</a>y<<a>false</a><<a",
                           "<<b>true", "\xC3\xA9 {"}) {
    EXPECT_TRUE(takes(framed, text)) << text;
  }
  for (const char* text : {"<<a>", "<<a>no</a>", "<<a>true", "x <<a>1</a>", "<<<a>true</b>"}) {
    EXPECT_FALSE(takes(framed, text)) << text;
  }
  std::mt19937 random(1);
  for (int i = 0; i < 20; ++i) (void)random_answer(framed, random);  // no dead ends
  expect_refused(R"({"x-frame": {"in_text": true}})", "must begin with a text of 1 to 64 bytes");
  expect_refused(R"({"x-frame": {"in_text": 1}})", "\"in_text\" is no part of a frame");
}

TEST(JsonSchema, ReferencesStartAtTheInnermostIdentifiedSchema) {
  const auto both = compile(ConstraintKind::json_schema, R"({"$defs": {"x": {"const": 1}}, "anyOf": [
      {"$id": "a", "$defs": {"x": {"const": 2}}, "type": "array", "items": {"$ref": "#/$defs/x"}},
      {"$id": "b", "properties": {"next": {"$ref": "#"}}, "additionalProperties": false},
      {"$ref": "#/$defs/x"}]})");
  EXPECT_TRUE(takes(both, "[2]"));
  EXPECT_FALSE(takes(both, "[1]"));
  EXPECT_TRUE(takes(both, R"({"next":{"next":{}}})"));
  EXPECT_FALSE(takes(both, R"({"next":[2]})"));
  EXPECT_TRUE(takes(both, "1"));
}

TEST(JsonSchema, WhatIsMalformedIsNamedWithItsPlace) {
  expect_refused("", "JSON");
  expect_refused("{", "JSON");
  expect_refused("3", "must be an object, true or false");
  expect_refused(R"({"type": "text"})", "type is");
  expect_refused(R"({"type": []})", "empty list");
  expect_refused(R"({"$ref": "#/$defs/no"})", "does not exist");
  expect_refused(R"({"$ref": "#/~2"})", "does not exist");
  expect_refused(R"({"required": "a"})", "list of names");
  expect_refused(R"({"minItems": -1})", "minItems must be a whole number");
  expect_refused(R"({"minItems": 3, "maxItems": 2})", "minItems = 3");
  expect_refused(R"({"minLength": 3, "maxLength": 2})", "minLength = 3");
  expect_refused(R"({"type": "integer", "minimum": 3, "maximum": 2})", "no integer lies between 3 and 2");
  expect_refused(R"({"type": "integer", "minimum": 0.5})", "minimum must be a whole number");
  expect_refused(R"({"enum": []})", "no value of enum");
  expect_refused(R"({"minItems": 1, "minLength": 1})", "stand without type");
  expect_refused(R"({"a": 1, "a": 2})", "a");
}

TEST(JsonSchema, WhatNothingSatisfiesOrIsTooLargeIsRefused) {
  expect_refused("false", "no value satisfies");
  expect_refused(R"({"$ref": "#"})", "nothing that the vocabulary can write");
  expect_refused(R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})",
                 "nothing that the vocabulary can write");
  expect_refused(R"({"type": "string", "maxLength": 100000})", "more than 100000 nodes");
  expect_refused(R"({"type": "array", "items": {"type": "string", "maxLength": 9000}, "minItems": 90000})",
                 "more than 100000 nodes");
  std::string nested = "{}";
  for (int i = 0; i < 300; ++i) nested = R"({"items": )" + nested + "}";
  expect_refused(nested, "JSON");
}

void expect_valid(std::string_view schema, int count, const std::function<bool(const Json&)>& is_valid) {
  std::mt19937 random(3);
  const auto constraint = compile(ConstraintKind::json_schema, schema);
  for (int i = 0; i < count; ++i) {
    const std::string text = random_answer(constraint, random);
    const Json value = Json::parse(text, nullptr, false);
    ASSERT_FALSE(value.is_discarded()) << text;
    ASSERT_TRUE(is_valid(value)) << text;
  }
}

TEST(JsonSchema, RandomAnswersSatisfyIt) {
  expect_valid(R"({"type": "object", "properties": {"n": {"type": "integer", "minimum": -7, "maximum": 1234},
                   "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1, "maxItems": 4},
                   "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["n", "tags"],
                   "additionalProperties": false})",
               200, [](const Json& v) {
                 const int64_t n = v.at("n");
                 const std::size_t tags = v.at("tags").size();
                 return n >= -7 && n <= 1234 && tags >= 1 && tags <= 4 &&
                        (!v.contains("next") || v["next"].is_null() || v["next"].contains("n"));
               });
  expect_valid(
      R"({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}})",
      200, [](const Json& v) {
        bool holds = true;
        for (const auto& [key, x] : v.items()) holds = holds && (key == "a" ? x.is_number() : x.is_boolean());
        return holds;
      });
  expect_valid(R"({"type": "string", "minLength": 2, "maxLength": 5})", 200, [](const Json& v) {
    const auto text = v.get<std::string>();
    const auto characters =
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
    return characters >= 2 && characters <= 5;
  });
  expect_valid("true", 200, [](const Json&) { return true; });
}

TEST(JsonSchema, AJsonObjectIsOne) {
  std::mt19937 random(9);
  const auto constraint = compile(ConstraintKind::json_object, "");
  for (int i = 0; i < 300; ++i) {
    const std::string text = random_answer(constraint, random);
    EXPECT_TRUE(Json::parse(text, nullptr, false).is_object()) << text;
  }
  EXPECT_FALSE(takes(constraint, "[]"));
  EXPECT_TRUE(takes(constraint, "{\n  \"a\": [1, -2.5e+3],\n\n\t\"\\ud83d\\ude00\": null}"));
  EXPECT_FALSE(takes(constraint, R"({"\ud83d": 1})")) << "half a pair";
  EXPECT_FALSE(takes(constraint, R"({"a": 01})"));
}

TEST(JsonSchema, NestingEndsAtItsBoundWithoutADeadEnd) {
  const auto constraint = compile(ConstraintKind::json_schema, "{}");
  ConstraintPosition position(constraint);
  int depth = 0;
  const auto can = [&](char c) {
    return (position.mask()[static_cast<std::size_t>(c) / 64] >> (c % 64) & 1) != 0;
  };
  for (; can('['); ++depth) position.take('[');
  EXPECT_GT(depth, 40);
  EXPECT_LE(depth, kMostDepth);
  for (; depth > 0; --depth) {
    ASSERT_TRUE(can(']'));
    position.take(']');
  }
  EXPECT_TRUE(position.is_complete());
}

}  // namespace
}  // namespace shadowkv::testing
