// A chat at the terminal or through a pipe: messages and commands in, answers out.
#pragma once

#include <string>
#include <string_view>

#include "chat_branches.h"
#include "line_reader.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

struct ChatSettings {
  AttentionConfig attention;
  std::string method;  // as the user named it
  SamplingParams sampling;
  int64_t max_new_tokens = 0;
  std::string variables;  // of the chat template, a JSON object; empty: none
  bool stats = false;     // say after each answer what it cost
};

// At a terminal what goes wrong with a message or command is said, and the chat goes on; through a pipe it
// ends the chat with the error, as in a script.
class Chat {
 public:
  // The messages begin the conversation. Throws InvalidInput where the model's chat format does not take it.
  Chat(Engine& engine, ChatSettings settings, Json messages);

  // Returns at the end of the input or at /quit. Throws Interrupted for Ctrl-C: the second in a row at a
  // terminal's prompt, any through a pipe.
  void run(LineReader& reader);

 private:
  struct Command;
  struct Totals {
    int64_t answers = 0, tokens = 0, later_tokens = 0;  // later: after an answer's first
    double decode_s = 0;
  };
  static const Command kCommands[];

  void take(const std::string& text, bool is_quoted);
  void take_interrupt();
  template <typename Work>
  void attempt(const Work& work);

  // chat_commands.cc
  void execute(std::string_view name, const std::string& argument);
  void help(const std::string& argument);
  void save(const std::string& path);
  void load(const std::string& path);
  void save_state(const std::string& path);
  void load_state(const std::string& path);
  void fork(const std::string& name);
  void stats(const std::string& argument);
  void method(const std::string& name);
  void system(const std::string& text);
  void reset(const std::string& argument);
  void quit(const std::string& argument);

  [[nodiscard]] ChatRequest request_of(const Json& messages) const;
  void say(const std::string& text);
  GenerateResult answer();
  GenerateResult answer_within_memory(const GenerateRequest& request, const TokenCallback& on_token);
  void print_cost(const GenerateResult& result) const;

  Engine& engine_;
  ChatSettings settings_;
  ChatBranches branches_;
  Totals totals_;
  bool is_terminal_;
  bool is_done_ = false;
  bool was_interrupted_ = false;  // by the last key at the prompt
};

}  // namespace shadowkv::apps
