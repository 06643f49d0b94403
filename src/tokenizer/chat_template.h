// Messages -> the prompt a chat model was trained on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace shadowkv {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// What SmolLM2's own template says where a conversation has no system message.
inline constexpr std::string_view kSmolLm2System =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

// ChatML: <|im_start|>role\ncontent<|im_end|>\n for each message, then the opening of the answer. Where the
// first message is not a system message, default_system is put in front (empty: nothing is); without messages
// there is only the opening. Special tokens spelled in a role or content stay plain text, so that no message
// can end itself and begin another. Throws InvalidInput when the tokenizer lacks ChatML's two tokens.
[[nodiscard]] std::vector<int32_t> encode_chatml(const Tokenizer& tokenizer,
                                                 std::span<const ChatMessage> messages,
                                                 std::string_view default_system);

}  // namespace shadowkv
