// Messages -> the prompt text a chat model was trained on.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace shadowkv {

struct ChatMessage {
  std::string role;      // "system", "user" or "assistant"
  std::string content;
};

// ChatML: <|im_start|>role\ncontent<|im_end|>\n for each message, then the opening of the answer. Where the first
// message is not a system message, default_system is put in front (empty: nothing is).
[[nodiscard]] std::string format_chatml(std::span<const ChatMessage> messages, std::string_view default_system);

}  // namespace shadowkv
