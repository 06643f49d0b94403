// Conversations as files and options give them: a JSON array of messages {"role", "content"}, as OpenAI's
// interface has them.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "json_output.h"
#include "option_library.h"
#include "prompt.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

struct ConversationArguments {
  bool chat = false;  // the text is a user's message
  std::string system = {};
  std::filesystem::path messages = {}, tools = {};
  std::string variables = {};  // of the template, as JSON

  // Whether any option asks for the model's chat format.
  [[nodiscard]] bool given() const;
};

// --system, --messages and --chat-template-kwargs; and these with --chat and --tools.
void add_opening_options(CLI::App& app, ConversationArguments& arguments);
void add_conversation_options(CLI::App& app, ConversationArguments& arguments);

// The messages of the file after the system message. Throws InvalidInput where both give one, and as
// read_messages() does.
[[nodiscard]] Json opening_of(const ConversationArguments& arguments);

// The opening, then the text, if there is any, as the user's. Throws InvalidInput for options that contradict
// the prompt, and as opening_of(), read_tools() and variables_of() do.
[[nodiscard]] ChatRequest conversation_of(const ConversationArguments& arguments, const Prompt& prompt);

// The text of a JSON object of what the template reads besides; empty: nothing. Throws InvalidInput for what
// is none.
[[nodiscard]] std::string variables_of(const ConversationArguments& arguments);

// A JSON array of messages. Throws InvalidInput naming the file, and the message, for what is none. Arguments
// of tool calls that are texts of JSON become what they spell, as templates expect them.
[[nodiscard]] Json read_messages(const std::filesystem::path& path, std::string_view option);
// The same of a text; `name` stands for it in messages.
[[nodiscard]] Json messages_of(std::string_view text, const std::string& name);
// The text of a JSON array of functions.
[[nodiscard]] std::string read_tools(const std::filesystem::path& path);

[[nodiscard]] Json message(std::string_view role, std::string_view content);
[[nodiscard]] bool has_system(const Json& messages);

}  // namespace shadowkv::apps
