#include "tokenizer/golden.h"

#include <gtest/gtest.h>

#include <fstream>

namespace shadowkv::testing {

using Ids = std::vector<int32_t>;

namespace {

// What SmolLM2's own template says where a conversation has no system message.
constexpr std::string_view kSmolLm2System =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

}  // namespace

std::filesystem::path golden_path(std::string_view name) {
  return std::filesystem::path(SHADOWKV_TEST_DATA) / "tokenizer" / name;
}

std::vector<nlohmann::json> read_lines(std::string_view name) {
  std::ifstream file(golden_path(name));
  EXPECT_TRUE(file.good()) << golden_path(name);
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  EXPECT_FALSE(lines.empty()) << golden_path(name);
  return lines;
}

void expect_golden_ids(const Tokenizer& tokenizer, const std::string& name) {
  for (const nlohmann::json& line : read_lines(name + ".encode.jsonl")) {
    const auto text = line[0].get<std::string>();
    EXPECT_EQ(tokenizer.encode(text), line[1].get<Ids>()) << name << ": " << line[0];
    const auto plain = (line[2].is_null() ? line[1] : line[2]).get<Ids>();
    EXPECT_EQ(tokenizer.encode(text, {.parse_special = false, .add_special = false}), plain)
        << name << ": " << line[0];
  }
}

void expect_golden_texts(const std::shared_ptr<const Tokenizer>& tokenizer, const std::string& name) {
  for (const nlohmann::json& line : read_lines(name + ".decode.jsonl")) {
    const auto ids = line[0].get<Ids>();
    for (const bool skip_special : {false, true}) {
      const auto expected = line[skip_special ? 2 : 1].get<std::string>();
      EXPECT_EQ(tokenizer->decode(ids, skip_special), expected) << name << ": " << line[0];
      StreamingDetokenizer stream(tokenizer, skip_special);
      std::string streamed;
      for (const int32_t id : ids) {
        const std::string piece = stream.add(id);
        EXPECT_NO_THROW((void)nlohmann::json(piece).dump()) << "half a character in a piece of " << line[0];
        streamed += piece;
      }
      EXPECT_EQ(streamed + stream.finish(), expected) << name << ": " << line[0];
    }
  }
}

void expect_golden_chats(const Tokenizer& tokenizer, const ChatTemplate* chat_template) {
  for (const nlohmann::json& line : read_lines("embedded.chat.jsonl")) {
    std::vector<ChatMessage> messages;
    bool spells_tokens = false;
    for (const auto& message : line[0]) {
      messages.push_back({message.at("role"), message.at("content")});
      spells_tokens = spells_tokens || messages.back().content.find("<|im_") != std::string::npos;
    }
    const auto expected = line[1].get<std::string>();
    const Ids ids = encode_chatml(tokenizer, messages, kSmolLm2System);
    EXPECT_EQ(tokenizer.decode(ids, false), expected) << line[0];
    if (chat_template != nullptr) {
      EXPECT_EQ(encode_chat(tokenizer, chat_template, {.messages = line[0].dump()}), ids) << line[0];
    }
    if (!spells_tokens) {  // the template would let a message end itself; we do not
      EXPECT_EQ(ids, tokenizer.encode(expected, {.parse_special = true, .add_special = false})) << line[0];
    }
  }
}

}  // namespace shadowkv::testing
