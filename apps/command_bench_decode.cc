// shadowkv bench decode: milliseconds of decode steps over made-up state, what they move, and how far that is
// from what the machine gives.
#include <fmt/format.h>

#include <memory>
#include <utility>

#include "base/bytes.h"
#include "bench_needs.h"
#include "bench_report.h"
#include "bench_run.h"
#include "bench_stages.h"
#include "commands.h"
#include "engine_loading.h"
#include "progress.h"
#include "table.h"

namespace shadowkv::apps {
namespace {

struct Row {
  Cell cell = {};
  std::string method = {};
  std::string error = {};  // why it did not run; then the rest is empty
  StepTimes step{{0}};
  SessionStatistics statistics = {};   // of the timed steps; bytes held by the method
  std::array<int64_t, 2> all_bytes{};  // held by everything, weights included
  StepShares shares = {};
  StepNeeds needs = {};
  Roofline bound = {};
  std::array<double, kStages.size()> stage_s{};
  std::optional<double> forced_hits = {};
};

// Everything a row is made from.
struct Run {
  const BenchArguments& a;
  Engine& engine;
  const Ceilings& ceilings;
  const std::optional<SamplingParams>& sampling;
};

constexpr const char* kNotes =
    "ms/step is the median. GB/s, bound and roofline: what a step needs by count, at those ceilings.\n"
    "Stages: one step, ops one after the other with a mark after each, so that what overlaps in a timed\n"
    "step adds up here; on a GPU a mark adds about 3 us to an op.\n";

constexpr int64_t kCheckedSteps = 2;  // one before the timed ones, one after

int64_t growth_of(const BenchArguments& a) {
  return a.warmup + a.steps + kCheckedSteps + MadeUpBatch::kOpSteps;
}

// Of the timed steps: hits as counted, the host's share of the values from the bytes held there.
StepShares shares_of(const Run& run, const NamedMethod& method, const Row& row) {
  const SessionStatistics& s = row.statistics;
  const SequenceFootprint one = run.engine.footprint(method.config, row.cell.context + growth_of(run.a));
  const auto values = static_cast<double>((one.host + one.either) * row.cell.batch);
  return {.hits = s.chosen_chunks == 0
                      ? 1.0
                      : static_cast<double>(s.slot_hits) / static_cast<double>(s.chosen_chunks),
          .on_host = values == 0 ? 0.0 : std::min(1.0, static_cast<double>(s.held_bytes[1]) / values)};
}

Row measure(const Run& run, const NamedMethod& method, std::optional<double> forced, const Cell& cell) {
  MadeUpBatch batch(run.engine, {.config = &method.config,
                                 .cell = cell,
                                 .growth = growth_of(run.a),
                                 .forced_hits = forced,
                                 .sampling = run.sampling});
  Row row{.cell = {cell.context, batch.size()}, .method = method.label};
  batch.checked_step();
  for (int64_t s = 0; s < run.a.warmup; ++s) batch.step();
  const SessionStatistics before = batch.statistics();
  std::vector<double> ms;
  for (int64_t s = 0; s < run.a.steps; ++s) {
    const Stopwatch watch;
    batch.step();
    ms.push_back(1e3 * watch.seconds());
  }
  row.forced_hits = forced;
  row.step = StepTimes(std::move(ms));
  row.statistics = batch.statistics().since(before);
  row.all_bytes = run.engine.memory().held;
  batch.checked_step();
  row.stage_s = stage_seconds(batch.op_times());
  row.shares = shares_of(run, method, row);
  const NumberBytes bytes = number_bytes_of(run.a.engine);
  const ModelInfo& model = run.engine.model();
  row.needs = step_needs(model, sequence_needs(model, method.config, cell.context, bytes.compute),
                         row.cell.batch, row.shares, bytes.weight);
  row.bound = roofline(row.needs, run.ceilings);
  return row;
}

// What does not fit is a row that says so; the others still run.
Row measure_or_explain(const Run& run, const NamedMethod& method, std::optional<double> forced,
                       const Cell& cell) {
  try {
    return measure(run, method, forced, cell);
  } catch (const OutOfMemory& error) {
    return {.cell = cell, .method = method.label, .error = error.what()};
  }
}

double step_s(const Row& row) {
  return 1e-3 * row.step.median();
}

std::string hits_text(const Row& row) {
  if (row.statistics.chosen_chunks == 0) return "-";
  return percent(row.shares.hits) + (row.forced_hits ? " forced" : "");
}

// "45.1 (88.4 %)": GB/s and their share of the ceiling; a dash for nothing moved.
std::string rate_text(double bytes, double bound_s, const Row& row) {
  if (bytes == 0) return "-";
  return fmt::format("{} ({})", gigabytes(bytes / step_s(row)), percent(bound_s / step_s(row)));
}

// Which row it is.
std::vector<std::string> first_cells(const Row& row, const MethodNames& names) {
  return {names.of(row.method), fmt::format("{}", row.cell.context),
          row.cell.batch == 0 ? "auto" : fmt::format("{}", row.cell.batch)};
}

std::vector<std::string> measured_cells(const Row& row) {
  std::vector<std::string> cells;
  for (const double share : {0.5, 0.0, 1.0}) cells.push_back(fmt::format("{:.2f}", row.step.at(share)));
  cells.push_back(fmt::format("{:.1f}", static_cast<double>(row.cell.batch) / step_s(row)));
  for (const int64_t bytes : row.all_bytes) cells.push_back(format_bytes(bytes));
  cells.push_back(hits_text(row));
  cells.push_back(rate_text(row.needs.link_bytes, row.bound.link_s, row));
  cells.push_back(rate_text(row.needs.memory_bytes, row.bound.memory_s, row));
  cells.push_back(fmt::format("{:.2f}", 1e3 * row.bound.seconds()));
  cells.emplace_back(row.bound.bound());
  cells.push_back(percent(row.bound.seconds() / step_s(row)));
  return cells;
}

std::string table_of(const std::vector<Row>& rows, const MethodNames& names) {
  const std::vector<std::string> header = {"method",    "context",     "batch",    "ms/step", "min",
                                           "max",       "tok/s",       "device",   "host",    "slot hits",
                                           "link GB/s", "memory GB/s", "bound ms", "by",      "of roofline"};
  Table table(header);
  for (const Row& row : rows) {
    std::vector<std::string> cells = first_cells(row, names);
    if (row.error.empty()) {
      for (std::string& cell : measured_cells(row)) cells.push_back(std::move(cell));
    } else {
      cells.emplace_back("no room");
      cells.resize(header.size(), "-");
    }
    table.add(cells);
  }
  return table.text();
}

std::string stage_table_of(const std::vector<Row>& rows, const MethodNames& names) {
  std::vector<std::string> header = {"ms a stage", "context", "batch"};
  header.insert(header.end(), kStages.begin(), kStages.end());
  header.emplace_back("sum");
  Table table(header);
  for (const Row& row : rows) {
    if (!row.error.empty()) continue;
    std::vector<std::string> cells = first_cells(row, names);
    double sum = 0;
    for (const double seconds : row.stage_s) {
      cells.push_back(seconds == 0 ? "-" : fmt::format("{:.3f}", 1e3 * seconds));
      sum += seconds;
    }
    cells.push_back(fmt::format("{:.3f}", 1e3 * sum));
    table.add(cells);
  }
  return table.text();
}

std::string checks_text(const MethodNames& names, std::span<const NamedMethod> methods,
                        const std::vector<DecodeCheck>& checks) {
  std::string text;
  for (std::size_t i = 0; i < checks.size(); ++i) {
    text += fmt::format(
        "checked: {}: {} tokens decode as their exact prefill to {:.2f} % of the logits (limit {:.0f} %)\n",
        names.of(methods[i].label), checks[i].tokens, 100 * checks[i].error, 100 * checks[i].limit);
  }
  return text +
         "checked: in every row, before and after timing, logits are finite and two sequences of the "
         "same content agree\n";
}

std::string text_of(const Run& run, std::span<const NamedMethod> methods,
                    const std::vector<DecodeCheck>& checks, const std::vector<Row>& rows) {
  const MethodNames names(methods);
  std::string errors;
  for (const Row& row : rows) {
    if (!row.error.empty()) errors = "no room, for example: " + row.error + "\n";
  }
  return table_of(rows, names) + "\n" + stage_table_of(rows, names) + "\n" + names.legend() +
         checks_text(names, methods, checks) + ceilings_line(run.ceilings) + kNotes + errors;
}

Json row_json(const Row& row) {
  Json json = {{"context", row.cell.context}, {"batch", row.cell.batch}, {"method", row.method}};
  if (!row.error.empty()) {
    json["error"] = row.error;
    return json;
  }
  const double seconds = step_s(row);
  json["step_ms"] = to_json(row.step);
  json["tokens_per_s"] = static_cast<double>(row.cell.batch) / seconds;
  json["held_bytes"] = {{"device", row.all_bytes[0]}, {"host", row.all_bytes[1]}};
  json["slot_hit_share"] = row.statistics.chosen_chunks == 0 ? Json(nullptr) : Json(row.shares.hits);
  json["forced_hit_share"] = row.forced_hits ? Json(*row.forced_hits) : Json(nullptr);
  json["values_on_host_share"] = row.shares.on_host;
  json["link"] = {{"bytes_a_step", row.needs.link_bytes},
                  {"piece_bytes", row.needs.piece_bytes},
                  {"bytes_per_s", row.needs.link_bytes / seconds},
                  {"share_of_ceiling", row.bound.link_s / seconds}};
  json["memory"] = {{"bytes_a_step", row.needs.memory_bytes},
                    {"bytes_per_s", row.needs.memory_bytes / seconds},
                    {"share_of_ceiling", row.bound.memory_s / seconds}};
  json["products"] = {{"flop_a_step", row.needs.flops}, {"share_of_ceiling", row.bound.product_s / seconds}};
  json["roofline"] = {{"ms", 1e3 * row.bound.seconds()},
                      {"bound", row.bound.bound()},
                      {"share", row.bound.seconds() / seconds}};
  Json& stages = json["stage_ms"] = Json::object();
  for (std::size_t i = 0; i < kStages.size(); ++i) stages[std::string(kStages[i])] = 1e3 * row.stage_s[i];
  json["statistics"] = to_json(row.statistics);
  return json;
}

Json report(const Run& run, std::span<const NamedMethod> methods, const std::vector<DecodeCheck>& checks,
            const std::vector<Row>& rows) {
  Json json = head_json(run.engine, run.a);
  json["attention"] = attention_json(methods);
  json["ceilings"] = to_json(run.ceilings);
  Json& checked = json["checks"] = Json::object();
  for (std::size_t i = 0; i < checks.size(); ++i) {
    checked[methods[i].label] = {
        {"tokens", checks[i].tokens}, {"error", checks[i].error}, {"limit", checks[i].limit}};
  }
  Json& list = json["rows"] = Json::array();
  for (const Row& row : rows) list.push_back(row_json(row));
  return json;
}

void run_bench(BenchArguments& a) {
  check_model_options(a.engine);
  std::vector<NamedMethod> methods = bench_methods(a);
  const std::vector<Cell> cells = cells_of(a, true);
  const ForcedHits forced = forced_hits_of(a, methods.size());
  for (NamedMethod& method : methods) method.config = resolve(a.engine, method.config).config;
  const ModelInfo model = read_model_info(a.engine);
  check_cells(model, cells, growth_of(a));
  check_forced(methods, forced, cells);
  const std::optional<SamplingParams> sampling = sampling_of(a, model);
  BenchOutput output(a.json);
  const Ceilings ceilings = measure_ceilings(a.engine);
  const std::unique_ptr<Engine> engine = load_engine(a.engine);
  const Run run{a, *engine, ceilings, sampling};
  std::vector<DecodeCheck> checks;
  checks.reserve(methods.size());
  for (const NamedMethod& method : methods) checks.push_back(check_decode(*engine, method));
  std::vector<Row> rows;
  rows.reserve(cells.size() * methods.size());
  for (const Cell& cell : cells) {
    for (std::size_t m = 0; m < methods.size(); ++m) {
      rows.push_back(measure_or_explain(run, methods[m], forced[m], cell));
    }
  }
  print_notes(methods);
  output.print(report(run, methods, checks, rows), text_of(run, methods, checks, rows));
}

}  // namespace

Command add_bench_decode(CLI::App& bench) {
  CLI::App& app = add_subcommand(
      bench, "decode",
      "Time decode steps over made-up state, against what this machine's memories and link give.");
  const auto arguments = std::make_shared<BenchArguments>();
  add_model_options(app, arguments->engine);
  add_methods_options(app, *arguments);
  add_cell_options(app, *arguments, true);
  add_hit_rate_option(app, *arguments);
  add_sampling_option(app, *arguments);
  add_step_options(app, *arguments, 2);
  add_json_option(app, arguments->json);
  return {&app, [arguments] { run_bench(*arguments); }};
}

}  // namespace shadowkv::apps
