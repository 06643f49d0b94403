#include "formats/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/refusal.h"
#include "formats/temporary_file.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;

TEST(MappedFile, ItsBytesAreTheFiles) {
  const TemporaryFolder folder;
  const MappedFile file(folder.write("a", "hello"));
  ASSERT_EQ(file.bytes().size(), 5u);
  EXPECT_EQ(file.bytes()[4], std::byte{'o'});
}

TEST(MappedFile, AnEmptyFileHasNoBytes) {
  const TemporaryFolder folder;
  EXPECT_TRUE(MappedFile(folder.write("a", "")).bytes().empty());
}

TEST(MappedFile, AMoveLeavesTheSourceEmpty) {
  const TemporaryFolder folder;
  MappedFile first(folder.write("a", "hello"));
  MappedFile second(folder.write("b", "other"));
  second = std::move(first);
  EXPECT_EQ(second.bytes().size(), 5u);
  EXPECT_EQ(second.bytes()[0], std::byte{'h'});
  EXPECT_TRUE(first.bytes().empty());  // NOLINT(bugprone-use-after-move): the law under test
}

TEST(MappedFile, WhatIsNoReadableFileIsRefusedByName) {
  const TemporaryFolder folder;
  EXPECT_THAT(refusal_of([&] { MappedFile{folder.path() / "none"}; }), HasSubstr("none cannot be opened"));
  EXPECT_THAT(refusal_of([&] { MappedFile{folder.path()}; }), HasSubstr("is not a regular file"));
}

}  // namespace
}  // namespace shadowkv::testing
