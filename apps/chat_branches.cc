#include "chat_branches.h"

#include <algorithm>

#include "conversation.h"

namespace shadowkv::apps {

namespace {

// Nothing where nothing is held, or there is no room: the branch is then read with its next message.
std::unique_ptr<Conversation> fork_of(const Conversation* held) {
  try {
    return held ? held->fork() : nullptr;
  } catch (const OutOfMemory&) {
    return nullptr;
  }
}

}  // namespace

bool ChatBranches::go_to(std::string_view name) {
  const auto found =
      std::ranges::find_if(branches_, [&](const ChatBranch& branch) { return branch.name == name; });
  const bool is_new = found == branches_.end();
  const auto index = static_cast<std::size_t>(found - branches_.begin());
  if (is_new) {
    branches_.push_back(
        {.name = std::string(name), .messages = current().messages, .held = fork_of(current().held.get())});
  }
  current_ = index;
  return is_new;
}

void ChatBranches::forget_all() {
  for (ChatBranch& branch : branches_) branch.held.reset();
}

void ChatBranches::forget_others() {
  for (ChatBranch& branch : branches_) {
    if (!is_current(branch)) branch.held.reset();
  }
}

void set_system(Json& messages, std::string_view text) {
  if (has_system(messages)) messages.erase(0);
  messages.insert(messages.begin(), message("system", text));
}

void clear_messages(Json& messages) {
  messages = has_system(messages) ? Json::array({messages[0]}) : Json::array();
}

int64_t count_said(const Json& messages) {
  return static_cast<int64_t>(messages.size()) - (has_system(messages) ? 1 : 0);
}

}  // namespace shadowkv::apps
