#include "hub/selection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "formats/refusal.h"

namespace shadowkv::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Names = std::vector<std::string>;

Selection select(const Names& names, const std::string& file = "") {
  return select_files(names, {"org/name", "main", file}, "org/name");
}

std::string refusal(const Names& names, const std::string& file = "") {
  return refusal_of([&] { (void)select(names, file); });
}

}  // namespace

TEST(Selection, OfAFolderTakesWhatTheModelNeedsOnce) {
  const Selection whole =
      select({"README.md", "config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json",
              "original/consolidated.safetensors", "onnx/config.json", "chat_template.jinja", "qwen.tiktoken",
              "old/x.tiktoken", "consolidated.safetensors", "model.gguf"});
  EXPECT_THAT(whole.files, ElementsAre("chat_template.jinja", "config.json", "model.safetensors",
                                       "qwen.tiktoken", "tokenizer.json"));
  EXPECT_EQ(whole.index, "");
  EXPECT_EQ(whole.gguf, "");
}

TEST(Selection, OfShardsTakesTheIndex) {
  const Selection shards = select({"config.json", "model.safetensors.index.json",
                                   "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"});
  EXPECT_THAT(shards.files, ElementsAre("config.json", "model.safetensors.index.json"));
  EXPECT_EQ(shards.index, "model.safetensors.index.json");
}

TEST(Selection, OfOneGgufTakesIt) {
  EXPECT_EQ(select({"README.md", "m.gguf", "mmproj-m.gguf"}).gguf, "m.gguf");
  EXPECT_EQ(select({"config.json", "deep/M.GGUF"}).gguf, "deep/M.GGUF");
}

TEST(Selection, OfSeveralTakesTheUsualTypes) {
  EXPECT_EQ(select({"m-f16.gguf", "m-q4_k_m.gguf", "m-Q8_0.gguf"}).gguf, "m-q4_k_m.gguf");
  EXPECT_EQ(select({"m-f16.gguf", "m-Q8_0.gguf", "m-Q4_K_S.gguf"}).gguf, "m-Q8_0.gguf");
  EXPECT_THAT(refusal({"m-f16.gguf", "m-bf16.gguf"}),
              AllOf(HasSubstr("m-f16.gguf"), HasSubstr("org/name:FILE")));
  EXPECT_THAT(refusal({"a-Q8_0.gguf", "b-Q8_0.gguf"}), HasSubstr("2 GGUF files"));
}

TEST(Selection, ByAPartTakesWholeWords) {
  const Names names = {"m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-f16.gguf", "m-bf16.gguf", "UD/m.IQ4_NL.gguf"};
  EXPECT_EQ(select(names, "q4_k_m").gguf, "m-Q4_K_M.gguf");
  EXPECT_EQ(select(names, "F16").gguf, "m-f16.gguf");
  EXPECT_EQ(select(names, "UD").gguf, "UD/m.IQ4_NL.gguf");
  EXPECT_EQ(select(names, "m-bf16.gguf").gguf, "m-bf16.gguf");
  EXPECT_THAT(refusal(names, "Q4_K"), HasSubstr("no GGUF file \"Q4_K\""));
  EXPECT_THAT(refusal(names, "m"), HasSubstr("5 GGUF files"));
  EXPECT_THAT(refusal({"config.json", "model.safetensors"}, "Q4_0"), HasSubstr("no GGUF file"));
}

TEST(Selection, RefusesWhatThisProgramDoesNotRead) {
  EXPECT_THAT(refusal({}), HasSubstr("no model"));
  EXPECT_THAT(refusal({"config.json", "pytorch_model.bin"}), HasSubstr("no model"));
  EXPECT_THAT(refusal({"model.safetensors"}), HasSubstr("config.json"));
  EXPECT_THAT(refusal({"m-00001-of-00003.gguf"}), HasSubstr("several parts"));
  EXPECT_THAT(
      refusal({"m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"}, "m-Q8_0-00001-of-00002.gguf"),
      HasSubstr("several parts"));
}

}  // namespace shadowkv::testing
