// shadowkv tokenize and detokenize: text to token ids and back.
#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "base/check.h"
#include "commands.h"
#include "engine_loading.h"
#include "json_output.h"
#include "prompt.h"

namespace shadowkv::apps {
namespace {

struct Arguments {
  EngineOptions engine;
  PromptArguments prompt;
  bool keep_special = false;
  bool json = false;
};

void run_tokenize(Arguments& a) {
  check_model_options(a.engine);
  const Prompt prompt = read_prompt(a.prompt);
  const std::vector<int32_t> ids = load_engine(a.engine)->tokenize(prompt.text);
  if (a.json) return print_json({{"count", ids.size()}, {"ids", ids}});
  std::cout << fmt::format("{}\n", fmt::join(ids, " "));
}

void run_detokenize(Arguments& a) {
  check_model_options(a.engine);
  const std::vector<int32_t> ids = parse_ids(read_prompt(a.prompt).text, "the list of ids");
  require(!ids.empty(), "the list of ids is empty; give at least one, such as 1,2,3");
  const std::unique_ptr<Engine> engine = load_engine(a.engine);
  for (int32_t id : ids) {
    require(id < engine->model().vocab_size, "token id {} is outside the vocabulary of {}", id,
            engine->model().vocab_size);
  }
  const std::string text = engine->detokenize(ids, !a.keep_special);
  if (a.json) return print_json({{"text", text}});
  std::cout << text << "\n";
}

}  // namespace

Command add_tokenize(CLI::App& root) {
  CLI::App& app = add_subcommand(root, "tokenize", "Turn text into token ids, separated by blanks.");
  const auto arguments = std::make_shared<Arguments>();
  add_prompt_options(app, arguments->prompt, false);
  add_model_options(app, arguments->engine);
  add_flag(app, {"--json", "", "Print one JSON object: count and ids", ""}, arguments->json);
  return {&app, [arguments] { run_tokenize(*arguments); }};
}

Command add_detokenize(CLI::App& root) {
  CLI::App& app =
      add_subcommand(root, "detokenize", "Turn token ids, separated by commas or blanks, into text.");
  const auto arguments = std::make_shared<Arguments>();
  add_prompt_options(app, arguments->prompt, false);
  add_model_options(app, arguments->engine);
  add_flag(app, {"--keep-special", "", "Print special tokens too", ""}, arguments->keep_special);
  add_flag(app, {"--json", "", "Print one JSON object: text", ""}, arguments->json);
  return {&app, [arguments] { run_detokenize(*arguments); }};
}

}  // namespace shadowkv::apps
