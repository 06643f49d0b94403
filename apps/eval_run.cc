#include "eval_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <iostream>
#include <optional>

#include "base/bytes.h"
#include "base/check.h"
#include "base/suggest.h"
#include "engine_loading.h"
#include "eval/chart.h"
#include "eval/random.h"
#include "eval/report.h"
#include "eval/summary.h"
#include "interrupt.h"
#include "json_output.h"
#include "output_file.h"
#include "progress.h"
#include "table.h"

namespace shadowkv::apps {
namespace {

using eval::Percent;
using eval::Summary;

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M UTC", &utc)};
}

std::string shown(const Percent& p) {
  if (p.samples == 0) return "-";
  return fmt::format("{:.1f} ({:.1f}-{:.1f})", p.mean, p.interval.low, p.interval.high);
}

std::string scores_text(const Summary& summary, std::size_t length) {
  const int64_t tokens = summary.lengths()[length];
  std::vector<std::string> header{tokens > 0 ? fmt::format("{} tokens", eval::length_label(tokens)) : "task",
                                  "samples"};
  header.insert(header.end(), summary.methods().begin(), summary.methods().end());
  Table table(std::move(header));
  const auto add = [&](const std::string& name, int64_t samples, const auto& percent_of) {
    std::vector<std::string> row{name, fmt::format("{}", samples)};
    for (std::size_t m = 0; m < summary.methods().size(); ++m) row.push_back(shown(percent_of(m)));
    table.add(std::move(row));
  };
  for (std::size_t task = 0; task < summary.tasks().size(); ++task) {
    const int64_t samples = summary.cell(task, length, 0).samples;
    if (samples == 0) continue;
    add(summary.tasks()[task], samples, [&](std::size_t m) { return summary.cell(task, length, m); });
  }
  add("mean of the tasks", summary.average(length, 0).samples,
      [&](std::size_t m) { return summary.average(length, m); });
  return table.text() + "\n";
}

std::string differences_text(const Summary& summary) {
  Table table({fmt::format("less {}", summary.methods()[0]), "length", "points", "95 % interval", "better",
               "worse", "p", "device", "host", "ms/token"});
  for (std::size_t m = 0; m < summary.methods().size(); ++m) {
    for (std::size_t length = 0; length < summary.lengths().size(); ++length) {
      const eval::PairedDifference d = summary.difference(length, m);
      const Summary::Cost cost = summary.cost(length, m);
      const auto paired = [&](std::string text) { return m == 0 ? std::string("-") : std::move(text); };
      table.add({summary.methods()[m], eval::length_label(summary.lengths()[length]),
                 paired(fmt::format("{:+.2f}", d.mean)),
                 paired(fmt::format("{:+.2f} to {:+.2f}", d.interval.low, d.interval.high)),
                 paired(fmt::format("{}", d.better)), paired(fmt::format("{}", d.worse)),
                 paired(fmt::format("{:.3g}", d.p_value)),
                 format_bytes(static_cast<int64_t>(cost.device_bytes)),
                 format_bytes(static_cast<int64_t>(cost.host_bytes)),
                 fmt::format("{:.2f}", 1e3 * cost.token_seconds)});
    }
  }
  return table.text();
}

std::string counts_text(const eval::RunOutcome& outcome) {
  std::string text =
      fmt::format("\n{} prompts, hash {}", outcome.samples, eval::hash_text(outcome.prompts_hash));
  if (outcome.skipped > 0)
    text += fmt::format("; {} longer than the model's context were skipped", outcome.skipped);
  if (outcome.found > 0) text += fmt::format("; {} results were there already", outcome.found);
  return text + "\n";
}

Json percent_json(const Percent& p) {
  return {{"samples", p.samples}, {"mean", p.mean}, {"low", p.interval.low}, {"high", p.interval.high}};
}

Json lengths_json(const Summary& summary) {
  Json list = Json::array();
  for (std::size_t length = 0; length < summary.lengths().size(); ++length) {
    for (std::size_t m = 0; m < summary.methods().size(); ++m) {
      Json tasks = Json::object();
      for (std::size_t task = 0; task < summary.tasks().size(); ++task) {
        const Percent cell = summary.cell(task, length, m);
        if (cell.samples > 0) tasks[summary.tasks()[task]] = percent_json(cell);
      }
      const eval::PairedDifference d = summary.difference(length, m);
      const Summary::Cost cost = summary.cost(length, m);
      list.push_back({{"length", summary.lengths()[length]},
                      {"method", summary.methods()[m]},
                      {"tasks", tasks},
                      {"average", percent_json(summary.average(length, m))},
                      {"difference",
                       {{"mean", d.mean},
                        {"low", d.interval.low},
                        {"high", d.interval.high},
                        {"better", d.better},
                        {"worse", d.worse},
                        {"p_value", d.p_value}}},
                      {"held_bytes", {{"device", cost.device_bytes}, {"host", cost.host_bytes}}},
                      {"token_seconds", cost.token_seconds}});
    }
  }
  return list;
}

Json report_json(const Engine& engine, const EngineSubject& subject, const eval::RunOutcome& outcome) {
  return {{"model", to_json(engine.model())},
          {"run", subject.name()},
          {"samples", outcome.samples},
          {"skipped", outcome.skipped},
          {"found", outcome.found},
          {"prompts_hash", eval::hash_text(outcome.prompts_hash)},
          {"scores_percent", lengths_json(Summary(outcome.results))}};
}

struct Page {
  const EvalArguments& arguments;
  const std::string& title;
  const EngineSubject& subject;
  std::span<const NamedMethod> methods;
  const eval::RunOutcome& outcome;
  const std::vector<std::string>& figures;
};

std::string text_of(const Page& page) {
  const EvalArguments& a = page.arguments;
  const eval::RunOutcome& outcome = page.outcome;
  eval::ReportText text{fmt::format("{}: {}", page.title, page.subject.name()), {}, page.figures};
  text.facts = {{"model", (a.engine.shape.empty() ? a.engine.model.string() : a.engine.shape)},
                {"program", fmt::format("shadowkv {}", version())},
                {"date", today()},
                {"prompts", fmt::format("{}, seed {}, hash {}; {} skipped as longer than the model's context",
                                        outcome.samples, a.seed, eval::hash_text(outcome.prompts_hash),
                                        outcome.skipped)}};
  for (const NamedMethod& method : page.methods)
    text.facts.emplace_back(method.label, dump(to_json(method.config)));
  return eval::html_report(text, outcome.results);
}

// A bar where stderr is a terminal, else a line whenever the task changes.
class Reporter {
 public:
  explicit Reporter(std::string title) : title_(std::move(title)) {}
  void update(int64_t done, int64_t all, const std::string& task) {
    check_interrupted();
    if (task == task_ && !stderr_is_terminal()) return;
    if (stderr_is_terminal()) std::cerr << "\r\x1b[K";
    if (!task.empty()) std::cerr << fmt::format("{}: {} of {} samples, {}", title_, done, all, task);
    if (!stderr_is_terminal() && !task.empty()) std::cerr << "\n";
    std::cerr << std::flush;
    task_ = task;
  }

 private:
  std::string title_;
  std::string task_;
};

}  // namespace

void add_eval_options(CLI::App& app, EvalArguments& a) {
  add_text(app,
           {"--lengths", "TOKENS", "Tokens of prompt and answer together; several separated by commas", ""},
           a.lengths);
  add_whole(app, {"--seed", "NUMBER", "Of the samples: the same seed gives the same prompts", ""},
            {0, std::numeric_limits<int64_t>::max()}, a.seed);
  add_finished_eval_options(app, a);
}

void add_finished_eval_options(CLI::App& app, EvalArguments& a) {
  add_path(app,
           {"--data", "DIR",
            "Folder of texts and word lists, laid out as docs/ACCURACY.md says [default: none]", ""},
           a.data);
  add_whole(app, {"--samples", "COUNT", "Samples of each task and length", ""}, {1, 1'000'000}, a.samples);
  add_path(app,
           {"--out", "FILE",
            "JSON lines of all answers; what the file holds already is not asked again [default: none]", ""},
           a.out);
  add_path(app, {"--report", "FILE", "HTML page with tables and plots [default: none]", ""}, a.report);
  add_flag(app, {"--chat", "", "Ask within the model's chat format", ""}, a.chat);
  add_flag(app, {"--json", "", "Print one JSON object instead of the tables", ""}, a.json);
  add_model_options(app, a.engine);
  add_methods_option(app, a.methods);
}

std::vector<std::string> names_of(const std::string& text, const char* option,
                                  const std::vector<std::string>& known) {
  if (text == "all") return known;
  std::vector<std::string> names;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = std::min(rest.find(','), rest.size());
    if (end > 0) names.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  require(!names.empty(), "{} is empty; name some of {}", option, fmt::join(known, ", "));
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw InvalidInput(unknown_name(fmt::format("name in {}", option), name, known));
    }
  }
  return names;
}

std::vector<int64_t> lengths_of(const EvalArguments& a) {
  return parse_wholes(a.lengths, "--lengths", {64, kMostTokens});
}

void run_eval(EvalArguments& a, const EvalRun& run, const MakeSource& make_source) {
  check_model_options(a.engine);
  std::vector<NamedMethod> methods = methods_of(a.methods);
  eval::ResultFile file = a.out.empty() ? eval::ResultFile() : eval::ResultFile(a.out);
  std::optional<OutputFile> page;
  if (!a.report.empty()) page.emplace(a.report);
  const std::unique_ptr<Engine> engine = load_engine(a.engine);
  require(engine->model().has_tokenizer,
          "an evaluation needs text, but the model has no tokenizer; add --tokenizer");
  resolve_methods(*engine, methods);
  EngineSubject subject(*engine, a.engine, methods, a.chat);
  const eval::CountTokens count = [&](const eval::Prompt& prompt) {
    check_interrupted();
    return static_cast<int64_t>(subject.encode(prompt).size());
  };
  Reporter reporter(run.title);
  const eval::RunOptions options{run.scoring, [&](int64_t done, int64_t all, const std::string& task) {
                                   reporter.update(done, all, task);
                                 }};
  const eval::RunOutcome outcome =
      eval::run_samples(make_source({count, engine->model().context}), subject, file, options);
  print_notes(methods);
  const std::vector<std::string> figures = run.figures ? run.figures(outcome) : std::vector<std::string>();
  if (page) {
    page->stream() << text_of({a, run.title, subject, methods, outcome, figures});
    page->commit();
  }
  if (a.json) return print_json(report_json(*engine, subject, outcome));
  if (!outcome.results.empty()) {
    const Summary summary(outcome.results);
    for (std::size_t length = 0; length < summary.lengths().size(); ++length)
      std::cout << scores_text(summary, length);
    std::cout << differences_text(summary);
  }
  std::cout << counts_text(outcome);
}

}  // namespace shadowkv::apps
