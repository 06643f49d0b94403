// shadowkv fidelity: how far a method's next-token distributions are from exact attention's on real text.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>

#include "base/bytes.h"
#include "base/check.h"
#include "commands.h"
#include "divergence.h"
#include "engine_loading.h"
#include "interrupt.h"
#include "json_output.h"
#include "layer_scores.h"
#include "methods.h"
#include "output_file.h"
#include "progress.h"
#include "prompt.h"
#include "table.h"

namespace shadowkv::apps {
namespace {

struct Arguments {
  EngineOptions engine;
  std::vector<std::string> texts;
  MethodsArguments methods{{}, "full;shadow;paper"};
  int64_t prefill_tokens = 0;
  int64_t steps = 128;
  int64_t layers_every = 0;
  std::filesystem::path layers_svg;
  bool json = false;
};

// Gathered over all texts, of one method.
struct Score {
  Divergences divergences;
  double loss = 0;     // sum over steps of -log p(the text's token), nats
  double seconds = 0;  // in decode
  int64_t steps = 0;
  std::array<int64_t, 2> held{};  // bytes after the last step, summed over texts
  int64_t held_tokens = 0;        // summed likewise
};

struct Scores {
  std::vector<Score> methods;
  LayerScores layers;
};

struct TextIds {
  std::string file;
  std::vector<int32_t> ids;
  int64_t prefill = 0;  // tokens read before the first step
};

// The prompt, the tokens fed one by one, and one more to score the last distribution with.
TextIds read_text(const Engine& engine, const Arguments& a, const std::string& file) {
  const std::string text = read_text_file(file, "--text");
  require_utf8(text, file);
  TextIds result{file, engine.tokenize(text), a.prefill_tokens};
  const auto have = static_cast<int64_t>(result.ids.size());
  if (result.prefill == 0) result.prefill = std::max<int64_t>(have - a.steps - 1, 1);
  require(result.prefill + a.steps + 1 <= have,
          "{} has {} tokens, but {} read and {} steps need {}; lower --prefill-tokens or --steps", file, have,
          result.prefill, a.steps, result.prefill + a.steps + 1);
  return result;
}

// Every method takes each step before the next: only one row of each is held.
void score_text(Engine& engine, const Arguments& a, const TextIds& text, std::span<const NamedMethod> methods,
                Scores& all) {
  std::vector<Score>& scores = all.methods;
  const std::unique_ptr<Session> session = engine.open(configs_of(methods));
  const std::span<const int32_t> ids(text.ids);
  const auto first = static_cast<std::size_t>(text.prefill), steps = static_cast<std::size_t>(a.steps);
  const PrefillResult read = prefill_with_bar(*session, ids.first(first), text.prefill + a.steps);
  ProgressBar bar(fmt::format("scoring {}", text.file));
  for (std::size_t s = 0; s < steps; ++s) {
    const SequenceToken token{read.sequence, ids[first + s]};
    std::vector<double> reference;
    all.layers.begin_step(*session, static_cast<int64_t>(s));
    for (std::size_t m = 0; m < methods.size(); ++m) {
      check_interrupted();
      const Stopwatch watch;
      const std::vector<float> logits = session->decode(static_cast<int64_t>(m), {&token, 1});
      scores[m].seconds += watch.seconds();
      const std::vector<double> row = log_probabilities(logits);
      if (m == 0) reference = row;
      scores[m].divergences.add(reference, row);
      scores[m].loss -= row.at(static_cast<std::size_t>(ids[first + s + 1]));
      scores[m].steps += 1;
    }
    bar.update(static_cast<double>(s) / static_cast<double>(steps));
  }
  for (std::size_t m = 0; m < methods.size(); ++m) {
    const SessionStatistics statistics = session->statistics(static_cast<int64_t>(m));
    for (std::size_t tier = 0; tier < 2; ++tier) scores[m].held[tier] += statistics.held_bytes[tier];
    scores[m].held_tokens += text.prefill + a.steps;
  }
}

double perplexity(const Score& score) {
  return std::exp(score.loss / static_cast<double>(score.steps));
}
double step_ms(const Score& score) {
  return 1e3 * score.seconds / static_cast<double>(score.steps);
}
int64_t per_1k(const Score& score, std::size_t tier) {
  return static_cast<int64_t>(1024.0 * static_cast<double>(score.held[tier]) /
                              static_cast<double>(score.held_tokens));
}

std::string table_of(std::span<const NamedMethod> methods, const std::vector<Score>& scores) {
  Table table({"method", "mean KL", "median", "p90", "p99", "max", "same top", "perplexity", "ratio",
               "ms/step", "device / 1K", "host / 1K"});
  const auto kl = [](double value) { return fmt::format("{:.5f}", value); };
  for (std::size_t m = 0; m < methods.size(); ++m) {
    const DivergenceSummary s = scores[m].divergences.summary();
    table.add({methods[m].label, kl(s.mean), kl(s.median), kl(s.p90), kl(s.p99), kl(s.max),
               fmt::format("{:.2f} %", 100 * s.same_top), fmt::format("{:.3f}", perplexity(scores[m])),
               fmt::format("{:.4f}", perplexity(scores[m]) / perplexity(scores[0])),
               fmt::format("{:.2f}", step_ms(scores[m])), format_bytes(per_1k(scores[m], 0)),
               format_bytes(per_1k(scores[m], 1))});
  }
  return table.text() +
         fmt::format("\nKL({} || method) in nats over {} steps of the text; bytes a 1,024 tokens held.\n",
                     methods[0].label, scores[0].steps);
}

Json report(const Engine& engine, const std::vector<TextIds>& texts, std::span<const NamedMethod> methods,
            const Scores& all) {
  const std::vector<Score>& scores = all.methods;
  Json list = Json::array();
  for (std::size_t m = 0; m < methods.size(); ++m) {
    list.push_back(
        {{"method", methods[m].label},
         {"kl_nats", to_json(scores[m].divergences.summary())},
         {"perplexity", perplexity(scores[m])},
         {"perplexity_ratio", perplexity(scores[m]) / perplexity(scores[0])},
         {"step_ms", step_ms(scores[m])},
         {"bytes_per_1024_tokens", {{"device", per_1k(scores[m], 0)}, {"host", per_1k(scores[m], 1)}}},
         {"attention", to_json(methods[m].config)},
         {"notes", methods[m].notes}});
    if (all.layers.any()) list.back()["attention_of_layers"] = all.layers.json(m);
  }
  Json files = Json::array();
  for (const TextIds& text : texts) {
    files.push_back({{"file", text.file}, {"tokens", text.ids.size()}, {"prefill_tokens", text.prefill}});
  }
  return {{"model", to_json(engine.model())},
          {"texts", files},
          {"steps", scores[0].steps},
          {"reference", methods[0].label},
          {"methods", list}};
}

void run(Arguments& a) {
  check_model_options(a.engine);
  std::vector<NamedMethod> methods = methods_of(a.methods);
  require(!a.texts.empty(), "no text is given; add --text FILE");
  require(a.layers_svg.empty() || a.layers_every > 0,
          "--layers-svg is given without --layers-every; say how often layers are looked at");
  Scores scores{.methods = std::vector<Score>(methods.size()), .layers = {a.layers_every, methods}};
  for (const std::string& file : a.texts) require_utf8(read_text_file(file, "--text"), file);
  const std::unique_ptr<Engine> engine = load_engine(a.engine);
  resolve_methods(*engine, methods);
  std::vector<TextIds> texts;
  texts.reserve(a.texts.size());
  for (const std::string& file : a.texts) texts.push_back(read_text(*engine, a, file));
  std::unique_ptr<OutputFile> svg;
  if (!a.layers_svg.empty()) svg = std::make_unique<OutputFile>(a.layers_svg);
  for (const TextIds& text : texts) score_text(*engine, a, text, methods, scores);
  print_notes(methods);
  if (svg) {
    svg->stream() << scores.layers.svg();
    svg->commit();
  }
  if (a.json) return print_json(report(*engine, texts, methods, scores));
  std::cout << table_of(methods, scores.methods);
  if (scores.layers.any()) std::cout << "\n" << scores.layers.table();
}

}  // namespace

Command add_fidelity(CLI::App& parent) {
  CLI::App& app = add_subcommand(parent, "fidelity",
                                 "Measure how far methods are from the first one (full unless said "
                                 "otherwise) on real text: after one exact prefill each method is "
                                 "fed the text's next tokens and its predictions are compared.");
  const auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  app.add_option_function<std::vector<std::string>>(
         "--text", [&a](const std::vector<std::string>& files) { a.texts = files; },
         "Text in UTF-8 to measure on; several files or repeated")
      ->option_text("FILE ... [default: none; at least one is needed]");
  add_whole(app,
            {"--prefill-tokens", "TOKENS",
             "Tokens of each text read before the first step; 0: all but the steps", ""},
            {0, kMostTokens}, a.prefill_tokens);
  add_whole(app, {"--steps", "TOKENS", "Tokens of each text fed and compared one by one, at least 1", ""},
            {1, kMostTokens}, a.steps);
  add_whole(app,
            {"--layers-every", "STEPS",
             "Look into every layer each so many steps: the share of exact attention's weight that a method "
             "attends, "
             "and its output's error; 0: never. full must be the first method",
             ""},
            {0, kMostTokens}, a.layers_every);
  add_path(app,
           {"--layers-svg", "FILE",
            "Write heat maps of the attended weight by layer and KV head [default: none]", ""},
           a.layers_svg);
  add_model_options(app, a.engine);
  add_methods_option(app, a.methods);
  add_flag(app, {"--json", "", "Print one JSON object instead of the table", ""}, a.json);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
