// Messages -> the prompt text a chat model was trained on.
#pragma once

#include <span>
#include <string>
#include <string_view>

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
// there is only the opening. Contents are not escaped: whoever writes <|im_end|> in one ends the message.
[[nodiscard]] std::string format_chatml(std::span<const ChatMessage> messages,
                                        std::string_view default_system);

}  // namespace shadowkv
