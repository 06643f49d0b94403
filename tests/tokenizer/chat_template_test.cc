#include "tokenizer/chat_template.h"

#include <gtest/gtest.h>

#include "tokenizer/golden.h"

namespace shadowkv::testing {
namespace {

TEST(ChatMl, WritesWhatTheEmbeddedModelsOwnTemplateWrites) {
  for (const nlohmann::json& line : read_lines("embedded.chat.jsonl")) {
    std::vector<ChatMessage> messages;
    for (const auto& message : line[0]) messages.push_back({message.at("role"), message.at("content")});
    EXPECT_EQ(format_chatml(messages, kSmolLm2System), line[1].get<std::string>()) << line[0];
  }
}

TEST(ChatMl, WithoutDefaultSystemNothingIsPutInFront) {
  const std::vector<ChatMessage> messages = {{"user", "Hi"}};
  EXPECT_EQ(format_chatml(messages, ""), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

}  // namespace
}  // namespace shadowkv::testing
