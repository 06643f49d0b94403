// shadowkv bench prefill: seconds of reading prompts of random tokens and the index's share of them, and
// milliseconds of decoding after them.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/bytes.h"
#include "bench_report.h"
#include "bench_run.h"
#include "bench_stages.h"
#include "commands.h"
#include "engine_loading.h"
#include "interrupt.h"
#include "progress.h"
#include "table.h"

namespace shadowkv::apps {
namespace {

struct Row {
  Cell cell = {};
  std::string method = {};
  std::string error = {};  // why it did not run; then the rest is empty
  double prefill_s = 0;    // of the whole batch, shared by the methods
  double index_s = 0;      // of it, building what all methods keep beside exact keys and values
  StepTimes step{{0}};
  SessionStatistics statistics = {};
};

StepTimes time_steps(Session& session, int64_t method, const BenchArguments& a,
                     std::vector<SequenceToken> batch, TokenSource& tokens) {
  std::vector<double> times;
  for (int64_t s = 0; s < a.warmup + a.steps; ++s) {
    check_interrupted();
    for (SequenceToken& one : batch) one.token = tokens.next();
    const Stopwatch watch;
    (void)session.decode_greedy(method, batch);
    if (s >= a.warmup) times.push_back(1e3 * watch.seconds());
  }
  return StepTimes(std::move(times));
}

// Reads a prompt of the same length, or its first part where that is long, and forgets it: kernels are loaded
// then and ways to compute are chosen.
void warm_up(Session& session, const Cell& cell, TokenSource& tokens) {
  constexpr int64_t kMostTokens = 16384;
  const int64_t count = std::min(cell.context, kMostTokens);
  const SequenceId id = session.add(count);
  (void)session.prefill(id, tokens.take(count));
  session.remove(id);
}

std::vector<Row> measure(Engine& engine, const BenchArguments& a, const Cell& cell,
                         std::span<const NamedMethod> methods) {
  TokenSource tokens(engine.model().vocab_size);
  const std::unique_ptr<Session> session = engine.open(configs_of(methods));
  std::vector<SequenceToken> batch;
  double prefill_s = 0;
  if (a.warmup > 0) warm_up(*session, cell, tokens);
  session->time_ops(true);
  for (int64_t i = 0; i < cell.batch; ++i) {
    const std::vector<int32_t> ids = tokens.take(cell.context);
    const PrefillResult read = prefill_with_bar(*session, ids, cell.context + a.warmup + a.steps);
    batch.push_back({read.sequence, 0});
    prefill_s += read.seconds;
  }
  const double index_s = index_seconds(session->op_times());
  session->time_ops(false);
  std::vector<Row> rows;
  for (std::size_t m = 0; m < methods.size(); ++m) {
    const auto method = static_cast<int64_t>(m);
    Row row{.cell = cell, .method = methods[m].label, .prefill_s = prefill_s, .index_s = index_s};
    row.step = time_steps(*session, method, a, batch, tokens);
    row.statistics = session->statistics(method);
    rows.push_back(std::move(row));
  }
  return rows;
}

// What does not fit is a row that says so; the others still run.
std::vector<Row> measure_or_explain(Engine& engine, const BenchArguments& a, const Cell& cell,
                                    std::span<const NamedMethod> methods) {
  try {
    return measure(engine, a, cell, methods);
  } catch (const OutOfMemory& error) {
    std::vector<Row> rows;
    for (const NamedMethod& method : methods) {
      rows.push_back({.cell = cell, .method = method.label, .error = error.what()});
    }
    return rows;
  }
}

double prefill_rate(const Row& row) {
  return static_cast<double>(row.cell.context * row.cell.batch) / row.prefill_s;
}
double decode_rate(const Row& row) {
  return 1e3 * static_cast<double>(row.cell.batch) / row.step.median();
}

std::string table_of(const std::vector<Row>& rows) {
  Table table({"method", "context", "batch", "prefill s", "prefill tok/s", "index", "ms/step", "min", "max",
               "tok/s", "device", "host", "slot hits"});
  std::string errors;
  for (const Row& row : rows) {
    std::vector<std::string> cells = {row.method, fmt::format("{}", row.cell.context),
                                      fmt::format("{}", row.cell.batch)};
    if (row.error.empty()) {
      const SessionStatistics& s = row.statistics;
      cells.push_back(fmt::format("{:.2f}", row.prefill_s));
      cells.push_back(fmt::format("{:.1f}", prefill_rate(row)));
      cells.push_back(percent(row.index_s / row.prefill_s));
      for (const double share : {0.5, 0.0, 1.0}) cells.push_back(fmt::format("{:.2f}", row.step.at(share)));
      cells.push_back(fmt::format("{:.2f}", decode_rate(row)));
      for (const int64_t bytes : s.held_bytes) cells.push_back(format_bytes(bytes));
      cells.push_back(s.chosen_chunks == 0
                          ? "-"
                          : percent(static_cast<double>(s.slot_hits) / static_cast<double>(s.chosen_chunks)));
    } else {
      cells.emplace_back("no room");
      cells.resize(13, "-");
      errors = "\nno room, for example: " + row.error + "\n";
    }
    table.add(cells);
  }
  return table.text() +
         "\nms/step is the median. Prompts are read once, exactly, for all methods; index: the share of that "
         "time "
         "that goes into what sparse methods keep of them, all methods together.\n" +
         errors;
}

Json row_json(const Row& row) {
  Json json = {{"context", row.cell.context}, {"batch", row.cell.batch}, {"method", row.method}};
  if (!row.error.empty()) {
    json["error"] = row.error;
    return json;
  }
  json["prefill_s"] = row.prefill_s;
  json["prefill_tokens_per_s"] = prefill_rate(row);
  json["index_s"] = row.index_s;
  json["step_ms"] = to_json(row.step);
  json["decode_tokens_per_s"] = decode_rate(row);
  json["statistics"] = to_json(row.statistics);
  return json;
}

void run_bench(BenchArguments& a) {
  check_model_options(a.engine);
  std::vector<NamedMethod> methods = bench_methods(a);
  const std::vector<Cell> cells = cells_of(a, false);
  BenchOutput output(a.json);
  const std::unique_ptr<Engine> engine = load_engine(a.engine);
  resolve_methods(*engine, methods);
  check_cells(engine->model(), cells, a.warmup + a.steps);
  std::vector<Row> rows;
  for (const Cell& cell : cells) {
    for (Row& row : measure_or_explain(*engine, a, cell, methods)) rows.push_back(std::move(row));
  }
  print_notes(methods);
  Json json = head_json(*engine, a);
  json["attention"] = attention_json(methods);
  Json& list = json["rows"] = Json::array();
  for (const Row& row : rows) list.push_back(row_json(row));
  output.print(json, table_of(rows));
}

}  // namespace

Command add_bench_prefill(CLI::App& bench) {
  CLI::App& app = add_subcommand(
      bench, "prefill", "Time the exact reading of prompts of random tokens, and decoding after them.");
  const auto arguments = std::make_shared<BenchArguments>();
  add_model_options(app, arguments->engine);
  add_methods_options(app, *arguments);
  add_cell_options(app, *arguments, false);
  add_step_options(app, *arguments, 0);
  add_json_option(app, arguments->json);
  return {&app, [arguments] { run_bench(*arguments); }};
}

}  // namespace shadowkv::apps
