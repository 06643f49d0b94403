#include "tokenizer/regex.h"

#include <gmock/gmock.h>

#include "formats/refusal.h"
#include "tokenizer/golden.h"
#include "tokenizer/regex_dialect.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;

bool matches(std::string_view pattern, std::string_view text) {
  const Regex regex(pattern);
  Regex::Scratch scratch(regex);
  const auto match = regex.find(text, 0, scratch);
  return match && match->begin == 0 && match->end == static_cast<int64_t>(text.size());
}

TEST(Regex, WhiteSpaceIsUnicodes) {
  for (const char* space : {" ", "\t", "\v", "\u0085", "\u00a0", "\u1680", "\u2028", "\u3000"}) {
    EXPECT_TRUE(matches(R"(\s)", space) && matches(R"([\s])", space)) << space;
    EXPECT_FALSE(matches(R"(\S)", space) || matches(R"([^\s])", space) || matches(R"([\S])", space)) << space;
  }
  for (const char* other : {"\u180e", "\u200b", "a"}) {
    EXPECT_FALSE(matches(R"(\s)", other)) << other;
    EXPECT_TRUE(matches(R"(\S)", other) && matches(R"([\S])", other)) << other;
  }
}

TEST(Regex, WordCharactersAreUnicodes) {
  for (const char* word : {"a", "_", "\u0301", "\u0661", "\u2167", "\u203f", "\u24d0"}) {
    EXPECT_TRUE(matches(R"(\w)", word) && !matches(R"(\W)", word)) << word;
  }
  for (const char* other : {" ", "-", "\u2460"}) EXPECT_TRUE(matches(R"(\W)", other)) << other;
}

TEST(Regex, AScriptMeansItsLettersNotItsExtensions) {
  EXPECT_TRUE(matches(R"(\p{Han})", "\u4e2d"));
  EXPECT_FALSE(matches(R"(\p{Han})", "\u3002"));
  EXPECT_TRUE(matches(R"(\P{Han}\p{^Han})", "ab"));
}

TEST(Regex, QuotedTextMatchesItself) {
  const std::string text = "a.*+?[](){}|\\^$ \n\u00e9\U0001f600#&-";
  EXPECT_TRUE(matches(quote_pattern(text), text));
}

TEST(Regex, AConstructThatMeansSomethingElseElsewhereIsNamed) {
  for (const char* construct :
       {"(*", "(?i)", "(?<n", "(?m:", "\\b", "\\1", "\\K", "\\h", "\\X", "{2}?", "{1,3}+", "{,3}", "\\xE9",
        "&&", "[ inside [ ]", "\\p{", "[ without ]", "\\W inside [ ]", "[]"}) {
    std::string pattern = std::string("a") + construct;
    if (pattern == "a(?<n") pattern = "(?<name>a)";
    if (pattern == "a&&") pattern = "[a&&b]";
    if (pattern == "a[ inside [ ]") pattern = "[a[b]]";
    if (pattern == "a[ without ]") pattern = "[a";
    if (pattern == "a\\W inside [ ]") pattern = "[a\\W]";
    if (pattern == "a[]") pattern = "[]a]";
    EXPECT_THAT(refusal_of([&] { (void)Regex(pattern); }), HasSubstr(construct)) << pattern;
  }
  for (const char* pattern : {"(a", "a)", "\\", "*a", "\\p{alpha}", "a{", "a{x}", "\\u12", "(?<=a*)b"}) {
    EXPECT_NE(refusal_of([&] { (void)Regex(pattern); }), "") << pattern;
  }
}

TEST(Regex, AHostilePatternIsQuotedShortAndPrintable) {
  for (const char* spoiled : {"(", "(?i)"}) {
    const std::string pattern = spoiled + std::string("\n\x1b[2J]") + std::string(10'000, 'x');
    const std::string refusal = refusal_of([&] { (void)Regex(pattern); });
    EXPECT_THAT(refusal, HasSubstr(std::string(spoiled) + "\\x0a\\x1b[2J]xxx"));
    EXPECT_LT(refusal.size(), 300u);
  }
}

TEST(Regex, EndlessBacktrackingEndsInAnError) {
  const Regex regex("(?:a+a+)+$[^a]|(a|aa|a)+b");
  Regex::Scratch scratch(regex);
  EXPECT_THAT(refusal_of([&] { (void)regex.find(std::string(200, 'a'), 0, scratch); }), HasSubstr("limit"));
}

}  // namespace
}  // namespace shadowkv::testing
