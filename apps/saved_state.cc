#include "saved_state.h"

#include "args.h"
#include "base/check.h"
#include "conversation.h"

namespace shadowkv::apps {

void add_state_options(CLI::App& app, StateArguments& arguments) {
  const std::string group = "State";
  add_path(app,
           {"--load-state", "FILE",
            "Go on from a state that was saved with this model, dtype and attention: the prompt follows what "
            "it holds [default: none]",
            group},
           arguments.load);
  add_path(
      app,
      {"--save-state", "FILE",
       "Write the state at the end, prompt and answer, to a file that --load-state reads [default: none]",
       group},
      arguments.save);
}

SavedConversation open_conversation(Engine& engine, const AttentionConfig& attention,
                                    const std::filesystem::path& load) {
  SavedConversation conversation{.held = engine.converse(attention), .messages = {}};
  if (load.empty()) return conversation;
  const std::string note = conversation.held->load_state(load);
  if (!note.empty()) conversation.messages = messages_of(note, load.string());
  return conversation;
}

void save_conversation(const Conversation& held, const Json& messages, const std::filesystem::path& path) {
  try {
    held.save_state(path, messages.is_null() ? "" : messages.dump());
  } catch (const DeviceFailure& error) {  // of the disk
    throw InvalidInput(error.what());
  }
}

void save_conversation(const SavedConversation& conversation, const std::filesystem::path& path) {
  save_conversation(*conversation.held, conversation.messages, path);
}

}  // namespace shadowkv::apps
