#include "prompt.h"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <string>

#include "args.h"
#include "exit_code.h"
#include "shadowkv/error.h"

namespace shadowkv::apps {
namespace {

TEST(Utf8, WellFormedTextOfEveryLengthPasses) {
  EXPECT_EQ(first_invalid_utf8(""), -1);
  EXPECT_EQ(first_invalid_utf8("plain, h\xC3\xA9llo, \xE2\x82\xAC, \xF0\x9F\x98\x80, \xF4\x8F\xBF\xBF"), -1);
}

TEST(Utf8, TheFirstBadByteIsFound) {
  EXPECT_EQ(first_invalid_utf8("ab\xFF"), 2);
  EXPECT_EQ(first_invalid_utf8("a\xC3"), 1);             // cut short
  EXPECT_EQ(first_invalid_utf8("\x80"), 0);              // no lead
  EXPECT_EQ(first_invalid_utf8("\xC0\xAF"), 0);          // overlong
  EXPECT_EQ(first_invalid_utf8("\xE0\x80\xAF"), 0);      // overlong
  EXPECT_EQ(first_invalid_utf8("x\xED\xA0\x80"), 1);     // surrogate
  EXPECT_EQ(first_invalid_utf8("\xF4\x90\x80\x80"), 0);  // beyond U+10FFFF
  EXPECT_EQ(first_invalid_utf8("\xE2\x82\x41"), 0);      // broken off
}

TEST(Numbers, IdsAreReadWithCommasAndBlanks) {
  EXPECT_EQ(parse_ids(" 1,2 3,\n4 ", "--prompt-ids"), (std::vector<int32_t>{1, 2, 3, 4}));
  EXPECT_TRUE(parse_ids(" , ", "--prompt-ids").empty());
}

TEST(Numbers, WhatIsNoIdIsRefused) {
  for (const char* bad : {"-1", "1,x", "2147483648", "99999999999999999999", "1.5", "0x10", "+1"}) {
    EXPECT_THROW((void)parse_ids(bad, "--prompt-ids"), InvalidInput) << bad;
  }
}

TEST(Numbers, ARefusalNamesOptionValueAndRange) {
  try {
    (void)parse_whole("17", "--chunk", {1, 16});
    FAIL() << "17 was taken";
  } catch (const InvalidInput& error) {
    EXPECT_EQ(std::string(error.what()), "--chunk is \"17\"; it must be a whole number from 1 to 16");
  }
  EXPECT_THROW((void)parse_wholes(" ", "--context", {1, 16}), InvalidInput);
}

TEST(ExitCode, EveryKindOfFailureHasItsOwn) {
  EXPECT_EQ(run_and_report([] { return 0; }), 0);
  EXPECT_EQ(run_and_report([]() -> int { throw InvalidInput("x"); }), 2);
  EXPECT_EQ(run_and_report([]() -> int { throw CLI::ArgumentMismatch("x"); }), 2);
  EXPECT_EQ(run_and_report([]() -> int { throw OutOfMemory("x"); }), 2) << "more than a budget was asked for";
  EXPECT_EQ(run_and_report([]() -> int { throw std::bad_alloc(); }), 3);
  EXPECT_EQ(run_and_report([]() -> int { throw DeviceFailure("x"); }), 4);
  EXPECT_EQ(run_and_report([]() -> int { throw Interrupted("x"); }), 130);
  EXPECT_EQ(run_and_report([]() -> int { throw std::runtime_error("x"); }), 1);
  EXPECT_EQ(one_line("a\nb\r\n"), "a b");
}

}  // namespace
}  // namespace shadowkv::apps
