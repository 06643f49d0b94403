#include "hub/listing.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/refusal.h"
#include "formats/temporary_file.h"
#include "hub/digest.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;

const std::string kCommit(40, 'a');

std::string listing_of(const std::string& files) {
  return fmt::format(R"({{"sha": "{}", "siblings": [{}]}})", kCommit, files);
}

}  // namespace

TEST(Listing, HasChecksumsOfSmallAndLargeFiles) {
  const Listing listing = parse_listing(listing_of(R"({"rfilename": "a.json", "size": 12, "blobId": "b1"},
                    {"rfilename": "w/b.gguf", "size": 9, "blobId": "b2", "lfs": {"sha256": "c", "size": 5000000000}},
                    {"rfilename": "c"}, {"rfilename": "d", "size": 3}, {"rfilename": "e", "blobId": "b3"})"),
                                        "answer");
  EXPECT_EQ(listing.commit, kCommit);
  ASSERT_EQ(listing.files.size(), 5u);
  EXPECT_EQ(listing.files[0].etag, "b1");
  EXPECT_EQ(listing.files[0].size, 12);
  EXPECT_EQ(listing.files[1].etag, "c");
  EXPECT_EQ(listing.files[1].size, 5'000'000'000);
  for (std::size_t i = 2; i < 5; ++i) {  // what is said in part is asked for anew
    EXPECT_EQ(listing.files[i].etag, "");
    EXPECT_EQ(listing.files[i].size, -1);
  }
}

TEST(Listing, WhatIsNoneIsRefusedByName) {
  for (const std::string& text :
       {std::string("null"), std::string("[]"), std::string("{}"), std::string(R"({"sha": 1})"),
        std::string(R"({"sha": "main", "siblings": []})"), fmt::format(R"({{"sha": "{}"}})", kCommit),
        fmt::format(R"({{"sha": "{}", "siblings": {{}}}})", kCommit), listing_of("1"), listing_of("{}"),
        listing_of(R"({"rfilename": 1})"), listing_of(R"({"rfilename": ""})")}) {
    EXPECT_THAT(refusal_of([&] { (void)parse_listing(text, "the answer"); }), HasSubstr("the answer"))
        << text;
  }
}

TEST(Listing, NamesAndSizesThatCannotBeAreRefused) {
  for (const char* name : {"../x", "/x", "a/../x", R"(a\\x)", R"(a\u0000x)", R"(a\nx)"}) {
    const std::string text = listing_of(fmt::format(R"({{"rfilename": "{}"}})", name));
    EXPECT_THAT(refusal_of([&] { (void)parse_listing(text, "answer"); }), HasSubstr("leads out")) << name;
  }
  for (const char* size : {"-1", "1.5", "\"1\"", "1e30", "99999999999999999", "{}"}) {
    const std::string text =
        listing_of(fmt::format(R"({{"rfilename": "f", "blobId": "b", "size": {}}})", size));
    EXPECT_THAT(refusal_of([&] { (void)parse_listing(text, "answer"); }), HasSubstr("no size")) << size;
  }
}

// By sha256sum and by git hash-object.
TEST(Digest, IsThatOfTheUsualTools) {
  const TemporaryFolder folder;
  const auto file = folder.write("f", "hello\n");
  const auto digest = [](const std::filesystem::path& path, DigestKind kind) {
    return digest_of_file(path, kind, [] {});
  };
  EXPECT_EQ(digest(file, DigestKind::sha256),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
  EXPECT_EQ(digest(file, DigestKind::git_blob), "ce013625030ba8dba906f756967f9e9ca394464a");
  const auto empty = folder.write("e", "");
  EXPECT_EQ(digest(empty, DigestKind::sha256),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digest(empty, DigestKind::git_blob), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
}

TEST(Digest, NamesThatAreNoneAreRefused) {
  EXPECT_EQ(digest_kind(std::string(64, '0'), "f"), DigestKind::sha256);
  EXPECT_EQ(digest_kind(std::string(40, 'f'), "f"), DigestKind::git_blob);
  for (const std::string& name :
       {std::string(), std::string(39, 'a'), std::string(64, 'A'), std::string("../../x")}) {
    EXPECT_THAT(refusal_of([&] { (void)digest_kind(name, "model.gguf"); }), HasSubstr("model.gguf")) << name;
  }
}

}  // namespace shadowkv::testing
