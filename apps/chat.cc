#include "chat.h"

#include <fmt/format.h>

#include <iostream>

#include "answer_stream.h"
#include "base/bytes.h"
#include "base/check.h"
#include "chat_input.h"
#include "conversation.h"
#include "exit_code.h"
#include "interrupt.h"
#include "progress.h"
#include "prompt.h"

namespace shadowkv::apps {

Chat::Chat(Engine& engine, ChatSettings settings, Json messages)
    : engine_(engine), settings_(std::move(settings)), is_terminal_(stdin_is_terminal()) {
  Json first = messages;
  if (count_said(first) == 0) first.push_back(message("user", "Hi"));
  (void)engine_.chat_prompt(request_of(first));
  branches_.current().messages = std::move(messages);
}

void Chat::run(LineReader& reader) {
  install_interrupt_handler(AfterInterrupt::goes_on);
  MessageLines lines;
  while (!is_done_) {
    const ReadLine line = reader.read(lines.is_open() ? "| " : "> ");
    if (line.status == ReadStatus::interrupted) {
      lines.clear();
      take_interrupt();
      continue;
    }
    was_interrupted_ = false;
    const bool is_end = line.status == ReadStatus::end;
    if (is_end && is_terminal_) std::cout << std::endl;
    const std::optional<std::string> text = is_end ? lines.finish() : lines.add(line.text);
    if (text) attempt([&] { take(*text, lines.was_quoted()); });
    if (is_end) return;
  }
}

// At a prompt.
void Chat::take_interrupt() {
  if (!is_terminal_ || was_interrupted_ || told_to_end()) throw Interrupted("interrupted");
  was_interrupted_ = true;
  forget_interrupt();
  std::cout << std::endl;
  std::cerr << "Ctrl-C again or /quit ends the chat\n";
}

template <typename Work>
void Chat::attempt(const Work& work) {
  if (!is_terminal_) return work();
  const auto report = [](const std::exception& error) {
    std::cout.flush();
    std::cerr << "shadowkv: " << one_line(error.what()) << std::endl;
  };
  try {
    work();
  } catch (const InvalidInput& error) {
    report(error);
  } catch (const OutOfMemory& error) {
    report(error);
  } catch (const Interrupted&) {
    if (told_to_end()) throw;
    forget_interrupt();
    std::cerr << "stopped before an answer; the message is taken back" << std::endl;
  }
}

void Chat::take(const std::string& text, bool is_quoted) {
  const std::optional<ChatCommandLine> command = is_quoted ? std::nullopt : command_of(text);
  if (command) return execute(command->name, command->argument);
  const std::string_view message = is_quoted ? text : message_of(text);
  if (message.find_first_not_of(" \t\n") != std::string_view::npos) say(std::string(message));
}

ChatRequest Chat::request_of(const Json& messages) const {
  return {.messages = messages.dump(), .variables = settings_.variables};
}

// Without an answer the message is none of the conversation's.
void Chat::say(const std::string& text) {
  require_utf8(text, "the message");
  branches_.current().messages.push_back(message("user", text));
  GenerateResult result;
  try {
    result = answer();
    if (result.text.empty() || !is_terminal_ || told_to_end()) check_interrupted();
  } catch (...) {
    branches_.current().messages.erase(branches_.current().messages.size() - 1);
    throw;
  }
  branches_.current().messages.push_back(message("assistant", result.text));
  print_cost(result);
  if (interrupted()) forget_interrupt();
}

GenerateResult Chat::answer() {
  GenerateRequest request;
  request.prompt_ids = engine_.chat_prompt(request_of(branches_.current().messages));
  request.sampling = settings_.sampling;
  request.max_new_tokens = settings_.max_new_tokens;
  AnswerStream stream(false);
  ProgressBar bar("reading");
  request.prefill_progress = bar.callback();
  GenerateResult result = answer_within_memory(request, [&](const TokenEvent& event) {
    bar.clear();
    stream.print(event.text);
    return !interrupted();
  });
  totals_.answers += 1;
  totals_.tokens += std::ssize(result.ids);
  totals_.later_tokens += std::ssize(result.ids) - 1;
  totals_.decode_s += result.decode_s;
  return result;
}

// Other branches give way.
GenerateResult Chat::answer_within_memory(const GenerateRequest& request, const TokenCallback& on_token) {
  ChatBranch& branch = branches_.current();
  if (!branch.held) branch.held = engine_.converse(settings_.attention);
  bool has_begun = false;
  const TokenCallback deliver = [&](const TokenEvent& event) {
    has_begun = true;
    return on_token(event);
  };
  try {
    return branch.held->answer(request, deliver);
  } catch (const OutOfMemory&) {
    if (has_begun) throw;
    branches_.forget_others();
    return branch.held->answer(request, deliver);
  }
}

void Chat::print_cost(const GenerateResult& result) const {
  if (!settings_.stats && !stderr_is_terminal()) return;
  const auto later = static_cast<double>(result.ids.size()) - 1;
  const EngineMemory memory = engine_.memory();
  std::cerr << fmt::format(
                   "[read {} of {} tokens, first token after {:.2f} s; {} tokens, {:.1f} tokens/s; {} device "
                   "and {} "
                   "host memory]",
                   result.prompt_tokens - result.held_tokens, result.prompt_tokens, result.ttft_s,
                   result.ids.size(), result.decode_s > 0 ? later / result.decode_s : 0.0,
                   format_bytes(memory.held[0]), format_bytes(memory.held[1]))
            << std::endl;
}

}  // namespace shadowkv::apps
