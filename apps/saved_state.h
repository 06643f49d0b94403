// Conversations that go on in another process: --load-state and --save-state.
#pragma once

#include <filesystem>
#include <memory>

#include "json_output.h"
#include "option_library.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

struct StateArguments {
  std::filesystem::path load, save;

  [[nodiscard]] bool given() const { return !load.empty() || !save.empty(); }
};

void add_state_options(CLI::App& app, StateArguments& arguments);

// A conversation in memory, and what was said in it: an array of messages, or null for plain text.
struct SavedConversation {
  std::unique_ptr<Conversation> held;
  Json messages;
};

// A new one, from the file if one is named. Throws InvalidInput as Conversation::load_state() does.
[[nodiscard]] SavedConversation open_conversation(Engine& engine, const AttentionConfig& attention,
                                                  const std::filesystem::path& load);
// Throws InvalidInput where the disk fails, too: the conversation can go on.
void save_conversation(const SavedConversation& conversation, const std::filesystem::path& path);
void save_conversation(const Conversation& held, const Json& messages, const std::filesystem::path& path);

}  // namespace shadowkv::apps
