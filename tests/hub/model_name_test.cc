#include <gtest/gtest.h>

#include "hub/http.h"
#include "hub/names.h"
#include "shadowkv/hub.h"

namespace shadowkv::testing {

TEST(ModelName, HasARepositoryARevisionAndAFile) {
  const auto plain = parse_hub_model("org/name");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->repository, "org/name");
  EXPECT_EQ(plain->revision, "main");
  EXPECT_EQ(plain->file, "");
  const auto full = parse_hub_model("Org-1/na.me_2@refs/pr/3:dir/m.Q4_K_M.gguf");
  ASSERT_TRUE(full);
  EXPECT_EQ(full->repository, "Org-1/na.me_2");
  EXPECT_EQ(full->revision, "refs/pr/3");
  EXPECT_EQ(full->file, "dir/m.Q4_K_M.gguf");
}

TEST(ModelName, OtherTextsAreNone) {
  for (const char* text : {"",
                           "name",
                           "/name",
                           "org/",
                           "org/name/more",
                           "org/..",
                           "../name",
                           "./name",
                           "org/na me",
                           "org/name@",
                           "org/name:",
                           "org/name@../x",
                           "org/name@-x",
                           "org/name@/x",
                           "org/name:../x",
                           "org/name:/x",
                           "org/na--me",
                           "org/.name",
                           "org/name.",
                           "org/name.gguf",
                           "org/name.git",
                           "C:\\org\\name",
                           "org/n\xc3\xa4me"}) {
    EXPECT_FALSE(parse_hub_model(text)) << text;
  }
  EXPECT_TRUE(parse_hub_model("o/" + std::string(94, 'n')));
  EXPECT_FALSE(parse_hub_model("o/" + std::string(95, 'n')));
}

TEST(ModelName, PathsStayWithinTheirFolder) {
  for (const char* path : {"a", "a/b.c", "..a", "a..", "...", "a b", "\xc3\xa4"})
    EXPECT_TRUE(is_safe_path(path));
  for (const char* path :
       {"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\\b", "a\nb", "a\x7f"}) {
    EXPECT_FALSE(is_safe_path(path)) << path;
  }
  EXPECT_FALSE(is_safe_path(std::string_view("a\0b", 3)));
  EXPECT_FALSE(is_safe_path(std::string(256, 'a')));
}

TEST(ModelName, IsEncodedForAnAddress) {
  EXPECT_EQ(percent_encoded("refs/pr/1", false), "refs%2Fpr%2F1");
  EXPECT_EQ(percent_encoded("a b/\xc3\xa4?#%.gguf", true), "a%20b/%C3%A4%3F%23%25.gguf");
}

// Two addresses with equal origins lead to the same host, whatever stands in them: a token depends on it.
TEST(Origin, EndsWhereTheHostDoes) {
  EXPECT_EQ(origin_of("https://hub.co/a/b"), "https://hub.co");
  EXPECT_EQ(origin_of("http://hub.co:8080"), "http://hub.co:8080");
  EXPECT_EQ(origin_of("nothing"), "");
  for (const char* other : {"https://hub.co@evil.com/", "https://hub.co.evil.com/", "https://hub.co:444/",
                            "http://hub.co/", "https://evil.com/?https://hub.co/", "//hub.co/"}) {
    EXPECT_NE(origin_of(other), "https://hub.co") << other;
  }
}

}  // namespace shadowkv::testing
