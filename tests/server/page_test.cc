#include "server/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shadowkv {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::size_t count_of(std::string_view part, std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(Page, ItsOwnStylesAndScriptRunByTheNonceAlone) {
  const Page page = page_of("0a1b2c");
  EXPECT_THAT(page.html, HasSubstr("<style nonce=\"0a1b2c\">"));
  EXPECT_THAT(page.html, HasSubstr("<script nonce=\"0a1b2c\">"));
  EXPECT_EQ(count_of("0a1b2c", page.html), 2);
  EXPECT_THAT(page.html, Not(HasSubstr("{{nonce}}")));
  ASSERT_EQ(page.headers.front().name, "Content-Security-Policy");
  const std::string& policy = page.headers.front().value;
  EXPECT_THAT(policy, HasSubstr("default-src 'none'; script-src 'nonce-0a1b2c'; style-src 'nonce-0a1b2c'; "));
  EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
}

TEST(Page, IsWholeByItselfAndMakesNoMarkupOfText) {
  const std::string_view text = page_text();
  EXPECT_TRUE(text.starts_with("<!doctype html>"));
  EXPECT_TRUE(text.ends_with("</html>\n"));
  EXPECT_EQ(count_of("<script", text), 1);
  for (const char* part : {"src=", "@import", "url(", " style=\"", "innerHTML", "outerHTML",
                           "insertAdjacentHTML", "document.write", "eval(", " onclick=", " onload="}) {
    EXPECT_THAT(std::string(text), Not(HasSubstr(part)));
  }
}

}  // namespace
}  // namespace shadowkv
