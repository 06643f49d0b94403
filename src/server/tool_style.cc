#include "server/tool_style.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

namespace shadowkv {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kNear = 48;  // bytes before a call's name in which its `open` stands

constexpr const char* kTools =
    R"([{"type": "function", "function": {"name": "probe_tool", "description": "Probes", "parameters":
        {"type": "object", "properties": {"probe_key": {"type": "string"}}, "required": ["probe_key"]}}}])";
constexpr const char* kQuestion = R"({"role": "user", "content": "Probe"})";
// Some templates want ids of nine letters.
constexpr const char* kCall =
    R"({"role": "assistant", "content": "", "tool_calls": [{"id": "probecall", "type": "function",
        "function": {"name": "probe_tool", "arguments": {"probe_key": "probe_value"}}}]},
       {"role": "tool", "tool_call_id": "probecall", "name": "probe_tool", "content": "Probed"})";

// What a template makes of messages; nothing where it refuses them.
std::string rendered(const Engine& engine, const std::string& messages, const char* tools) {
  try {
    return engine.detokenize(
        engine.chat_prompt(ChatRequest{.messages = "[" + messages + "]", .tools = tools}), false);
  } catch (const InvalidInput&) {
    return {};
  }
}

// The format of the call that a prompt ends with, between its name and its argument.
std::optional<ToolFormat> format_of(std::string_view prompt) {
  const std::size_t value = prompt.rfind("probe_value");
  if (value == std::string_view::npos) return std::nullopt;
  const std::size_t name = prompt.rfind("probe_tool", value);
  if (name == std::string_view::npos) return std::nullopt;
  const std::string_view before = prompt.substr(name - std::min(name, kNear), std::min(name, kNear));
  const std::string_view between = prompt.substr(name, value - name);
  for (const ToolFormat format : {ToolFormat::hermes, ToolFormat::mistral}) {
    if (before.find(syntax_of(format).open) != std::string_view::npos) return format;
  }
  if (between.find("\"parameters\"") != std::string_view::npos) return ToolFormat::llama;
  if (between.find("\n{") != std::string_view::npos) return ToolFormat::glm;
  return std::nullopt;
}

// The one token that is the text and that no answer's text shows.
std::optional<int32_t> hidden_token(const Engine& engine, std::string_view text) {
  if (text.empty()) return std::nullopt;
  try {
    const std::vector<int32_t> ids = engine.tokenize(text);
    if (ids.empty()) return std::nullopt;
    const bool is_it = engine.detokenize({&ids.back(), 1}, false) == text;
    return is_it && engine.detokenize({&ids.back(), 1}, true).empty() ? std::optional(ids.back())
                                                                      : std::nullopt;
  } catch (const InvalidInput&) {  // a model without tokenizer
    return std::nullopt;
  }
}

std::string text_of_call(ToolFormat format, const std::string& name, const std::string& arguments) {
  const ToolSyntax& syntax = syntax_of(format);
  if (format == ToolFormat::glm) return name + "\n" + arguments;
  std::string call =
      "{\"name\": " + Json(name).dump() + ", \"" + std::string(syntax.arguments) + "\": " + arguments + "}";
  if (format == ToolFormat::llama) return call;
  if (format == ToolFormat::mistral) return std::string(syntax.open) + " [" + call + "]";
  return std::string(syntax.open) + "\n" + call + "\n" + std::string(syntax.close);
}

std::string text_of_tools(const Json& tools, ToolFormat format) {
  std::string text = "You may call functions. These are there, one a line:\n<tools>\n";
  for (const Json& tool : tools) text += tool.dump() + "\n";
  return text + "</tools>\nTo call one, answer with its name and its arguments like this:\n" +
         text_of_call(format, "name", "{\"argument\": \"value\"}");
}

void write_calls(Json& message, ToolFormat format) {
  std::string text = message.at("content").get<std::string>();
  for (const Json& call : message.at("tool_calls")) {
    const Json& function = call.is_object() && call.contains("function") ? call.at("function") : call;
    if (!function.is_object()) continue;
    const Json arguments = function.value("arguments", Json::object());
    const Json name = function.value("name", Json(""));
    text += text.empty() ? "" : "\n";
    text += text_of_call(format, name.is_string() ? name.get<std::string>() : name.dump(), arguments.dump());
  }
  message["content"] = text;
  message.erase("tool_calls");
}

}  // namespace

ToolStyle tool_style_of(const Engine& engine, std::optional<ToolFormat> format) {
  ToolStyle style;
  const std::string question = rendered(engine, kQuestion, kTools);
  style.lists_tools = question.find("probe_tool") != std::string::npos;
  const std::string call =
      rendered(engine, std::string(kQuestion) + ", " + kCall, style.lists_tools ? kTools : "");
  style.writes_calls = call.find("probe_value") != std::string::npos;
  style.format = format.value_or(format_of(call).value_or(ToolFormat::hermes));
  style.open_token = hidden_token(engine, syntax_of(style.format).open);
  return style;
}

void write_tools_into(Json& messages, const Json& tools, const ToolStyle& style) {
  Json written = Json::array();
  bool is_behind_result = false;
  for (Json& message : messages) {
    const bool is_result = !style.writes_calls && message.at("role") == "tool";
    if (!style.writes_calls && message.contains("tool_calls") && message.at("tool_calls").is_array())
      write_calls(message, style.format);
    if (is_result) {
      const std::string text =
          "<tool_response>\n" + message.at("content").get<std::string>() + "\n</tool_response>";
      if (is_behind_result) {
        Json& content = written.back().at("content");
        content = content.get<std::string>() + "\n" + text;
        continue;
      }
      message = {{"role", "user"}, {"content", text}};
    }
    is_behind_result = is_result;
    written.push_back(std::move(message));
  }
  messages = std::move(written);
  if (style.lists_tools || tools.empty()) return;
  std::string text = text_of_tools(tools, style.format);
  if (!messages.empty() && messages[0].at("role") == "system") {
    Json& content = messages[0].at("content");
    content = content.get<std::string>() + "\n\n" + text;
  } else {
    messages.insert(messages.begin(), Json{{"role", "system"}, {"content", text}});
  }
}

}  // namespace shadowkv
