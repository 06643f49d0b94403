// shadowkv eval kv: one value out of a JSON object of random UUID pairs.
#include <fmt/format.h>

#include <memory>

#include "commands.h"
#include "eval/key_values.h"
#include "eval_run.h"

namespace shadowkv::apps {
namespace {

struct Arguments {
  EvalArguments shared;
  std::string pairs = "fit";
};

// Each 0 where the length decides.
std::vector<int64_t> pairs_of(const Arguments& a) {
  if (a.pairs == "fit") return {0};
  return parse_wholes(a.pairs, "--pairs", {2, 10'000'000});
}

eval::SampleSource source_of(const Arguments& a, const std::shared_ptr<eval::Corpus>& corpus,
                             const eval::CountTokens& count) {
  eval::SampleSource source;
  const auto add = [&](const std::string& task, int64_t pairs, int64_t length) {
    for (int64_t index = 0; index < a.shared.samples; ++index) {
      source.emplace_back([=, seed = static_cast<uint64_t>(a.shared.seed)] {
        return eval::make_key_values(pairs,
                                     {task, length, index, seed, eval::Edition::current, *corpus, count});
      });
    }
  };
  for (const int64_t pairs : pairs_of(a)) {
    if (pairs > 0) {
      add(fmt::format("kv of {} pairs", pairs), pairs, 0);
      continue;
    }
    for (const int64_t length : lengths_of(a.shared)) add("kv", 0, length);
  }
  return source;
}

void run(Arguments& a) {
  check_model_options(a.shared.engine);
  (void)pairs_of(a);
  (void)lengths_of(a.shared);
  const auto corpus = std::make_shared<eval::Corpus>(a.shared.data);
  run_eval(a.shared, {"Key-value retrieval", eval::Scoring::ruler, {}},
           [&](const SourceModel& model) { return source_of(a, corpus, model.count); });
}

}  // namespace

Command add_eval_kv(CLI::App& eval) {
  CLI::App& app =
      add_subcommand(eval, "kv",
                     "Ask for one value of a JSON object of random UUID pairs: InfiniteBench's Retrieve.KV, "
                     "and the sizes of HELMET's JSON-KV.");
  const auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  a.shared.samples = 12;
  add_text(app,
           {"--pairs", "COUNT",
            "fit: as many as each length holds; or numbers: HELMET has 105,220,440,900, InfiniteBench "
            "2500",
            ""},
           a.pairs);
  add_eval_options(app, a.shared);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
