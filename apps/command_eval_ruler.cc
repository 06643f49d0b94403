// shadowkv eval ruler: the RULER benchmark, or finished samples from a file.
#include <fmt/format.h>

#include <fstream>
#include <memory>

#include "base/check.h"
#include "commands.h"
#include "eval/ruler.h"
#include "eval/sample_file.h"
#include "eval_run.h"
#include "output_file.h"

namespace shadowkv::apps {
namespace {

struct Arguments {
  EvalArguments shared;
  std::string tasks = "all";
  std::filesystem::path haystack;
  std::filesystem::path input;
  std::filesystem::path write_samples;
  std::string metric = "ruler";
  std::string edition = "current";
};

std::vector<std::string> tasks_of(const std::string& text) {
  return names_of(text, "--tasks", eval::ruler_tasks());
}

eval::Edition edition_of(const std::string& name) {
  require(name == "current" || name == "2024", "--edition is \"{}\"; known are current, 2024", name);
  return name == "2024" ? eval::Edition::y2024 : eval::Edition::current;
}

// All samples of a length before the next length, so that short ones are there early.
eval::SampleSource generated(const Arguments& a, const std::shared_ptr<eval::Corpus>& corpus,
                             const eval::CountTokens& count) {
  eval::SampleSource source;
  const eval::Edition edition = edition_of(a.edition);
  for (const int64_t length : lengths_of(a.shared)) {
    for (const std::string& task : tasks_of(a.tasks)) {
      for (int64_t index = 0; index < a.shared.samples; ++index) {
        source.emplace_back([=, seed = static_cast<uint64_t>(a.shared.seed)] {
          return eval::make_ruler({task, length, index, seed, edition, *corpus, count});
        });
      }
    }
  }
  return source;
}

eval::SampleSource from_file(const std::vector<eval::Sample>& samples) {
  eval::SampleSource source;
  for (const eval::Sample& sample : samples) source.emplace_back([sample] { return sample; });
  return source;
}

// Passes samples on and keeps them in a file.
eval::SampleSource kept(eval::SampleSource source, const std::shared_ptr<OutputFile>& file) {
  for (auto& make : source) {
    make = [inner = std::move(make), file] {
      eval::Sample sample = inner();
      file->stream() << eval::sample_line(sample);
      return sample;
    };
  }
  return source;
}

void run(Arguments& a) {
  check_model_options(a.shared.engine);
  EvalRun eval_run{"RULER", eval::parse_scoring(a.metric), {}};
  const std::vector<std::string> tasks = tasks_of(a.tasks);
  (void)edition_of(a.edition);
  (void)lengths_of(a.shared);
  if (!a.input.empty()) {
    const std::vector<eval::Sample> samples =
        eval::read_samples(a.input, {tasks.size() == 1 ? tasks.front() : std::string()});
    return run_eval(a.shared, eval_run, [&](const SourceModel&) { return from_file(samples); });
  }
  require(!a.shared.data.empty(), "no data is given; add --data DIR, or --input FILE with finished samples");
  const auto corpus = std::make_shared<eval::Corpus>(a.shared.data, a.haystack);
  for (const std::string& task : tasks) eval::check_data(task, *corpus);
  std::shared_ptr<OutputFile> kept_file;
  if (!a.write_samples.empty()) kept_file = std::make_shared<OutputFile>(a.write_samples);
  run_eval(a.shared, eval_run, [&](const SourceModel& model) {
    eval::SampleSource source = generated(a, corpus, model.count);
    return kept_file ? kept(std::move(source), kept_file) : source;
  });
  if (kept_file) kept_file->commit();
}

}  // namespace

Command add_eval_ruler(CLI::App& eval) {
  CLI::App& app =
      add_subcommand(eval, "ruler",
                     "Score methods on RULER's 13 tasks, made at any length by the model's own tokenizer, or "
                     "on finished samples.");
  const auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  add_text(
      app,
      {"--tasks", "NAMES",
       fmt::format("Tasks separated by commas: all, or some of {}", fmt::join(eval::ruler_tasks(), ", ")),
       ""},
      a.tasks);
  add_path(app,
           {"--input", "FILE",
            "Finished samples instead: JSON lines with input, outputs and task [default: none]", ""},
           a.input);
  add_path(app,
           {"--haystack", "FILE",
            "Text that fills the essay tasks [default: DIR/ruler/PaulGrahamEssays.json]", ""},
           a.haystack);
  add_path(app,
           {"--write-samples", "FILE", "Keep the samples that were made, for --input [default: none]", ""},
           a.write_samples);
  add_text(
      app,
      {"--metric", "NAME",
       "ruler: its string match; shadowkv: as the paper's code scores, for comparison with its tables", ""},
      a.metric);
  add_text(app,
           {"--edition", "NAME",
            "current, or 2024 for the layouts that most published figures come from (vt differs)", ""},
           a.edition);
  add_eval_options(app, a.shared);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
