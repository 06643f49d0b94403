#include "conversation.h"

#include "args.h"
#include "base/check.h"
#include "server/call_arguments.h"

namespace shadowkv::apps {
namespace {

constexpr int kMaxDepth = 64;  // objects and arrays within each other, which are written by recursion

// `name` says where the text stands.
Json parse_json(std::string_view text, std::string_view name) {
  const auto check_depth = [&](int depth, Json::parse_event_t /*event*/, const Json& /*value*/) {
    require(depth <= kMaxDepth, "{}: values are nested more than {} deep", name, kMaxDepth);
    return true;
  };
  try {
    return Json::parse(text, check_depth);
  } catch (const Json::parse_error& error) {
    const std::string_view what =
        error.what();  // "[json.exception.parse_error.101] parse error at line 1, ..."
    throw InvalidInput(fmt::format("{} is not JSON: {}", name, what.substr(what.find(' ') + 1)));
  }
}

Json read_array(const std::filesystem::path& path, std::string_view option) {
  Json array = parse_json(read_text_file(path, option), path.string());
  require(array.is_array(), "{} is not a JSON array; check {}", path.string(), option);
  return array;
}

std::string_view kind_of(const Json& value) {
  return value.is_null() ? "null" : value.type_name();
}

// Refuses what no template could read; what a template makes of the rest is its own affair.
void check_message(const Json& message, const std::string& name) {
  require(message.is_object(), "{} is not an object with \"role\" and \"content\"", name);
  const auto role = message.find("role");
  require(role != message.end() && role->is_string() && !role->get_ref<const std::string&>().empty(),
          "{} has no \"role\"; it must be a text such as \"user\"", name);
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) {
    return require(message.contains("tool_calls"), "{} has no \"content\"", name);
  }
  require(content->is_string() || content->is_array(),
          "the \"content\" of {} is of the type {}; it must be a text or a list of parts", name,
          kind_of(*content));
}

Json checked_messages(Json messages, const std::string& name) {
  for (std::size_t i = 0; i < messages.size(); ++i) {
    check_message(messages[i], fmt::format("{}: message {}", name, i + 1));
    open_call_arguments(messages[i]);
  }
  return messages;
}

}  // namespace

bool ConversationArguments::given() const {
  return chat || !system.empty() || !messages.empty() || !tools.empty() || !variables.empty();
}

void add_opening_options(CLI::App& app, ConversationArguments& arguments) {
  const std::string group = "Text";
  add_text(app,
           {"--system", "TEXT", "System message that the conversation begins with [default: none]", group},
           arguments.system);
  add_path(
      app,
      {"--messages", "FILE",
       "JSON array of messages {\"role\", \"content\"} that the conversation begins with [default: none]",
       group},
      arguments.messages);
  add_text(app,
           {"--chat-template-kwargs", "JSON",
            "Object of further variables that the chat template reads, such as {\"enable_thinking\": false} "
            "[default: none]",
            group},
           arguments.variables);
}

void add_conversation_options(CLI::App& app, ConversationArguments& arguments) {
  const std::string group = "Text";
  add_flag(app, {"--chat", "", "Put the text into the model's chat format as a user's message", group},
           arguments.chat);
  add_opening_options(app, arguments);
  add_path(
      app,
      {"--tools", "FILE", "JSON array of functions that the model may call in a chat [default: none]", group},
      arguments.tools);
}

Json opening_of(const ConversationArguments& arguments) {
  Json messages =
      arguments.messages.empty() ? Json::array() : read_messages(arguments.messages, "--messages");
  if (arguments.system.empty()) return messages;
  require_utf8(arguments.system, "--system");
  require(!has_system(messages), "both --system and a system message in {} are given; choose one",
          arguments.messages.string());
  messages.insert(messages.begin(), message("system", arguments.system));
  return messages;
}

ChatRequest conversation_of(const ConversationArguments& arguments, const Prompt& prompt) {
  require(prompt.ids.empty(),
          "--chat, --system, --messages, --tools and --chat-template-kwargs frame text, but --prompt-ids "
          "gives ids; drop one of them");
  Json messages = opening_of(arguments);
  if (!prompt.text.empty()) messages.push_back(message("user", prompt.text));
  return {.messages = messages.dump(),
          .tools = arguments.tools.empty() ? "" : read_tools(arguments.tools),
          .variables = variables_of(arguments)};
}

std::string variables_of(const ConversationArguments& arguments) {
  if (arguments.variables.empty()) return {};
  constexpr std::string_view kOption = "--chat-template-kwargs";
  require_utf8(arguments.variables, kOption);
  const Json variables = parse_json(arguments.variables, kOption);
  require(variables.is_object(), "{} is not a JSON object such as {{\"enable_thinking\": false}}", kOption);
  return variables.dump();
}

Json read_messages(const std::filesystem::path& path, std::string_view option) {
  Json messages = read_array(path, option);
  require(!messages.empty(), "{} holds no messages; check {}", path.string(), option);
  return checked_messages(std::move(messages), path.string());
}

Json messages_of(std::string_view text, const std::string& name) {
  Json messages = parse_json(text, name);
  require(messages.is_array(), "{} is no state of a conversation", name);
  return checked_messages(std::move(messages), name);
}

std::string read_tools(const std::filesystem::path& path) {
  const Json tools = read_array(path, "--tools");
  require(!tools.empty(), "{} holds no functions; check --tools", path.string());
  for (std::size_t i = 0; i < tools.size(); ++i)
    require(tools[i].is_object(), "{}: function {} is not an object", path.string(), i + 1);
  return tools.dump();
}

Json message(std::string_view role, std::string_view content) {
  return {{"role", role}, {"content", content}};
}

bool has_system(const Json& messages) {
  return !messages.empty() && messages[0].at("role") == "system";
}

}  // namespace shadowkv::apps
