// Where templates are found.
#include <gtest/gtest.h>

#include "formats/gguf_writer.h"
#include "formats/temporary_file.h"
#include "shadowkv/error.h"
#include "tokenizer/chat_template.h"

namespace shadowkv::testing {
namespace {

using Tokens = std::vector<std::pair<std::string, std::string>>;

class ChatTemplateFiles : public ::testing::Test {
 protected:
  [[nodiscard]] std::optional<ChatTemplate> find(const std::filesystem::path& instead = {}) const {
    return find_chat_template(folder_.path() / "tokenizer.json", instead);
  }
  void config(std::string_view json) const { folder_.write("tokenizer_config.json", json); }
  TemporaryFolder folder_;
};

TEST_F(ChatTemplateFiles, AFolderWithoutOneHasNone) {
  EXPECT_FALSE(find());
  config(R"({"bos_token": "<s>"})");
  EXPECT_FALSE(find());
}

TEST_F(ChatTemplateFiles, TheConfigHoldsOneTemplateAndTheTokens) {
  config(
      R"({"chat_template": "T", "add_bos_token": true, "bos_token": "<s>", "eos_token": {"content": "</s>"},
             "pad_token": null, "extra_special_tokens": {"image_token": "<i>"},
             "additional_special_tokens": ["<a>", {"content": "<b>"}]})");
  const auto found = find();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->source, "T");
  EXPECT_EQ(found->tool_source, "");
  EXPECT_EQ(found->tokens, (Tokens{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"image_token", "<i>"}}));
  EXPECT_EQ(found->additional_tokens, (std::vector<std::string>{"<a>", "<b>"}));
  EXPECT_NE(found->name.find("tokenizer_config.json"), std::string::npos);
}

TEST_F(ChatTemplateFiles, TheConfigHoldsNamedTemplates) {
  config(R"({"chat_template": [{"name": "rag", "template": "R"}, {"name": "tool_use", "template": "T"},
                               {"name": "default", "template": "D"}]})");
  const auto found = find();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->source, "D");
  EXPECT_EQ(found->tool_source, "T");
}

TEST_F(ChatTemplateFiles, AFileOfJinjaComesBeforeTheConfig) {
  config(R"({"chat_template": "T", "bos_token": "<s>"})");
  folder_.write("chat_template.jinja", "J");
  EXPECT_EQ(find()->source, "J");
  EXPECT_EQ(find()->tokens, (Tokens{{"bos_token", "<s>"}}));
  std::filesystem::create_directory(folder_.path() / "additional_chat_templates");
  folder_.write("additional_chat_templates/tool_use.jinja", "U");
  EXPECT_EQ(find()->tool_source, "U");
  const auto own = folder_.write("own.jinja", "O");
  EXPECT_EQ(find(own)->source, "O");
  EXPECT_EQ(find(own)->tool_source, "");
}

TEST_F(ChatTemplateFiles, AGgufFileHoldsItsOwn) {
  GgufWriter writer;
  writer.strings("tokenizer.ggml.tokens", {"<s>", "</s>", "<p>"});
  writer.integer("tokenizer.ggml.bos_token_id", 0).integer("tokenizer.ggml.eos_token_id", 1);
  writer.integer("tokenizer.ggml.padding_token_id", 2).integer("tokenizer.ggml.unknown_token_id", 9);
  const auto without = folder_.write("without.gguf", writer.bytes());
  EXPECT_FALSE(find_chat_template(without, {}));
  writer.text("tokenizer.chat_template", "T").text("tokenizer.chat_template.tool_use", "U");
  const auto with = folder_.write("with.gguf", writer.bytes());
  const auto found = find_chat_template(with, {});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->source, "T");
  EXPECT_EQ(found->tool_source, "U");
  EXPECT_EQ(found->tokens, (Tokens{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"pad_token", "<p>"}}));
}

TEST_F(ChatTemplateFiles, WhatIsNoTemplateIsRefused) {
  for (const char* json :
       {R"({"chat_template": 1})", R"({"chat_template": [{"name": "rag", "template": "R"}]})",
        R"({"chat_template": [{"name": 1}]})", R"({"chat_template": [1]})", "{", "[]"}) {
    config(json);
    EXPECT_THROW((void)find(), InvalidInput) << json;
  }
  config("{}");
  EXPECT_THROW((void)find(folder_.path() / "missing.jinja"), InvalidInput);
  EXPECT_THROW((void)find(folder_.write("empty.jinja", "")), InvalidInput);
  EXPECT_THROW((void)find(folder_.write("long.jinja", std::string(300'000, 'a'))), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::testing
