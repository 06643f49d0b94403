#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/refusal.h"
#include "formats/safetensors_writer.h"
#include "formats/temporary_file.h"

namespace shadowkv::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string refusal_of_bytes(std::string_view bytes) {
  const TemporaryFolder folder;
  const auto path = folder.write("m.safetensors", bytes);
  return refusal_of([&] { const SafetensorsFile file(path); });
}
std::string refusal_of_header(std::string_view header, std::string_view data = "") {
  return refusal_of_bytes(safetensors_bytes(header, data));
}

std::string valid() {
  return SafetensorsWriter()
      .metadata("format", "pt")
      .floats("b", {2, 3}, {1, 2, 3, 4, 5, 6})
      .tensor("a", "BF16", {2}, "1234")
      .tensor("n", "I64", {}, "12345678")
      .bytes();
}

TEST(Safetensors, TensorsAndMetadataReadAsWritten) {
  const TemporaryFolder folder;
  const SafetensorsFile file(folder.write("m.safetensors", valid()));
  ASSERT_EQ(file.tensors().size(), 3u);
  const SafetensorsTensor* b = file.find_tensor("b");
  ASSERT_NE(b, nullptr);
  EXPECT_THAT(b->shape, ElementsAre(2, 3));
  EXPECT_EQ(b->encoding, Encoding::f32);
  const std::string expected = bytes_of<float>({1, 2, 3, 4, 5, 6});
  ASSERT_EQ(b->data.size(), expected.size());
  EXPECT_EQ(std::memcmp(b->data.data(), expected.data(), expected.size()), 0);
  EXPECT_EQ(file.find_tensor("a")->encoding, Encoding::bf16);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.find_tensor("nothing"), nullptr);
}

TEST(Safetensors, TypesThatAreNoFloatsOfTheModelAreListedWithoutEncoding) {
  const TemporaryFolder folder;
  const SafetensorsFile file(folder.write("m.safetensors", valid()));
  const SafetensorsTensor* n = file.find_tensor("n");
  ASSERT_NE(n, nullptr);
  EXPECT_EQ(n->dtype, "I64");
  EXPECT_FALSE(n->encoding.has_value());
}

TEST(Safetensors, EveryPrefixOfAFileIsRefused) {
  const std::string whole = valid();
  const TemporaryFolder folder;
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto path = folder.write("m.safetensors", std::string_view(whole).substr(0, size));
    EXPECT_THROW(SafetensorsFile{path}, InvalidInput) << "of " << size << " bytes";
  }
}

TEST(Safetensors, BytesAfterTheLastTensorAreRefused) {
  EXPECT_THAT(refusal_of_bytes(valid() + "x"), HasSubstr("its tensors take 36 bytes and it holds 37"));
}

TEST(Safetensors, HeadersOfImpossibleSizeAreRefused) {
  for (const uint64_t size : {uint64_t{25'000'001}, uint64_t{1} << 63, ~uint64_t{0}}) {
    std::string bytes;
    append(bytes, size);
    EXPECT_THAT(refusal_of_bytes(bytes + "{}"), HasSubstr("claims a header")) << size;
  }
}

TEST(Safetensors, HeadersThatAreNoObjectAreRefused) {
  for (const char* header : {"", "[]", "1", "{\"a\":1}", "{\"a\":[]}", "not json", "{\"__metadata__\":[]}"}) {
    EXPECT_NE(refusal_of_header(header), "") << header;
  }
}

TEST(Safetensors, FieldsThatAreMissingOrOfAnotherKindAreRefused) {
  const char* headers[] = {
      R"({"a":{"shape":[1],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"F32","data_offsets":[0,4]}})",
      R"({"a":{"dtype":"F32","shape":[1]}})",
      R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})",
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})",
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})",
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}})",
  };
  for (const char* header : headers) EXPECT_NE(refusal_of_header(header, "1234"), "") << header;
}

TEST(Safetensors, ATypeThatLiesAboutItsSizeIsRefused) {
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F16","shape":[1],"data_offsets":[0,4]}})", "1234"),
              HasSubstr("do not hold the 2 bytes"));
}

TEST(Safetensors, OverflowingShapesAreRefused) {
  EXPECT_THAT(
      refusal_of_header(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})"),
      HasSubstr("tensor \"a\""));
}

TEST(Safetensors, OverlapsAndHolesAreRefused) {
  const char* overlap = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                        R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})";
  EXPECT_THAT(refusal_of_header(overlap, "123456"), HasSubstr("\"b\" begins at byte 2"));
  const char* hole = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                     R"("b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}})";
  EXPECT_THAT(refusal_of_header(hole, "123456"), HasSubstr("\"b\" begins at byte 4"));
}

TEST(Safetensors, ANameThatAppearsTwiceIsRefused) {
  const char* header = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                       R"("a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})";
  EXPECT_THAT(refusal_of_header(header, "1234"), HasSubstr("\"a\" appears twice"));
}

TEST(Safetensors, TensorsWithoutElementsTakeNoBytes) {
  EXPECT_EQ(refusal_of_header(R"({"a":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]}})"), "");
}

}  // namespace
}  // namespace shadowkv::testing
