// What a chat does for a line that begins with a slash.
#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "base/bytes.h"
#include "base/check.h"
#include "base/suggest.h"
#include "chat.h"
#include "conversation.h"
#include "methods.h"
#include "output_file.h"
#include "prompt.h"
#include "saved_state.h"

namespace shadowkv::apps {

struct Chat::Command {
  std::string_view name, argument, help;
  void (Chat::*run)(const std::string& argument);
};

const Chat::Command Chat::kCommands[] = {
    {"help", "", "show this", &Chat::help},
    {"save", "FILE", "write the conversation to a JSON file of messages", &Chat::save},
    {"load", "FILE", "go on from such a file in place of this conversation", &Chat::load},
    {"save-state", "FILE", "write what is in memory, too, so that nothing is read again", &Chat::save_state},
    {"load-state", "FILE", "go on from such a file in place of this conversation", &Chat::load_state},
    {"fork", "[NAME]", "list the branches; go to one, or begin it from here", &Chat::fork},
    {"stats", "", "tokens, speed and memory so far", &Chat::stats},
    {"method", "[NAME]", "show or change the attention: full, shadow, default:rank=96", &Chat::method},
    {"system", "[TEXT]", "show or change the system message", &Chat::system},
    {"reset", "", "forget what was said, but for the system message", &Chat::reset},
    {"quit", "", "end the chat, as Ctrl-D does", &Chat::quit},
};

void Chat::execute(std::string_view name, const std::string& argument) {
  const auto* found =
      std::ranges::find_if(kCommands, [&](const Command& command) { return command.name == name; });
  if (found != std::end(kCommands)) {
    require(argument.empty() || !found->argument.empty(), "/{} takes nothing after it", name);
    require(!argument.empty() || found->argument.empty() || found->argument.starts_with('['),
            "/{} needs a {}", name, found->argument);
    require_utf8(argument, "the command");
    return (this->*found->run)(argument);
  }
  std::vector<std::string> names;
  for (const Command& command : kCommands) names.emplace_back(command.name);
  throw InvalidInput(unknown_name("command", name, names) + "; // sends a message that begins with a slash");
}

void Chat::help(const std::string& /*argument*/) {
  for (const Command& command : kCommands)
    std::cout << fmt::format("{:<16} {}\n", fmt::format("/{} {}", command.name, command.argument),
                             command.help);
  std::cout << "A line that ends in \\ goes on in the next; \"\"\" begins and ends a message of any lines;\n"
               "// sends a message that begins with a slash. Ctrl-C stops an answer."
            << std::endl;
}

void Chat::save(const std::string& path) {
  const Json& messages = branches_.current().messages;
  require(!messages.empty(), "nothing has been said that could be saved");
  try {
    OutputFile file(path);
    file.stream() << messages.dump(1) << "\n";
    file.commit();
  } catch (const DeviceFailure& error) {  // of the disk: the chat can go on
    throw InvalidInput(error.what());
  }
  std::cerr << fmt::format("saved {} messages to {}\n", messages.size(), path);
}

void Chat::load(const std::string& path) {
  branches_.current().messages = read_messages(path, "/load");
  std::cerr << fmt::format("loaded {} messages from {}\n", branches_.current().messages.size(), path);
}

void Chat::save_state(const std::string& path) {
  const ChatBranch& branch = branches_.current();
  require(branch.held != nullptr, "nothing is in memory that could be saved; let an answer be made first");
  save_conversation(*branch.held, branch.messages, path);
  std::cerr << fmt::format("saved {} messages and {} tokens to {}\n", branch.messages.size(),
                           branch.held->held_tokens(), path);
}

void Chat::load_state(const std::string& path) {
  SavedConversation loaded = open_conversation(engine_, settings_.attention, path);
  require(loaded.messages.is_array(), "{} was saved from plain text, not from a chat", path);
  ChatBranch& branch = branches_.current();
  branch.messages = std::move(loaded.messages);
  branch.held = std::move(loaded.held);
  std::cerr << fmt::format("loaded {} messages and {} tokens from {}\n", branch.messages.size(),
                           branch.held->held_tokens(), path);
}

void Chat::fork(const std::string& name) {
  if (name.empty()) {
    for (const ChatBranch& branch : branches_.all())
      std::cout << fmt::format("{} {} ({} messages)\n", branches_.is_current(branch) ? "*" : " ", branch.name,
                               count_said(branch.messages));
    std::cout.flush();
    return;
  }
  const bool is_new = branches_.go_to(name);
  std::cerr << fmt::format("{} {}, {} messages\n", is_new ? "began" : "went to", name,
                           count_said(branches_.current().messages));
}

void Chat::stats(const std::string& /*argument*/) {
  const ChatBranch& branch = branches_.current();
  const EngineMemory memory = engine_.memory();
  const double rate =
      totals_.decode_s > 0 ? static_cast<double>(totals_.later_tokens) / totals_.decode_s : 0.0;
  std::cout << fmt::format(
                   "model    {}, context of {} tokens\n"
                   "method   {}\n"
                   "branch   {}: {} messages, {} tokens in memory\n"
                   "answers  {}, {} tokens, {:.1f} tokens/s\n"
                   "memory   device {} of {}, host {} of {}",
                   engine_.model().name, engine_.model().context, settings_.method, branch.name,
                   count_said(branch.messages), branch.held ? branch.held->held_tokens() : 0, totals_.answers,
                   totals_.tokens, rate, format_bytes(memory.held[0]), format_bytes(memory.budget[0]),
                   format_bytes(memory.held[1]), format_bytes(memory.budget[1]))
            << std::endl;
}

// The branches are read again with their next messages.
void Chat::method(const std::string& name) {
  if (name.empty()) {
    std::cout << settings_.method << std::endl;
    return;
  }
  const AttentionConfig attention = parse_attention(name);
  const ResolvedAttention resolved = engine_.resolve(attention);
  settings_.attention = attention;
  settings_.method = name;
  branches_.forget_all();
  print_notes(name, resolved.notes);
}

void Chat::system(const std::string& text) {
  Json& messages = branches_.current().messages;
  if (!text.empty()) return set_system(messages, text);
  const std::string none = "no system message";
  std::cout << (has_system(messages) ? messages[0].at("content").dump() : none) << std::endl;
}

void Chat::reset(const std::string& /*argument*/) {
  clear_messages(branches_.current().messages);
  branches_.current().held.reset();
}

void Chat::quit(const std::string& /*argument*/) {
  is_done_ = true;
}

}  // namespace shadowkv::apps
