// shadowkv compare: several methods answer the same prompt from one exact prefill.
#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>

#include "answer_stream.h"
#include "base/bytes.h"
#include "base/check.h"
#include "commands.h"
#include "divergence.h"
#include "engine_loading.h"
#include "interrupt.h"
#include "json_output.h"
#include "methods.h"
#include "progress.h"
#include "prompt.h"
#include "table.h"

namespace shadowkv::apps {
namespace {

struct Arguments {
  EngineOptions engine;
  PromptArguments prompt;
  std::filesystem::path document;
  std::string question;
  MethodsArguments methods{{}, "full;shadow;paper"};
  int64_t max_new_tokens = 64;
  bool chat = false, ignore_eos = false, json = false;
};

struct Answer {
  std::vector<int32_t> ids;
  std::string text;
  double decode_s = 0;  // all tokens after the first
  SessionStatistics statistics;
  int64_t same_tokens = 0;   // leading tokens equal to the reference's answer
  DivergenceSummary forced;  // against the reference, along its answer; no steps for the reference itself
};

// One prompt in one session. The session's methods are those compared, then again all but the reference,
// which follow the reference's answer instead of their own.
class Comparison {
 public:
  Comparison(Engine& engine, const Arguments& arguments, std::vector<NamedMethod> methods)
      : engine_(engine), arguments_(arguments), methods_(std::move(methods)), answers_(methods_.size()) {
    const auto exact = [](const NamedMethod& method) { return method.config.method == Method::full; };
    const auto found = std::find_if(methods_.begin(), methods_.end(), exact);
    if (found != methods_.end()) reference_ = static_cast<std::size_t>(found - methods_.begin());
  }

  void run(std::span<const int32_t> prompt) {
    std::vector<AttentionConfig> configs = configs_of(methods_);
    for (std::size_t i = 0; i < methods_.size(); ++i) {
      if (i != reference_) configs.push_back(methods_[i].config);
    }
    session_ = engine_.open(configs);
    prompt_tokens_ = static_cast<int64_t>(prompt.size());
    prefill_ = prefill_with_bar(*session_, prompt, prompt_tokens_ + arguments_.max_new_tokens);
    answer(reference_);
    for (std::size_t i = 0; i < methods_.size(); ++i) {
      if (i != reference_) answer(i);
    }
    std::size_t follower = methods_.size();
    for (std::size_t i = 0; i < methods_.size(); ++i) {
      if (i != reference_) follow(i, follower++);
    }
  }

  [[nodiscard]] std::span<const NamedMethod> methods() const { return methods_; }
  [[nodiscard]] std::string table() const;
  [[nodiscard]] Json report() const;

 private:
  // Generates greedily under method i, streaming; the reference keeps its log probabilities.
  void answer(std::size_t i) {
    Answer& own = answers_[i];
    AnswerStream stream(arguments_.json);
    if (!arguments_.json) std::cout << fmt::format("== {} ==\n", methods_[i].label);
    const auto detokenize = text_of_ids();
    std::vector<float> logits = prefill_.logits;
    const Stopwatch watch;
    for (;;) {
      const auto token = static_cast<int32_t>(argmax(logits));
      own.ids.push_back(token);
      emit(own, stream, detokenize(token));
      const bool ended = engine_.is_eos(token) && !arguments_.ignore_eos;
      if (ended || static_cast<int64_t>(own.ids.size()) == arguments_.max_new_tokens) break;
      logits = step(i, token);
      if (i == reference_) rows_.push_back(logits);
    }
    own.decode_s = watch.seconds();
    emit(own, stream, detokenize(-1));
    own.statistics = session_->statistics(static_cast<int64_t>(i));
    const std::vector<int32_t>& wanted = answers_[reference_].ids;
    const auto differ = std::mismatch(own.ids.begin(), own.ids.end(), wanted.begin(), wanted.end());
    own.same_tokens = differ.first - own.ids.begin();
  }

  // Feeds the reference's answer to the session's method `follower` and compares every distribution.
  void follow(std::size_t i, std::size_t follower) {
    ProgressBar bar(fmt::format("comparing {}", methods_[i].label));
    Divergences divergences;
    for (std::size_t s = 0; s < rows_.size(); ++s) {
      const std::vector<double> other = log_probabilities(step(follower, answers_[reference_].ids[s]));
      divergences.add(log_probabilities(rows_[s]), other);
      bar.update(static_cast<double>(s) / static_cast<double>(rows_.size()));
    }
    answers_[i].forced = divergences.summary();
  }

  std::vector<float> step(std::size_t method, int32_t token) {
    check_interrupted();
    const SequenceToken one{prefill_.sequence, token};
    return session_->decode(static_cast<int64_t>(method), {&one, 1});
  }

  // Ids stand for text when the model has no tokenizer.
  [[nodiscard]] std::function<std::string(int32_t)> text_of_ids() const {
    if (engine_.model().has_tokenizer) return engine_.streaming_detokenizer();
    return [](int32_t id) { return id < 0 ? std::string() : fmt::format("{} ", id); };
  }

  static void emit(Answer& own, AnswerStream& stream, const std::string& piece) {
    own.text += piece;
    stream.print(piece);
  }

  Engine& engine_;
  const Arguments& arguments_;
  std::vector<NamedMethod> methods_;
  std::vector<Answer> answers_;  // by method
  std::size_t reference_ = 0;
  std::unique_ptr<Session> session_;
  PrefillResult prefill_;
  int64_t prompt_tokens_ = 0;
  std::vector<std::vector<float>> rows_;  // [steps][vocab]: the reference's logits after its first token
};

double rate(const Answer& answer) {
  const auto after_first = static_cast<double>(answer.ids.size()) - 1;
  return answer.decode_s > 0 ? after_first / answer.decode_s : 0.0;
}

std::string percent(double part, double whole) {
  return whole > 0 ? fmt::format("{:.1f} %", 100 * part / whole) : "-";
}

std::string Comparison::table() const {
  Table table({"method", "first token", "tokens/s", "device", "host", "attended", "slot hits", "same tokens",
               "same top", "mean KL"});
  for (std::size_t i = 0; i < methods_.size(); ++i) {
    const Answer& a = answers_[i];
    const SessionStatistics& s = a.statistics;
    const bool forced = a.forced.steps > 0;
    table.add({methods_[i].label, fmt::format("{:.2f} s *", prefill_.seconds), fmt::format("{:.2f}", rate(a)),
               format_bytes(s.held_bytes[0]), format_bytes(s.held_bytes[1]),
               percent(s.attended_tokens, static_cast<double>(s.context_tokens)),
               percent(static_cast<double>(s.slot_hits), static_cast<double>(s.chosen_chunks)),
               i == reference_ ? "reference"
                               : fmt::format("{} of {}", a.same_tokens, answers_[reference_].ids.size()),
               forced ? percent(a.forced.same_top, 1) : "-",
               forced ? fmt::format("{:.5f}", a.forced.mean) : "-"});
  }
  return table.text() +
         fmt::format(
             "\n* one exact prefill of {} tokens, shared by all methods. Same tokens: of the method's own "
             "answer, before it first differs\nfrom {}. Same top and mean KL (nats): every next-token "
             "distribution along {}'s answer.\n",
             prompt_tokens_, methods_[reference_].label, methods_[reference_].label);
}

Json Comparison::report() const {
  Json list = Json::array();
  for (std::size_t i = 0; i < methods_.size(); ++i) {
    const Answer& a = answers_[i];
    list.push_back({{"method", methods_[i].label},
                    {"text", a.text},
                    {"ids", a.ids},
                    {"timings", {{"decode_s", a.decode_s}, {"decode_tokens_per_s", rate(a)}}},
                    {"statistics", to_json(a.statistics)},
                    {"agreement", {{"same_tokens", a.same_tokens}, {"forced", to_json(a.forced)}}},
                    {"attention", to_json(methods_[i].config)},
                    {"notes", methods_[i].notes}});
  }
  return {{"model", to_json(engine_.model())},
          {"prompt_tokens", prompt_tokens_},
          {"prefill_s", prefill_.seconds},
          {"reference", methods_[reference_].label},
          {"methods", list},
          {"memory", to_json(engine_.memory())}};
}

// A document and a question about it make one user's message.
Prompt prompt_of(const Arguments& a) {
  if (a.document.empty()) {
    require(a.question.empty(), "--question needs the text it asks about; add --document FILE");
    return read_prompt(a.prompt);
  }
  require(!a.prompt.given(), "both --document and a prompt are given; choose one");
  require(!a.question.empty(), "--document needs a question; add --question \"...\"");
  Prompt prompt{read_text_file(a.document, "--document") + "\n\n" + a.question, {}};
  require_utf8(prompt.text, "the document or the question");
  return prompt;
}

void run(Arguments& a) {
  check_model_options(a.engine);
  std::vector<NamedMethod> methods = methods_of(a.methods);
  const Prompt prompt = prompt_of(a);
  const bool chat = a.chat || !a.document.empty();
  require(!a.chat || prompt.ids.empty(), "--chat frames text, but --prompt-ids gives ids; drop one of them");
  const std::unique_ptr<Engine> engine = load_engine(a.engine);
  resolve_methods(*engine, methods);
  Comparison comparison(*engine, a, std::move(methods));
  comparison.run(prompt_ids(*engine, prompt, chat));
  print_notes(comparison.methods());
  if (a.json) return print_json(comparison.report());
  std::cout << "\n" << comparison.table();
}

}  // namespace

Command add_compare(CLI::App& root) {
  CLI::App& app = add_subcommand(root, "compare",
                                 "Let several methods answer one prompt from one exact prefill, and "
                                 "say what each costs and where it differs.");
  const auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  add_prompt_options(app, a.prompt, true);
  const std::string group = "Text";
  add_path(app,
           {"--document", "FILE",
            "A text to ask about; with --question it becomes one chat message [default: none]", group},
           a.document);
  add_text(app, {"--question", "TEXT", "The question about the document [default: none]", group}, a.question);
  add_flag(app, {"--chat", "", "Put the prompt into the model's chat format as a user's message", group},
           a.chat);
  add_model_options(app, a.engine);
  add_methods_option(app, a.methods);
  add_whole(app, {"-n,--max-new-tokens", "TOKENS", "Most tokens each method generates, at least 1", ""},
            {1, 1'000'000}, a.max_new_tokens);
  add_flag(app, {"--ignore-eos", "", "Go on where the model would end its answer", ""}, a.ignore_eos);
  add_flag(app, {"--json", "", "Print one JSON object instead of answers and table", ""}, a.json);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
