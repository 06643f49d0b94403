#include "constraint/regex.h"

#include <gmock/gmock.h>

#include "constraint/tokens.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;

void expect_refused(std::string_view pattern, const std::string& part) {
  try {
    (void)compile(ConstraintKind::regex, pattern);
    ADD_FAILURE() << pattern << " was taken; expected \"" << part << "\"";
  } catch (const InvalidInput& error) {
    EXPECT_THAT(error.what(), HasSubstr(part)) << pattern;
  }
}

TEST(ConstraintRegex, WhatIsNotSupportedIsNamedWithItsPlace) {
  expect_refused("ab(?=c)", "at byte 4, this kind of group");
  expect_refused("(?<=a)b", "this kind of group");
  expect_refused("(?i)a", "this kind of group");
  expect_refused("(a)\\1", "at byte 4, this escape");
  expect_refused("\\bword", "this escape");
  expect_refused("\\p{L}", "this escape");
  expect_refused("a++", "possessive");
  expect_refused("a(^b)", "an anchor within");
  expect_refused("a$b", "an anchor within");
  expect_refused("(a$)", "an anchor within a group");
  expect_refused("[[:alpha:]]", "named classes");
}

TEST(ConstraintRegex, WhatIsMalformedIsNamedWithItsPlace) {
  expect_refused("(a", "a ( without its )");
  expect_refused("a)", "a ) without its (");
  expect_refused("[a", "a [ has no ]");
  expect_refused("[b-a]", "a range of a [ ] is none");
  expect_refused("[\\d-z]", "a range of a [ ] is none");
  expect_refused("*a", "nothing to repeat");
  expect_refused("a**", "repeated again");
  expect_refused("a{2,1}", "wrong order");
  expect_refused("a{x}", "a count is missing");
  expect_refused("a{2", "a { has no }");
  expect_refused("{2}", "a { stands");
  expect_refused("a\\", "a \\ stands at the end");
  expect_refused("\\x4", "needs the digits");
  expect_refused("\\ud800", "needs the digits");
  expect_refused("\\u{110000}", "needs the digits");
  expect_refused("a\xff", "no UTF-8 from byte 1");
  expect_refused("(?P<name", "has no end");
}

TEST(ConstraintRegex, WhatBecomesTooLargeIsRefused) {
  expect_refused("a{100001}", "too large");
  expect_refused("((a{1000}){1000}){1000}", "more than 100000 nodes");
  expect_refused("(((){1000}){1000}){1000}", "more than 100000 nodes");
  expect_refused(std::string(8193, 'a'), "8193 bytes");
  expect_refused(std::string(200, '(') + "a" + std::string(200, ')'), "nested too deeply");
  expect_refused("[^\\x00-\\U]", "this escape");
  expect_refused("[^\\s\\S]", "nothing that the vocabulary can write");
}

TEST(ConstraintRegex, RandomAnswersMatch) {
  std::mt19937 random(5);
  const auto constraint = compile(ConstraintKind::regex, "(ab|[é-ü]{2}|12){1,3}(\\.\\d+)?");
  for (int i = 0; i < 200; ++i) {
    const std::string text = random_answer(constraint, random);
    EXPECT_TRUE(takes(constraint, text)) << text;
  }
}

}  // namespace
}  // namespace shadowkv::testing
