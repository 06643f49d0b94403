#include "tokenizer/chat_template.h"

#include <fmt/core.h>

namespace shadowkv {

std::string format_chatml(std::span<const ChatMessage> messages, std::string_view default_system) {
  std::string prompt;
  const auto add = [&prompt](std::string_view role, std::string_view content) {
    prompt += fmt::format("<|im_start|>{}\n{}<|im_end|>\n", role, content);
  };
  if (!messages.empty() && messages[0].role != "system" && !default_system.empty())
    add("system", default_system);
  for (const ChatMessage& message : messages) add(message.role, message.content);
  return prompt + "<|im_start|>assistant\n";
}

}  // namespace shadowkv
