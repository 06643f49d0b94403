// Messages -> the prompt a chat model was trained on: by the model's own template, or else as ChatML.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shadowkv/chat_request.h"
#include "tokenizer/tokenizer.h"

namespace shadowkv {

class GgufFile;

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// ChatML: <|im_start|>role\ncontent<|im_end|>\n for each message, then the opening of the answer. Where the
// first message is not a system message, default_system is put in front (empty: nothing is); without messages
// there is only the opening. Special tokens spelled in a role or content stay plain text, so that no message
// can end itself and begin another. Throws InvalidInput when the tokenizer lacks ChatML's two tokens.
[[nodiscard]] std::vector<int32_t> encode_chatml(const Tokenizer& tokenizer,
                                                 std::span<const ChatMessage> messages,
                                                 std::string_view default_system);

// A model's template, as its files hold it.
struct ChatTemplate {
  std::string name;                                              // for messages
  std::string source;                                            // Jinja; empty: there is only the next
  std::string tool_source = {};                                  // used with tools; empty: `source` is
  std::vector<std::pair<std::string, std::string>> tokens = {};  // "bos_token" and its text, and so on
  std::vector<std::string> additional_tokens = {};               // those without a name of their own
};

// nullopt where the file has none. Throw InvalidInput for what is there and is no template.
[[nodiscard]] std::optional<ChatTemplate> find_chat_template(const GgufFile& file);
// Of the tokenizer's file: a GGUF file's own, or else what lies in its folder: chat_template.jinja, or
// chat_template in tokenizer_config.json. `instead`, where not empty, is a file of Jinja to take in its
// place.
[[nodiscard]] std::optional<ChatTemplate> find_chat_template(const std::filesystem::path& tokenizer,
                                                             const std::filesystem::path& instead);

// The prompt's ids. What the template writes itself becomes special tokens where it spells them; what comes
// from the request stays plain text, whatever it spells and whatever the template does with it, so that no
// message can end itself and begin another. Of the request only the names of roles that everybody knows count
// as the template's: some write a token as "<|" + role + "|>". Without a template the messages are ChatML.
// Throws InvalidInput for a request that is not JSON of that form, for a template that is no Jinja or passes
// a limit, and where it refuses the conversation.
[[nodiscard]] std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const ChatTemplate* chat_template,
                                               const ChatRequest& request);

// The messages as a request has them. Throws InvalidInput for what is not UTF-8.
[[nodiscard]] std::string messages_json(std::span<const ChatMessage> messages);

}  // namespace shadowkv
