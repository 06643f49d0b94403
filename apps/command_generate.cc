// shadowkv generate: an answer to one prompt.
#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <optional>

#include "answer_stream.h"
#include "base/check.h"
#include "best_of.h"
#include "commands.h"
#include "conversation.h"
#include "engine_loading.h"
#include "interrupt.h"
#include "json_output.h"
#include "key_errors.h"
#include "methods.h"
#include "npy.h"
#include "output_file.h"
#include "progress.h"
#include "prompt.h"
#include "sampling_options.h"
#include "saved_state.h"

namespace shadowkv::apps {
namespace {

constexpr int64_t kMostAnswers = 256;

struct Arguments {
  EngineOptions engine;
  PromptArguments prompt;
  ConversationArguments conversation;
  AttentionArguments attention;
  SamplingArguments sampling;
  StateArguments state;
  int64_t max_new_tokens = 256, best_of = 1;
  int64_t key_errors = 0;
  bool ignore_eos = false;
  bool raw = false;
  bool print_ids = false, json = false;
  std::filesystem::path dump_logits;
};

void declare(CLI::App& app, Arguments& a) {
  add_prompt_options(app, a.prompt, true);
  add_conversation_options(app, a.conversation);
  add_flag(app, {"--raw", "", "Continue the text as it is, which is what happens without --chat", "Text"},
           a.raw);
  add_model_options(app, a.engine);
  add_attention_options(app, a.attention);
  add_sampling_options(app, a.sampling);
  add_state_options(app, a.state);
  const std::string group = "Answer";
  add_whole(app, {"-n,--max-new-tokens", "TOKENS", "Most tokens to generate, at least 1", group},
            {1, kMostTokens}, a.max_new_tokens);
  add_whole(app,
            {"--best-of", "ANSWERS",
             "Make so many answers, with this seed and those that follow, and give the one whose tokens are "
             "the likeliest, by mean log-probability",
             group},
            {1, kMostAnswers}, a.best_of);
  add_flag(app, {"--ignore-eos", "", "Go on where the model would end its answer", group}, a.ignore_eos);
  add_flag(app, {"--print-ids", "", "Print the generated token ids in one line before the text", group},
           a.print_ids);
  add_path(app,
           {"--dump-logits", "FILE",
            "Write float32 logits [tokens, vocabulary] as .npy; row 0 is the prompt's "
            "last position [default: none]",
            group},
           a.dump_logits);
  add_whole(app,
            {"--key-errors", "TOKENS",
             "Say after every so many tokens of the answer which share of their keys' energy is lost to the "
             "factors that they are kept as, on standard error and in --json; 0: do not measure it",
             group},
            {0, kMostTokens}, a.key_errors);
  add_flag(app, {"--json", "", "Print one JSON object: text, ids, timings, statistics, settings", group},
           a.json);
}

// Several answers are made by a service, which neither goes on from what was held nor keeps logits.
void check_best_of(const Arguments& a) {
  if (a.best_of == 1) return;
  require(a.sampling.params.temperature > 0,
          "--best-of = {} has no effect at --temperature 0, which takes the likeliest token; give a "
          "temperature above 0 or drop it",
          a.best_of);
  require(!a.state.given(), "--best-of and one of --load-state and --save-state are given; choose one");
  require(a.dump_logits.empty(), "--best-of and --dump-logits are given; choose one");
  require(a.key_errors == 0, "--best-of and --key-errors are given; choose one");
}

// What is asked: messages, or else text or ids.
struct Question {
  Prompt prompt;
  std::optional<ChatRequest> conversation;
};

Question read_question(const Arguments& a) {
  require(!(a.conversation.given() && a.raw),
          "--raw and one of --chat, --system, --messages, --tools and --chat-template-kwargs are given; "
          "choose one");
  Question question;
  if (a.conversation.messages.empty() || a.prompt.given()) question.prompt = read_prompt(a.prompt);
  if (a.conversation.given()) question.conversation = conversation_of(a.conversation, question.prompt);
  return question;
}

// What is asked after what was said before: messages after messages, text after ids.
Question after(const SavedConversation& before, Question question, const Arguments& a) {
  if (before.held == nullptr || !question.conversation) return question;
  require(a.state.load.empty() || before.messages.is_array(),
          "{} was saved from plain text; leave out --chat and its like", a.state.load.string());
  Json all = before.messages.is_array() ? before.messages : Json::array();
  for (const Json& one : messages_of(question.conversation->messages, "the prompt")) all.push_back(one);
  question.conversation->messages = all.dump();
  return question;
}

GenerateRequest request_of(const Arguments& a, const Engine& engine, const Question& question,
                           const AttentionConfig& attention, const SavedConversation& before) {
  GenerateRequest request;
  if (before.held && !question.conversation) request.prompt_ids = before.held->ids();
  const std::vector<int32_t> asked = question.conversation ? engine.chat_prompt(*question.conversation)
                                                           : prompt_ids(engine, question.prompt, false);
  request.prompt_ids.insert(request.prompt_ids.end(), asked.begin(), asked.end());
  request.attention = attention;
  request.sampling = sampling_of(a.sampling);
  request.max_new_tokens = a.max_new_tokens;
  request.ignore_eos = a.ignore_eos;
  request.keep_logits = !a.dump_logits.empty();
  return request;
}

// Seconds beside those of reading and answering.
struct Loading {
  double model_s = 0;
  std::optional<double> state_s, save_s;  // where a state was loaded or saved
};

Json timings_json(const GenerateResult& result, const Loading& loading) {
  const auto after_first = static_cast<double>(result.ids.empty() ? 0 : result.ids.size() - 1);
  Json timings = {{"load_s", loading.model_s},
                  {"ttft_s", result.ttft_s},
                  {"decode_s", result.decode_s},
                  {"decode_tokens_per_s", ratio_json(after_first, result.decode_s)}};
  if (loading.state_s) timings["load_state_s"] = *loading.state_s;
  if (loading.save_s) timings["save_state_s"] = *loading.save_s;
  return timings;
}

Json report(const Engine& engine, const GenerateResult& result, const ResolvedAttention& attention,
            const Loading& loading) {
  return {{"model", to_json(engine.model())},
          {"prompt_tokens", result.prompt_tokens},
          {"held_tokens", result.held_tokens},
          {"text", result.text},
          {"ids", result.ids},
          {"finish", name_of(result.finish)},
          {"timings", timings_json(result, loading)},
          {"statistics", to_json(result.statistics)},
          {"memory", to_json(engine.memory())},
          {"attention", to_json(attention.config)},
          {"notes", attention.notes}};
}

// [[{"id": .., "text": .., "logprob": ..}, ..], ..]: of each token of the answer its own, then the likeliest.
Json logprobs_json(const Engine& engine, const GenerateResult& result) {
  Json tokens = Json::array();
  for (const std::vector<TokenLogprob>& token : result.logprobs) {
    Json& choices = tokens.emplace_back(Json::array());
    for (const TokenLogprob& one : token) {
      Json& choice = choices.emplace_back(Json{{"id", one.id}, {"logprob", one.logprob}});
      if (engine.model().has_tokenizer) choice["text"] = engine.detokenize({&one.id, 1}, false);
    }
  }
  return tokens;
}

void print_summary(const GenerateResult& result) {
  if (!stderr_is_terminal()) return;
  const double after_first = static_cast<double>(result.ids.size()) - 1;
  std::cerr << fmt::format("[{} prompt tokens, first token after {:.2f} s, {} tokens, {:.1f} tokens/s]\n",
                           result.prompt_tokens, result.ttft_s, result.ids.size(),
                           result.decode_s > 0 ? after_first / result.decode_s : 0.0);
}

// Streams the text unless ids must precede it.
GenerateResult answer(Engine& engine, Conversation* conversation, GenerateRequest& request, bool quiet) {
  AnswerStream stream(quiet);
  ProgressBar bar("reading the prompt");
  request.prefill_progress = bar.callback();
  const TokenCallback show = [&](const TokenEvent& event) {
    bar.clear();
    stream.print(event.text);
    check_interrupted();
    return true;
  };
  return conversation != nullptr ? conversation->answer(request, show) : engine.generate(request, show);
}

struct Answered {
  GenerateResult result;
  Json best_of;  // what it was chosen from, or null
};

Answered answer(const Arguments& a, Engine& engine, Conversation* conversation, GenerateRequest& request) {
  const bool quiet = a.print_ids || a.json;
  if (a.best_of == 1) return {.result = answer(engine, conversation, request, quiet), .best_of = {}};
  std::vector<GenerateResult> answers = several_answers(engine, request, a.best_of);
  Answered answered{.result = answers[likeliest(answers)], .best_of = best_of_json(answers)};
  AnswerStream(quiet).print(answered.result.text);
  return answered;
}

// With the answer, and the messages where there are some.
void save(const Question& question, const GenerateResult& result, SavedConversation& conversation,
          const std::filesystem::path& path) {
  conversation.messages = Json();
  if (question.conversation) {
    conversation.messages = messages_of(question.conversation->messages, "the prompt");
    conversation.messages.push_back(message("assistant", result.text));
  }
  save_conversation(conversation, path);
}

void save_logits(OutputFile& file, const GenerateResult& result) {
  const auto steps = static_cast<int64_t>(result.ids.size());
  const int64_t columns = steps == 0 ? 0 : static_cast<int64_t>(result.logits.size()) / steps;
  write_npy(file.stream(), result.logits, steps, columns);
  file.commit();
}

void run(Arguments& a) {
  check_model_options(a.engine);
  const AttentionConfig attention = attention_of(a.attention);
  Question question = read_question(a);
  const bool has_logprobs = sampling_of(a.sampling).logprobs.has_value();
  require(!has_logprobs || a.json, "--logprobs is given without --json, which shows them; add it");
  check_best_of(a);
  std::optional<OutputFile> logits_file;
  if (!a.dump_logits.empty()) logits_file.emplace(a.dump_logits);
  if (!a.state.save.empty()) (void)OutputFile(a.state.save);  // so that nothing is computed in vain

  const Stopwatch load_watch;
  const std::unique_ptr<Engine> engine = load_engine(a.engine);
  Loading loading{.model_s = load_watch.seconds(), .state_s = {}, .save_s = {}};
  const ResolvedAttention resolved = engine->resolve(attention);
  SavedConversation conversation;
  const Stopwatch state_watch;
  if (a.state.given()) conversation = open_conversation(*engine, attention, a.state.load);
  if (!a.state.load.empty()) loading.state_s = state_watch.seconds();
  question = after(conversation, std::move(question), a);
  GenerateRequest request = request_of(a, *engine, question, attention, conversation);
  KeyErrors key_errors(a.key_errors);
  if (a.key_errors > 0) request.observer = [&](const LayerObservation& seen) { key_errors.add(seen); };
  const auto [result, best_of] = answer(a, *engine, conversation.held.get(), request);
  if (a.key_errors > 0) key_errors.finish();
  if (!a.state.load.empty() && result.held_tokens == 0) {
    std::cerr
        << "what the state holds was read again: the prompt does not begin with it, or is the longer part\n";
  }
  if (!a.state.save.empty()) {
    const Stopwatch save_watch;
    save(question, result, conversation, a.state.save);
    loading.save_s = save_watch.seconds();
  }
  print_notes("attention", resolved.notes);
  if (logits_file) save_logits(*logits_file, result);
  if (a.json) {
    Json json = report(*engine, result, resolved, loading);
    if (has_logprobs) json["logprobs"] = logprobs_json(*engine, result);
    if (!best_of.is_null()) json["best_of"] = best_of;
    if (a.key_errors > 0) json["key_errors"] = key_errors.json();
    return print_json(json);
  }
  if (a.print_ids) std::cout << fmt::format("{}\n", fmt::join(result.ids, " ")) << result.text << "\n";
  print_summary(result);
}

}  // namespace

Command add_generate(CLI::App& root) {
  CLI::App& app = add_subcommand(
      root, "generate",
      "Answer one prompt. The text is continued as it is; with --chat it becomes a user's message in "
      "the model's chat format, as do the messages of --messages.");
  const auto arguments = std::make_shared<Arguments>();
  declare(app, *arguments);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
