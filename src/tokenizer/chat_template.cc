#include "tokenizer/chat_template.h"

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/utf8.h"
#include "template/template.h"

namespace shadowkv {
namespace {

using jinja::Value;

constexpr std::array<std::string_view, 9> kKnownRoles = {
    "system", "developer", "user", "assistant", "tool", "function", "ipython", "observation", "model"};

// More for longer conversations, each text of which a template may copy a few times.
jinja::Limits limits_for(const ChatRequest& request) {
  const auto bytes =
      static_cast<int64_t>(request.messages.size() + request.tools.size() + request.variables.size());
  jinja::Limits limits;
  limits.bytes += 32 * bytes;
  limits.steps += 4 * bytes;
  return limits;
}

Value list_of_json(const std::string& text, std::string_view name, jinja::Budget& budget) {
  Value value = jinja::value_of_json(text, name, budget);
  require(value.is_sequence(), "{} are not a JSON array", name);
  return value;
}

bool is_known_role(const Value& value) {
  return value.is_text() && std::ranges::find(kKnownRoles, value.text().bytes) != kKnownRoles.end();
}

const Value* field_of(const Value& message, std::string_view name, jinja::Budget& budget) {
  const Value* found = jinja::find(message.dict(), name, budget);
  return found == nullptr || found->is_none() ? nullptr : found;
}

// A message as the transformers library hands it on: without fields that are null, and with what the model
// thought by all names that templates know it by. A known role is the template's own word.
Value normalized(const Value& message, jinja::Budget& budget) {
  require(message.is_dict(), "a message is not a JSON object");
  const Value* thoughts = nullptr;
  for (const std::string_view name : {"reasoning_content", "thinking", "reasoning"})
    thoughts = thoughts != nullptr ? thoughts : field_of(message, name, budget);
  auto changed = std::make_shared<jinja::Dict>();
  if (thoughts != nullptr) jinja::put(*changed, Value::text("thinking"), *thoughts, budget);
  for (const auto& [name, value] : message.dict().entries) {
    if (value.is_none()) continue;
    const bool is_own = name.text().bytes == "role" && is_known_role(value);
    jinja::put(*changed, name, is_own ? Value::text(value.text().bytes) : value, budget);
  }
  if (thoughts != nullptr) jinja::put(*changed, Value::text("reasoning_content"), *thoughts, budget);
  return Value::DictPointer(std::move(changed));
}

Value read_messages(const ChatRequest& request, jinja::Budget& budget) {
  const Value list = list_of_json(request.messages, "the messages", budget);
  std::vector<Value> messages;
  for (const Value& message : list.sequence().items) messages.push_back(normalized(message, budget));
  return jinja::make_sequence(jinja::SequenceKind::list, std::move(messages), budget);
}

Value own_text(const std::string& text, std::string_view name) {
  require(!find_invalid_utf8(text), "the text of the {} that the template is given is not valid UTF-8", name);
  return Value::text(text);
}

void add_tokens(const ChatTemplate& chat_template, jinja::Variables& variables, jinja::Budget& budget) {
  for (const auto& [name, text] : chat_template.tokens) variables.emplace_back(name, own_text(text, name));
  if (chat_template.additional_tokens.empty()) return;
  constexpr const char* kName = "additional_special_tokens";
  std::vector<Value> more;
  more.reserve(chat_template.additional_tokens.size());
  for (const std::string& text : chat_template.additional_tokens) more.push_back(own_text(text, kName));
  variables.emplace_back(kName, jinja::make_sequence(jinja::SequenceKind::list, std::move(more), budget));
}

// What the transformers library gives, by the same names.
jinja::Variables variables_of(const ChatTemplate& chat_template, const ChatRequest& request,
                              jinja::Budget& budget) {
  const jinja::None none;
  jinja::Variables variables;
  add_tokens(chat_template, variables, budget);
  variables.emplace_back("messages", read_messages(request, budget));
  variables.emplace_back(
      "tools", request.tools.empty() ? Value(none) : list_of_json(request.tools, "the tools", budget));
  const std::size_t own = variables.size();
  variables.emplace_back("documents", none);
  variables.emplace_back("add_generation_prompt", request.add_generation_prompt);
  if (request.variables.empty()) return variables;
  const Value more = jinja::value_of_json(request.variables, "the template's variables", budget);
  require(more.is_dict(), "the template's variables are not a JSON object");
  for (const auto& [key, value] : more.dict().entries) {
    const std::string& name = key.text().bytes;
    for (std::size_t i = 0; i < own; ++i) {
      require(name != variables[i].first,
              "the template's variable \"{}\" comes from the conversation and the tokenizer, and cannot be "
              "given another value",
              name);
    }
    variables.emplace_back(name, value);
  }
  return variables;
}

std::string text_field(const Value& message, std::string_view name, jinja::Budget& budget) {
  const Value* found = field_of(message, name, budget);
  require(found != nullptr && found->is_text(),
          "a message has no text \"{}\", which the ChatML format of a model without chat template needs",
          name);
  return found->text().bytes;
}

std::vector<int32_t> encode_as_chatml(const Tokenizer& tokenizer, const ChatRequest& request) {
  require(request.tools.empty() && request.variables.empty() && request.add_generation_prompt,
          "tools, variables and an open end need a chat template, and the model came without one");
  jinja::Budget budget(limits_for(request));
  const Value list = read_messages(request, budget);
  std::vector<ChatMessage> messages;
  for (const Value& message : list.sequence().items)
    messages.push_back({text_field(message, "role", budget), text_field(message, "content", budget)});
  return encode_chatml(tokenizer, messages, "");
}

const std::string& source_for(const ChatTemplate& chat_template, const ChatRequest& request) {
  if (!request.tools.empty() && !chat_template.tool_source.empty()) return chat_template.tool_source;
  require(!chat_template.source.empty(), "{} is for conversations with tools only, and none are given",
          chat_template.name);
  return chat_template.source;
}

}  // namespace

std::vector<int32_t> encode_chatml(const Tokenizer& tokenizer, std::span<const ChatMessage> messages,
                                   std::string_view default_system) {
  const int32_t start = tokenizer.id_of("<|im_start|>"), end = tokenizer.id_of("<|im_end|>");
  require(start >= 0 && end >= 0,
          "the model came without a chat template, and its tokenizer has no ChatML tokens (<|im_start|>, "
          "<|im_end|>); name a template with --chat-template, or write the chat format into the prompt "
          "yourself");
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

std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const ChatTemplate* chat_template,
                                 const ChatRequest& request) {
  if (chat_template == nullptr) return encode_as_chatml(tokenizer, request);
  jinja::Budget budget(limits_for(request));
  const jinja::Variables variables = variables_of(*chat_template, request, budget);
  const jinja::Template parsed(source_for(*chat_template, request), chat_template->name);
  const jinja::Text text = parsed.render(variables, budget);
  return tokenizer.encode(text.bytes, {.add_special = false, .plain = text.marks});
}

std::string messages_json(std::span<const ChatMessage> messages) {
  const auto quoted = [](const std::string& text) {
    const std::optional<int64_t> invalid = find_invalid_utf8(text);
    require(!invalid, "the message is not valid UTF-8: the byte at offset {} is not part of a character",
            invalid.value_or(0));
    return nlohmann::json(text).dump();
  };
  std::string array;
  for (const ChatMessage& message : messages) {
    array += fmt::format(R"({}{{"role":{},"content":{}}})", array.empty() ? "" : ",", quoted(message.role),
                         quoted(message.content));
  }
  return "[" + array + "]";
}

}  // namespace shadowkv
