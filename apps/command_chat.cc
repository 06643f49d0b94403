// shadowkv chat: questions and answers, one after the other.
#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "base/check.h"
#include "chat.h"
#include "commands.h"
#include "conversation.h"
#include "engine_loading.h"
#include "methods.h"
#include "progress.h"
#include "prompt.h"
#include "sampling_options.h"

namespace shadowkv::apps {
namespace {

struct Arguments {
  EngineOptions engine;
  ConversationArguments conversation;
  AttentionArguments attention;
  SamplingArguments sampling;
  int64_t max_new_tokens = 1024;
  bool stats = false;
};

void declare(CLI::App& app, Arguments& a) {
  add_opening_options(app, a.conversation);
  add_model_options(app, a.engine);
  add_attention_options(app, a.attention);
  add_sampling_options(app, a.sampling);
  const std::string group = "Answers";
  add_whole(app, {"-n,--max-new-tokens", "TOKENS", "Most tokens of an answer, at least 1", group},
            {1, kMostTokens}, a.max_new_tokens);
  add_flag(
      app,
      {"--stats", "", "Say after each answer what it cost, on stderr, even where that is no terminal", group},
      a.stats);
}

void run(Arguments& a) {
  check_model_options(a.engine);
  const ChatSettings settings{.attention = attention_of(a.attention),
                              .method = description_of(a.attention),
                              .sampling = sampling_of(a.sampling),
                              .max_new_tokens = a.max_new_tokens,
                              .variables = variables_of(a.conversation),
                              .stats = a.stats};
  require(!settings.sampling.logprobs, "--logprobs is given, which a chat does not show; leave it out");
  Json opening = opening_of(a.conversation);
  const std::unique_ptr<Engine> engine = load_engine(a.engine);
  print_notes("attention", engine->resolve(settings.attention).notes);
  Chat chat(*engine, settings, std::move(opening));
  if (stdin_is_terminal() && stderr_is_terminal())
    std::cerr << fmt::format("{}, context of {} tokens; /help says what can be typed\n", engine->model().name,
                             engine->model().context);
  const std::unique_ptr<LineReader> reader = LineReader::open();
  chat.run(*reader);
}

}  // namespace

Command add_chat(CLI::App& root) {
  CLI::App& app =
      add_subcommand(root, "chat",
                     "Talk with a model. Each line of standard input is a message, or a command that "
                     "begins with a slash; /help lists them.");
  const auto arguments = std::make_shared<Arguments>();
  declare(app, *arguments);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
