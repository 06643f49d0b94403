// Every way in which a GGUF file can lie about itself is refused with a sentence.
#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "formats/refusal.h"
#include "formats/temporary_file.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kHuge = ~uint64_t{0};

// The message that refuses the file; empty when it is read.
std::string refusal_of_bytes(std::string_view bytes) {
  const TemporaryFolder folder;
  const auto path = folder.write("m.gguf", bytes);
  return refusal_of([&] { const GgufFile file(path); });
}
std::string refusal_of_file(const GgufWriter& writer) {
  return refusal_of_bytes(writer.bytes());
}

GgufWriter valid() {
  GgufWriter writer;
  writer.text("general.architecture", "llama").integer("n", 3).real("x", 0.5f).strings("words", {"a", "bc"});
  writer.array("ids", 5, 2, bytes_of<int32_t>({-1, 2})).scalar<uint8_t>("flag", 7, 1);
  return writer.floats("a", {2, 3}, {1, 2, 3, 4, 5, 6})
      .tensor("q", {1, 32}, GgufType::q8_0, std::string(34, '\1'));
}

TEST(GgufDamage, TheUndamagedFileIsRead) {
  EXPECT_EQ(refusal_of_file(valid()), "");
}

TEST(GgufDamage, EveryPrefixOfAFileIsRefused) {
  const std::string whole = valid().bytes();
  const TemporaryFolder folder;
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto path = folder.write("m.gguf", std::string_view(whole).substr(0, size));
    EXPECT_THROW(GgufFile{path}, InvalidInput) << "of " << size << " bytes";
  }
}

TEST(GgufDamage, ATruncatedFileIsRefusedWithItsSize) {
  const std::string whole = valid().bytes();
  EXPECT_THAT(refusal_of_bytes(std::string_view(whole).substr(0, 60)), HasSubstr("the file of 60 bytes"));
  EXPECT_THAT(refusal_of_bytes(std::string_view(whole).substr(0, whole.size() - 1)),
              HasSubstr("tensor \"q\" takes 34 bytes from offset 32 and there are 65 bytes of data"));
}

TEST(GgufDamage, BytesAfterTheLastTensorAreRefusedUnlessTheyPadIt) {
  const std::string whole = valid().bytes();  // the last tensor takes 34 bytes of its 64
  EXPECT_EQ(refusal_of_bytes(whole + std::string(30, '\0')), "");
  EXPECT_THAT(refusal_of_bytes(whole + std::string(31, '\0')),
              HasSubstr("97 bytes of data, its tensors take 66"));
}

TEST(GgufDamage, AnotherFormatOrVersionIsRefused) {
  GgufWriter writer = valid();
  writer.magic = "GGML";
  EXPECT_THAT(refusal_of_file(writer), HasSubstr("is not a GGUF file"));
  writer = valid();
  writer.version = 2;
  EXPECT_THAT(refusal_of_file(writer), HasSubstr("GGUF version 2"));
  writer.version = 0x03000000u;
  EXPECT_THAT(refusal_of_file(writer), HasSubstr("big-endian"));
}

TEST(GgufDamage, CountsBeyondTheFileAreRefusedBeforeMemoryIsTaken) {
  for (const uint64_t count : {kHuge, kHuge / 2, uint64_t{1} << 40}) {
    GgufWriter writer = valid();
    writer.claimed_tensors = count;
    EXPECT_THAT(refusal_of_file(writer), HasSubstr(fmt::format("claims {} tensors", count)));
    writer = valid();
    writer.claimed_values = count;
    EXPECT_THAT(refusal_of_file(writer), HasSubstr(fmt::format("claims {} metadata values", count)));
    EXPECT_NE(refusal_of_file(valid().array("more", 0, count, "abc")), "");
    EXPECT_NE(refusal_of_file(valid().array("more", 8, count, "abc")), "");
  }
}

TEST(GgufDamage, AStringPastTheEndIsRefused) {
  std::string bytes;
  append(bytes, kHuge);
  EXPECT_THAT(refusal_of_file(valid().raw("long", 8, bytes)), HasSubstr("is truncated"));
  EXPECT_THAT(refusal_of_file(valid().array("long", 8, 1, bytes)), HasSubstr("is truncated"));
}

TEST(GgufDamage, UnknownValueTypesAndNestedArraysAreRefused) {
  EXPECT_THAT(refusal_of_file(valid().integer("a", 1).raw("b", 13, "12345678")), HasSubstr("value type 13"));
  EXPECT_THAT(refusal_of_file(valid().array("b", 77, 1, "12345678")), HasSubstr("value type 77"));
  EXPECT_THAT(refusal_of_file(valid().array("b", 9, 1, std::string(64, '\0'))), HasSubstr("array of arrays"));
}

TEST(GgufDamage, ValuesThatTheirTypeCannotHoldAreRefused) {
  EXPECT_THAT(refusal_of_file(valid().scalar<uint64_t>("big", 10, uint64_t{1} << 63)), HasSubstr("\"big\""));
  EXPECT_EQ(refusal_of_file(valid().scalar<uint64_t>("big", 10, (uint64_t{1} << 63) - 1)), "");
  EXPECT_THAT(refusal_of_file(valid().scalar<uint8_t>("maybe", 7, 2)), HasSubstr("truth value of 2"));
}

TEST(GgufDamage, NamesMustBeThereAndDiffer) {
  EXPECT_THAT(refusal_of_file(valid().integer("n", 4)), HasSubstr("\"n\" appears twice"));
  EXPECT_THAT(refusal_of_file(valid().integer("", 4)), HasSubstr("a name of 0 bytes"));
  EXPECT_THAT(refusal_of_file(valid().floats("a", {1}, {1})), HasSubstr("\"a\" appears twice"));
  EXPECT_THAT(refusal_of_file(valid().floats("", {1}, {1})), HasSubstr("a name of 0 bytes"));
}

TEST(GgufDamage, ImpossibleShapesAreRefused) {
  EXPECT_THAT(refusal_of_file(valid().floats("z", {2, 0}, {})), HasSubstr("an extent of 0"));
  EXPECT_THAT(refusal_of_file(valid().floats("z", {}, {})), HasSubstr("0 dimensions"));
  EXPECT_THAT(refusal_of_file(valid().floats("z", {1, 1, 1, 1, 1}, {1})), HasSubstr("5 dimensions"));
  EXPECT_THAT(refusal_of_file(valid().floats("z", {kHuge}, {1})), HasSubstr("an extent of"));
  const uint64_t large = uint64_t{1} << 32;
  EXPECT_THAT(refusal_of_file(valid().floats("z", {large, large}, {1})),
              HasSubstr("the size of tensor \"z\""));
  EXPECT_THAT(refusal_of_file(valid().floats("z", {1u << 31, 1u << 31, 1}, {1})), HasSubstr("tensor \"z\""));
}

TEST(GgufDamage, AShapeLargerThanTheDataIsRefused) {
  EXPECT_THAT(refusal_of_file(valid().floats("z", {1000}, {1, 2})), HasSubstr("\"z\" takes 4000 bytes"));
}

TEST(GgufDamage, UnsupportedAndUnknownTypesAreNamed) {
  GgufWriter writer = valid();
  writer.tensors[0].type = 11;
  EXPECT_THAT(refusal_of_file(writer), HasSubstr("tensor \"a\" is of type Q3_K, supported are F32"));
  writer.tensors[0].type = 4711;
  EXPECT_THAT(refusal_of_file(writer), HasSubstr("number 4711"));
}

TEST(GgufDamage, RowsOfBrokenBlocksAreRefused) {
  EXPECT_THAT(refusal_of_file(valid().tensor("z", {2, 48}, GgufType::q4_0, std::string(54, '\0'))),
              HasSubstr("rows of 48 numbers"));
}

TEST(GgufDamage, OffsetsMustBeAlignedInsideAndApart) {
  GgufWriter writer = valid();
  writer.tensors[1].offset = 33;
  EXPECT_THAT(refusal_of_file(writer), HasSubstr("offset 33, not a multiple of the alignment 32"));
  writer.tensors[1].offset = 0;
  EXPECT_THAT(refusal_of_file(writer), HasSubstr("overlap at offset 0"));
  for (const uint64_t offset : {uint64_t{1} << 20, (uint64_t{1} << 63) - 32, uint64_t{1} << 63, kHuge - 31}) {
    writer.tensors[1].offset = offset;
    EXPECT_NE(refusal_of_file(writer), "") << offset;
  }
}

TEST(GgufDamage, AlignmentsThatAreNoneAreRefused) {
  for (const uint32_t alignment : {0u, 1u, 24u, 1u << 30}) {
    EXPECT_THAT(refusal_of_file(valid().integer("general.alignment", alignment)), HasSubstr("power of two"));
  }
  EXPECT_THAT(refusal_of_file(valid().text("general.alignment", "32")), HasSubstr("power of two"));
}

TEST(GgufDamage, NamesInMessagesCannotDriveATerminal) {
  GgufWriter writer = valid();
  writer.tensors[0].name = "\x1b[2Jevil\n";
  writer.tensors[0].type = 99;
  const std::string message = refusal_of_file(writer);
  EXPECT_THAT(message, HasSubstr("\\x1b[2Jevil\\x0a"));
}

}  // namespace
}  // namespace shadowkv::testing
