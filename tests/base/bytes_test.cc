#include "base/bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shadowkv/error.h"

namespace shadowkv {
namespace {

TEST(Bytes, AreWrittenInTheLargestUnitThatFits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(int64_t{6} << 30), "6.0 GiB");
  EXPECT_EQ(format_bytes(int64_t{5000} << 40), "5000.0 TiB");
}

TEST(Bytes, AreReadWithEveryUnit) {
  EXPECT_EQ(parse_bytes("17", "--m"), 17);
  EXPECT_EQ(parse_bytes("17B", "--m"), 17);
  EXPECT_EQ(parse_bytes("512M", "--m"), int64_t{512} << 20);
  EXPECT_EQ(parse_bytes("2GiB", "--m"), int64_t{2} << 30);
  EXPECT_EQ(parse_bytes("1.5K", "--m"), 1536);
  EXPECT_EQ(parse_bytes("1T", "--m"), int64_t{1} << 40);
}

TEST(Bytes, WhatIsNoSizeIsRefusedWithTheOptionsName) {
  for (const char* text : {"", "G", "-1", "1X", "1GG", "1 G", "1e30", "nan", "inf", "0x10"}) {
    EXPECT_THROW((void)parse_bytes(text, "--m"), InvalidInput) << text;
  }
  try {
    (void)parse_bytes("much", "--device-memory");
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("--device-memory = \"much\""));
  }
}

}  // namespace
}  // namespace shadowkv
