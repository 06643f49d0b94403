#include "server/chat_messages.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "server/api_error.h"
#include "server/call_arguments.h"
#include "server/json_fields.h"

namespace shadowkv {
namespace {

using Json = nlohmann::ordered_json;

std::string text_of_part(const Json& given, const std::string& place) {
  if (given.is_string()) return given.get<std::string>();
  const JsonFields part(given, place + ".");
  const std::string type = part.text("type").value_or("");
  auto content = part.text("text");
  if (type == "text" && content) return *std::move(content);
  throw bad_request(fmt::format("{} is of type \"{}\"; only text is supported", place, type), place,
                    "unsupported_content");
}

std::string text_of_parts(const Json& parts, const std::string& place) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) text += '\n';
    text += text_of_part(parts[i], fmt::format("{}[{}]", place, i));
  }
  return text;
}

Json message_of(const Json& given, const std::string& place) {
  const JsonFields fields(given, place + ".");
  const auto role = fields.text("role");
  if (!role) throw bad_request(place + ".role is missing", place + ".role", "missing_required_parameter");
  Json message = given;
  if (*role == "developer") message["role"] = "system";
  const Json* content = fields.find("content");
  if (content == nullptr) {
    message["content"] = "";
  } else if (content->is_array()) {
    message["content"] = text_of_parts(*content, place + ".content");
  } else if (!content->is_string()) {
    throw bad_request(place + ".content must be a string or a list of text parts", place + ".content",
                      "invalid_type");
  }
  if (const Json* calls = fields.find("tool_calls"); calls != nullptr && !calls->is_array()) {
    throw bad_request(place + ".tool_calls must be a list", place + ".tool_calls", "invalid_type");
  }
  (void)fields.text("tool_call_id");
  open_call_arguments(message);
  return message;
}

}  // namespace

Json chat_messages_of(const Json& messages) {
  if (!messages.is_array() || messages.empty()) {
    throw bad_request("messages must be a list of at least one message", "messages", "invalid_type");
  }
  Json read = Json::array();
  for (std::size_t i = 0; i < messages.size(); ++i) {
    read.push_back(message_of(messages[i], fmt::format("messages[{}]", i)));
  }
  return read;
}

}  // namespace shadowkv
