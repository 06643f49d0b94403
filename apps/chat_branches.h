// A conversation and the others that were forked from it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "json_output.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

struct ChatBranch {
  std::string name;
  Json messages = Json::array();
  std::unique_ptr<Conversation> held = {};  // what of it is in memory; null: nothing
};

class ChatBranches {
 public:
  ChatBranches() { branches_.push_back({.name = "main"}); }

  [[nodiscard]] ChatBranch& current() { return branches_[current_]; }
  [[nodiscard]] const std::vector<ChatBranch>& all() const { return branches_; }
  [[nodiscard]] bool is_current(const ChatBranch& branch) const { return &branch == &branches_[current_]; }
  // Goes to the branch of that name; where there is none it begins as the current one stands, with what that
  // has in memory where there is room to go on from it, and the result is true.
  bool go_to(std::string_view name);
  // Gives back the memory of all branches, or of all others.
  void forget_all();
  void forget_others();

 private:
  std::vector<ChatBranch> branches_;
  std::size_t current_ = 0;
};

// Puts the system message first, in place of one that is there.
void set_system(Json& messages, std::string_view text);
// Leaves the system message alone.
void clear_messages(Json& messages);
// Messages but for the system message.
[[nodiscard]] int64_t count_said(const Json& messages);

}  // namespace shadowkv::apps
