#include "tokenizer/chat_template.h"

#include "base/check.h"

namespace shadowkv {

std::vector<int32_t> encode_chatml(const Tokenizer& tokenizer, std::span<const ChatMessage> messages,
                                   std::string_view default_system) {
  const int32_t start = tokenizer.id_of("<|im_start|>"), end = tokenizer.id_of("<|im_end|>");
  require(start >= 0 && end >= 0,
          "the tokenizer has no ChatML tokens (<|im_start|>, <|im_end|>); write the model's own chat format "
          "into the prompt yourself");
  std::vector<int32_t> ids;
  const auto add_text = [&](const std::string& text) {
    const auto more = tokenizer.encode(text, {.parse_special = false, .add_special = false});
    ids.insert(ids.end(), more.begin(), more.end());
  };
  const auto add = [&](std::string_view role, std::string_view content) {
    ids.push_back(start);
    add_text(std::string(role) + "\n" + std::string(content));
    ids.push_back(end);
    add_text("\n");
  };
  if (!messages.empty() && messages[0].role != "system" && !default_system.empty())
    add("system", default_system);
  for (const ChatMessage& message : messages) add(message.role, message.content);
  ids.push_back(start);
  add_text("assistant\n");
  return ids;
}

}  // namespace shadowkv
