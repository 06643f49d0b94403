// shadowkv eval longbench: LongBench's tasks, from its own files or from finished prompts.
#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "base/check.h"
#include "commands.h"
#include "eval/longbench.h"
#include "eval_run.h"

namespace shadowkv::apps {
namespace {

struct Arguments {
  EvalArguments shared;
  std::string tasks = "all";
  std::filesystem::path input;
  std::filesystem::path layouts;
  int64_t longer_than = 0;
};

constexpr int64_t kAllSamples = 500;  // no task has more

using Layouts = std::map<std::string, std::string>;

std::filesystem::path folder_of(const Arguments& a) {
  if (!a.input.empty()) return a.input;
  require(!a.shared.data.empty(),
          "no data is given; add --input DIR with TASK.jsonl in it, or --data DIR with the folder "
          "longbench_mini");
  return a.shared.data / "longbench_mini";
}

// "all": those whose files are there.
std::vector<std::string> tasks_of(const Arguments& a, const std::filesystem::path& folder) {
  std::vector<std::string> tasks = names_of(a.tasks, "--tasks", eval::longbench_tasks());
  if (a.tasks != "all") return tasks;
  std::erase_if(
      tasks, [&](const std::string& task) { return !std::filesystem::exists(folder / (task + ".jsonl")); });
  require(!tasks.empty(), "{} holds no TASK.jsonl; known tasks are {}", folder.string(),
          fmt::join(eval::longbench_tasks(), ", "));
  return tasks;
}

std::vector<eval::Sample> read_all(const Arguments& a) {
  const std::filesystem::path folder = folder_of(a);
  const Layouts layouts = a.layouts.empty() ? Layouts() : eval::read_layouts(a.layouts);
  std::vector<eval::Sample> all;
  for (const std::string& task : tasks_of(a, folder)) {
    std::vector<eval::Sample> samples = eval::read_longbench(folder, task, layouts);
    if (eval::counts_characters(task))
      std::cerr << fmt::format(
          "note: {} counts characters, where the benchmark counts words of a dictionary\n", task);
    all.insert(all.end(), samples.begin(), samples.end());
  }
  return all;
}

// So many samples of each task that are long enough, cut where the model's context ends.
eval::SampleSource source_of(const Arguments& a, const std::vector<eval::Sample>& samples,
                             const SourceModel& model) {
  eval::SampleSource source;
  std::map<std::string, int64_t> taken;
  for (const eval::Sample& sample : samples) {
    if (taken[sample.task] >= a.shared.samples) continue;
    if (a.longer_than > 0 && model.count(sample.prompt) <= a.longer_than) continue;
    ++taken[sample.task];
    source.emplace_back([sample, model] {
      eval::Sample cut = sample;
      cut.prompt = eval::cut_middle(sample.prompt, model.context - sample.max_new_tokens, model.count);
      return cut;
    });
  }
  require(!source.empty(), "no sample is longer than {} tokens; lower --longer-than", a.longer_than);
  return source;
}

void run(Arguments& a) {
  check_model_options(a.shared.engine);
  const std::vector<eval::Sample> samples = read_all(a);
  run_eval(a.shared, {"LongBench", eval::Scoring::ruler, {}},
           [&](const SourceModel& model) { return source_of(a, samples, model); });
}

}  // namespace

Command add_eval_longbench(CLI::App& eval) {
  CLI::App& app = add_subcommand(
      eval, "longbench",
      "Score methods on LongBench's 21 tasks: questions, summaries, examples, retrieval, code.");
  const auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  a.shared.samples = kAllSamples;
  add_text(app,
           {"--tasks", "NAMES",
            fmt::format("Tasks separated by commas: all that are there, or some of {}",
                        fmt::join(eval::longbench_tasks(), ", ")),
            ""},
           a.tasks);
  add_path(app,
           {"--input", "DIR", "Folder of TASK.jsonl files [default: longbench_mini in that of --data]", ""},
           a.input);
  add_path(
      app,
      {"--layouts", "FILE",
       "dataset2prompt.json of the benchmark, for files that hold no finished prompts [default: none]", ""},
      a.layouts);
  add_whole(app, {"--longer-than", "TOKENS", "Only samples whose prompts are longer", ""}, {0, kMostTokens},
            a.longer_than);
  add_finished_eval_options(app, a.shared);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
