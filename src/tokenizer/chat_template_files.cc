// Where models keep their chat templates.
#include <array>

#include "base/check.h"
#include "formats/gguf.h"
#include "formats/json.h"
#include "formats/mapped_file.h"
#include "template/budget.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/json_fields.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;

// GGUF's names of special tokens, one of them misspelt there, and those that templates know them by.
constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kGgufTokens = {
    {{"bos", "bos_token"},
     {"eos", "eos_token"},
     {"unknown", "unk_token"},
     {"seperator", "sep_token"},
     {"padding", "pad_token"},
     {"cls", "cls_token"},
     {"mask", "mask_token"}}};

// A token as tokenizer_config.json writes it: its text, or an object that holds it; nullptr for others.
const std::string* token_text(const Json& token) {
  const Json* text = &token;
  if (token.is_object()) {
    const auto content = token.find("content");
    if (content == token.end()) return nullptr;
    text = &*content;
  }
  return text->get_ptr<const std::string*>();
}

// Keys such as "bos_token".
void read_tokens(const Json& config, ChatTemplate& found) {
  for (const auto& [key, value] : config.items()) {
    const std::string* text = key.ends_with("_token") ? token_text(value) : nullptr;
    if (text != nullptr) found.tokens.emplace_back(key, *text);
  }
}

void read_additional_tokens(const JsonPart& config, ChatTemplate& found) {
  constexpr std::string_view kKey = "additional_special_tokens";
  if (find_field(config, kKey) == nullptr) return;
  for (const Json& token : get_array(get_field(config, kKey))) {
    if (const std::string* text = token_text(token)) found.additional_tokens.push_back(*text);
  }
}

// One template, or a list of them with their names.
void read_templates(const JsonPart& part, ChatTemplate& found) {
  if (part.value.is_string()) {
    found.source = get_string(part);
    return;
  }
  for (const Json& entry : get_array(part)) {
    const JsonPart one{entry, "an entry of " + part.name};
    const std::string& name = get_string(get_field(one, "name"));
    if (name == "default") found.source = get_string(get_field(one, "template"));
    if (name == "tool_use") found.tool_source = get_string(get_field(one, "template"));
  }
  require(!found.source.empty() || !found.tool_source.empty(),
          "{} has no template by the name \"default\" or \"tool_use\"", part.name);
}

std::string read_text(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  require(std::ssize(bytes) <= jinja::kMaxSourceBytes,
          "{} has {} bytes; at most {} are supported for a template", path.string(), bytes.size(),
          jinja::kMaxSourceBytes);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void read_config(const fs::path& path, ChatTemplate& found) {
  const JsonDocument document = read_json_file(path);
  const JsonPart config{*document, path.string()};
  const Json* templates = find_field(config, "chat_template");
  read_tokens(config.value, found);
  if (const Json* extra = find_field(config, "extra_special_tokens"); extra != nullptr && extra->is_object())
    read_tokens(*extra, found);
  read_additional_tokens(config, found);
  if (templates == nullptr) return;
  read_templates(get_field(config, "chat_template"), found);
  found.name = "the chat template of " + path.string();
}

void read_jinja_file(const fs::path& path, ChatTemplate& found) {
  found.source = read_text(path);
  require(!found.source.empty(), "the chat template {} is empty", path.string());
  found.tool_source.clear();
  found.name = "the chat template " + path.string();
}

ChatTemplate read_folder(const fs::path& folder) {
  std::error_code error;
  ChatTemplate found;
  if (const fs::path config = folder / "tokenizer_config.json"; fs::exists(config, error))
    read_config(config, found);
  if (const fs::path file = folder / "chat_template.jinja"; fs::exists(file, error))
    read_jinja_file(file, found);
  const fs::path with_tools = folder / "additional_chat_templates" / "tool_use.jinja";
  if (fs::exists(with_tools, error)) found.tool_source = read_text(with_tools);
  return found;
}

ChatTemplate read_gguf(const GgufFile& file) {
  ChatTemplate found{.name = "the chat template of " + file.path().string(),
                     .source = file.get_or<std::string>("tokenizer.chat_template", ""),
                     .tool_source = file.get_or<std::string>("tokenizer.chat_template.tool_use", "")};
  const auto* tokens = file.find("tokenizer.ggml.tokens");
  const auto* texts = tokens ? std::get_if<std::vector<std::string>>(tokens) : nullptr;
  for (const auto& [key, name] : kGgufTokens) {
    const auto id = file.get_or<int64_t>(fmt::format("tokenizer.ggml.{}_token_id", key), -1);
    if (texts != nullptr && id >= 0 && id < std::ssize(*texts))
      found.tokens.emplace_back(name, (*texts)[static_cast<size_t>(id)]);
  }
  return found;
}

std::optional<ChatTemplate> if_any(ChatTemplate found) {
  if (found.source.empty() && found.tool_source.empty()) return std::nullopt;
  return found;
}

}  // namespace

std::optional<ChatTemplate> find_chat_template(const GgufFile& file) {
  return if_any(read_gguf(file));
}

std::optional<ChatTemplate> find_chat_template(const fs::path& tokenizer, const fs::path& instead) {
  ChatTemplate found =
      starts_like_gguf(tokenizer) ? read_gguf(GgufFile(tokenizer)) : read_folder(tokenizer.parent_path());
  if (!instead.empty()) read_jinja_file(instead, found);
  return if_any(std::move(found));
}

}  // namespace shadowkv
