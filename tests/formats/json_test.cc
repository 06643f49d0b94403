#include "formats/json.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "formats/refusal.h"
#include "formats/temporary_file.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;

std::string refusal_of_text(std::string_view text, const JsonLimits& limits = {}) {
  return refusal_of([&] { (void)parse_json(text, "config.json", limits); });
}

TEST(Json, AFileReadsAsItsValue) {
  const TemporaryFolder folder;
  const JsonDocument document = read_json_file(folder.write("a.json", R"({"a": [1, "b"]})"));
  EXPECT_EQ((*document)["a"][1], "b");
}

TEST(Json, AMistakeIsNamedWithFileLineAndColumn) {
  EXPECT_THAT(refusal_of_text("{\n  \"a\": 1,\n  oops\n}"), HasSubstr("config.json: line 3, column 3"));
}

TEST(Json, WhatIsNotOneWholeValueIsRefused) {
  for (const char* text : {"", " ", "{", "[1,", "{} {}", "nul", "\"\xff\"", "1e999", "{\"a\":1,}"}) {
    EXPECT_NE(refusal_of_text(text), "") << text;
  }
}

// Found by fuzzing: what the parser says quotes the text as it stands.
TEST(Json, WhatAMistakeQuotesIsPrintableAndShort) {
  using namespace std::string_view_literals;
  for (const std::string_view text :
       {"{\x7f\"nu<\0\0\":null,"sv, "[\"a\x7f"sv, "[tr\x1bue]"sv, "\xff\xfe"sv}) {
    const std::string refusal = refusal_of_text(text);
    EXPECT_NE(refusal, "");
    EXPECT_EQ(
        std::find_if(refusal.begin(), refusal.end(), [](unsigned char c) { return c < 0x20 || c > 0x7e; }),
        refusal.end())
        << refusal;
  }
  EXPECT_LT(refusal_of_text("[\"" + std::string(100'000, 'a')).size(), 500u);
}

TEST(Json, OfARepeatedKeyTheLastValueCounts) {
  EXPECT_EQ((*parse_json(R"({"a": [[1], {"b": 2}], "a": {"c": 3}})", "a.json"))["a"]["c"], 3);
}

TEST(Json, ObjectsKeepTheOrderOfTheirTextWhereItIsAskedFor) {
  std::string text = "{", expected;
  for (int i = 40; i > 0; --i) {  // few are looked through, many are found by their names
    text += fmt::format(R"("k{}": {}, "again": {},)", i, i, i);
    expected += fmt::format("k{};{}", i, i == 40 ? "again;" : "");
  }
  const OrderedJsonDocument read = parse_ordered_json(text + R"("last": {"z": 1, "a": 2}})", "a.json");
  std::string names;
  for (const auto& [name, value] : read->items()) names += name + ";";
  EXPECT_EQ(names, expected + "last;");
  EXPECT_EQ((*read)["again"], 1);
  EXPECT_EQ((*read)["last"].dump(), R"({"z":1,"a":2})");
  const auto refusal = refusal_of(
      [&] { (void)parse_ordered_json(R"({"b": [{"x": 1, "x": 2}]})", "a.json", {.unique_keys = true}); });
  EXPECT_THAT(refusal, HasSubstr("\"x\" appears twice"));
}

TEST(Json, ManyMembersInOrderAreReadInLinearTime) {
  constexpr int kMembers = 200'000;
  std::string text = "{";
  for (int i = 0; i < kMembers; ++i) text += fmt::format(R"("m{}":0,)", i);
  EXPECT_EQ(parse_ordered_json(text + "\"m0\":1}", "many.json")->size(), kMembers);
}

TEST(Json, DepthIsBoundedButBracketsInStringsDoNotCount) {
  EXPECT_EQ(refusal_of_text("[[1]]", {.depth = 2}), "");
  EXPECT_THAT(refusal_of_text("[[\n[1]]]", {.depth = 2}), HasSubstr("line 2, column 1"));
  EXPECT_EQ(refusal_of_text(R"(["[[[[\"[[["])", {.depth = 1}), "");
  EXPECT_NE(refusal_of_text(std::string(1'000'000, '[')), "");
}

// Half a million pairs, as a tokenizer has merges: walking the text for every bracket would take hours.
TEST(Json, ManyBracketsAreReadInLinearTime) {
  constexpr int kPairs = 500'000;
  std::string text = "[[1,2]";
  for (int i = 1; i < kPairs; ++i) text += ",[1,2]";
  EXPECT_EQ(parse_json(text + "]", "merges.json", {})->size(), kPairs);
}

TEST(Json, SizeIsBounded) {
  EXPECT_THAT(refusal_of_text("[1,2,3]", {.bytes = 6}), HasSubstr("at most 6 B"));
}

TEST(Json, ARepeatedKeyIsRefusedWhereKeysMustBeUnique) {
  const char* text = R"({"a": {"b": 1, "b": 2}})";
  EXPECT_EQ(refusal_of_text(text), "");
  EXPECT_THAT(refusal_of_text(text, {.unique_keys = true}), HasSubstr("\"b\" appears twice"));
  EXPECT_EQ(refusal_of_text(R"({"a": {"a": 1}, "b": {"a": 2}})", {.unique_keys = true}), "");
}

TEST(Json, ValuesAndTextsAreCountedBeforeTheyAreBuilt) {
  const std::string_view text = R"({"a": [1, "two, [\"", {}], "b": "12345678"})";
  EXPECT_EQ(refusal_of_text(text, {.values = 6, .text_bytes = 10}), "");
  EXPECT_THAT(refusal_of_text(text, {.values = 5}), HasSubstr("line 1, column 26: more than 5 values"));
  EXPECT_THAT(refusal_of_text(text, {.text_bytes = 7}), HasSubstr("texts of more than 7 bytes"));
  EXPECT_THAT(refusal_of_text("[\"1234567890", {.text_bytes = 7}), HasSubstr("texts of more than 7 bytes"));
}

}  // namespace
}  // namespace shadowkv::testing
