#include "formats/dequantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "formats/gguf.h"
#include "formats/refusal.h"

namespace shadowkv::testing {
namespace {

std::vector<float> expand(Encoding encoding, std::span<const std::byte> blocks) {
  const BlockLayout layout = layout_of(encoding);
  std::vector<float> out(blocks.size() / static_cast<std::size_t>(layout.bytes) *
                         static_cast<std::size_t>(layout.elements));
  dequantize(encoding, blocks, out);
  return out;
}

TEST(Dequantize, EveryEncodingExpandsToTheReferencesBits) {
  const GgufFile file(std::filesystem::path(SHADOWKV_TEST_DATA) / "formats" / "dequantize.gguf");
  for (const char* name :
       {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"}) {
    const GgufTensor* tensor = file.find_tensor(name);
    const GgufTensor* expected = file.find_tensor(std::string(name) + ".expected");
    ASSERT_TRUE(tensor && expected) << name;
    ASSERT_EQ(name_of(tensor->type), name);
    const std::vector<float> found = expand(tensor->type, tensor->data);
    ASSERT_EQ(found.size() * sizeof(float), expected->data.size()) << name;
    EXPECT_EQ(std::memcmp(found.data(), expected->data.data(), expected->data.size()), 0) << name;
  }
}

TEST(Dequantize, EveryHalfBecomesTheFloatOfItsValue) {
  std::vector<uint16_t> halves(65536);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  const std::vector<float> found = expand(Encoding::f16, std::as_bytes(std::span(halves)));
  for (std::size_t i = 0; i < halves.size(); ++i) {
    const auto expected = static_cast<float>(std::bit_cast<_Float16>(halves[i]));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found[i])) << i;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(found[i]), std::bit_cast<uint32_t>(expected)) << i;
    }
  }
}

TEST(Dequantize, UnalignedBlocksExpandTheSame) {
  const GgufFile file(std::filesystem::path(SHADOWKV_TEST_DATA) / "formats" / "dequantize.gguf");
  const GgufTensor* tensor = file.find_tensor("F32");
  ASSERT_NE(tensor, nullptr);
  std::vector<std::byte> shifted(tensor->data.size() + 1);
  std::memcpy(shifted.data() + 1, tensor->data.data(), tensor->data.size());
  EXPECT_EQ(expand(Encoding::f32, tensor->data), expand(Encoding::f32, std::span(shifted).subspan(1)));
}

TEST(Dequantize, SizesThatDoNotAgreeAreRefused) {
  const std::vector<std::byte> bytes(34);
  std::vector<float> out(32);
  EXPECT_EQ(refusal_of([&] { dequantize(Encoding::q8_0, bytes, out); }), "");
  out.resize(31);
  EXPECT_NE(refusal_of([&] { dequantize(Encoding::q8_0, bytes, out); }), "");
  out.resize(32);
  EXPECT_NE(refusal_of([&] { dequantize(Encoding::q4_0, bytes, out); }), "");
}

}  // namespace
}  // namespace shadowkv::testing
