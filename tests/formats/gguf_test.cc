#include "formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "formats/gguf_writer.h"
#include "formats/refusal.h"
#include "formats/temporary_file.h"

namespace shadowkv::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::filesystem::path kGolden =
    std::filesystem::path(SHADOWKV_TEST_DATA) / "formats" / "dequantize.gguf";

TEST(Gguf, EveryKindOfScalarReadsAsItsValue) {
  const GgufFile file(kGolden);
  EXPECT_EQ(file.get<int64_t>("test.u8"), 200);
  EXPECT_EQ(file.get<int64_t>("test.i8"), -100);
  EXPECT_EQ(file.get<int64_t>("test.u16"), 60000);
  EXPECT_EQ(file.get<int64_t>("test.i16"), -30000);
  EXPECT_EQ(file.get<int64_t>("test.u32"), 4'000'000'000);
  EXPECT_EQ(file.get<int64_t>("test.i32"), -2'000'000'000);
  EXPECT_EQ(file.get<int64_t>("test.u64"), int64_t{1} << 62);
  EXPECT_EQ(file.get<int64_t>("test.i64"), -(int64_t{1} << 62));
  EXPECT_EQ(file.get<double>("test.f32"), 0.5);
  EXPECT_EQ(file.get<double>("test.f64"), 0.1);
  EXPECT_TRUE(file.get<bool>("test.bool"));
  EXPECT_EQ(file.get<std::string>("test.string"), "söme text");
}

TEST(Gguf, EveryKindOfArrayReadsAsItsValues) {
  const GgufFile file(kGolden);
  EXPECT_THAT(file.get<std::vector<int64_t>>("test.integers"), ElementsAre(1, -2, 3));
  EXPECT_THAT(file.get<std::vector<double>>("test.numbers"), ElementsAre(0.5, -0.25));
  EXPECT_THAT(file.get<std::vector<int64_t>>("test.flags"), ElementsAre(1, 0, 1));
  EXPECT_THAT(file.get<std::vector<std::string>>("test.strings"), ElementsAre("a", "", "Ġhello"));
}

TEST(Gguf, IntegersAlsoReadAsDoubles) {
  const GgufFile file(kGolden);
  EXPECT_EQ(file.get<double>("test.u8"), 200.0);
  EXPECT_THAT(file.get<std::vector<double>>("test.integers"), ElementsAre(1.0, -2.0, 3.0));
}

TEST(Gguf, AValueOfAnotherTypeIsRefusedWithBothTypes) {
  const GgufFile file(kGolden);
  const std::string message = refusal_of([&] { (void)file.get<std::string>("test.u8"); });
  EXPECT_THAT(message, HasSubstr("\"test.u8\" is an integer, expected a string"));
  EXPECT_THAT(refusal_of([&] { (void)file.get<int64_t>("test.f32"); }), HasSubstr("expected an integer"));
}

TEST(Gguf, AnAbsentKeyIsNamedOrFallsBack) {
  const GgufFile file(kGolden);
  EXPECT_EQ(file.find("nothing"), nullptr);
  EXPECT_EQ(file.get_or<int64_t>("nothing", 7), 7);
  EXPECT_THAT(refusal_of([&] { (void)file.get<int64_t>("nothing"); }),
              HasSubstr("no metadata key \"nothing\""));
}

TEST(Gguf, ShapesAreOutermostFirstAndDataAreTheTensorsBytes) {
  const TemporaryFolder folder;
  GgufWriter writer;
  writer.floats("a", {2, 3}, {1, 2, 3, 4, 5, 6}).floats("b", {1}, {7});
  const GgufFile file(folder.write("m.gguf", writer.bytes()));
  ASSERT_EQ(file.tensors().size(), 2u);
  const GgufTensor* a = file.find_tensor("a");
  ASSERT_NE(a, nullptr);
  EXPECT_THAT(a->shape, ElementsAre(2, 3));
  const std::string expected = bytes_of<float>({1, 2, 3, 4, 5, 6});
  ASSERT_EQ(a->data.size(), expected.size());
  EXPECT_EQ(std::memcmp(a->data.data(), expected.data(), expected.size()), 0);
  EXPECT_EQ(file.find_tensor("c"), nullptr);
}

TEST(Gguf, TheDataBeginAtTheAlignmentThatTheFileStates) {
  const TemporaryFolder folder;
  GgufWriter writer;
  writer.alignment = 256;
  writer.integer("general.alignment", 256).floats("a", {1}, {3}).floats("b", {1}, {4});
  const GgufFile file(folder.write("m.gguf", writer.bytes()));
  float b = 0;
  std::memcpy(&b, file.find_tensor("b")->data.data(), sizeof b);
  EXPECT_EQ(b, 4.0f);
}

TEST(Gguf, AMovedFileKeepsItsContents) {
  GgufFile first(kGolden);
  const GgufFile second(std::move(first));
  EXPECT_EQ(second.get<int64_t>("test.u8"), 200);
  EXPECT_NE(second.find_tensor("Q8_0"), nullptr);
}

TEST(Gguf, AFileWithoutTensorsHasNone) {
  const TemporaryFolder folder;
  const GgufFile file(folder.write("m.gguf", GgufWriter().integer("a", 1).bytes()));
  EXPECT_TRUE(file.tensors().empty());
}

TEST(Gguf, ARealModelsVocabularyIsWhole) {
  const char* path = std::getenv("SHADOWKV_TEST_MODEL");
  if (!path) GTEST_SKIP() << "SHADOWKV_TEST_MODEL does not name the SmolLM2-135M-Instruct GGUF file";
  const GgufFile file{std::filesystem::path(path)};
  EXPECT_EQ(file.get<std::vector<std::string>>("tokenizer.ggml.tokens").size(), 49152u);
  EXPECT_EQ(file.tensors().size(), 272u);
}

}  // namespace
}  // namespace shadowkv::testing
