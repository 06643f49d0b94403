#include <gtest/gtest.h>

#include <cstdlib>

#include "tokenizer/chat_template.h"
#include "tokenizer/golden.h"

namespace shadowkv::testing {
namespace {

class EmbeddedTokenizer : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("SHADOWKV_TEST_MODEL");
    if (path == nullptr) GTEST_SKIP() << "SHADOWKV_TEST_MODEL does not name the embedded model's GGUF file.";
    tokenizer_ = Tokenizer::open(path);
    chat_template_ = find_chat_template(path, {});
  }
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<ChatTemplate> chat_template_;
};

TEST_F(EmbeddedTokenizer, GivesTheIdsOfTheReference) {
  expect_golden_ids(*tokenizer_, "embedded");
}

TEST_F(EmbeddedTokenizer, GivesTheTextsOfTheReferenceAtOnceAndAsAStream) {
  expect_golden_texts(tokenizer_, "embedded");
}

TEST_F(EmbeddedTokenizer, KnowsItsSpecialTokens) {
  EXPECT_EQ(tokenizer_->vocab_size(), 49152);
  EXPECT_EQ(tokenizer_->id_of("<|im_start|>"), 1);
  EXPECT_EQ(tokenizer_->id_of("<|im_end|>"), 2);
  EXPECT_TRUE(tokenizer_->is_special(16));
  EXPECT_FALSE(tokenizer_->is_special(17));
  EXPECT_EQ(encode_chatml(*tokenizer_, {}, ""), tokenizer_->encode("<|im_start|>assistant\n"));
}

TEST_F(EmbeddedTokenizer, GivesTheChatsOfItsOwnTemplate) {
  ASSERT_TRUE(chat_template_);
  expect_golden_chats(*tokenizer_, &*chat_template_);
}

}  // namespace
}  // namespace shadowkv::testing
