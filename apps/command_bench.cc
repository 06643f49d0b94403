// shadowkv bench: seconds of prefill and decode at every context, batch and method asked for, on random
// tokens.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <memory>
#include <numeric>
#include <optional>
#include <random>

#include "base/bytes.h"
#include "base/check.h"
#include "commands.h"
#include "engine_loading.h"
#include "interrupt.h"
#include "json_output.h"
#include "methods.h"
#include "output_file.h"
#include "progress.h"
#include "table.h"

namespace shadowkv::apps {
namespace {

struct Arguments {
  EngineOptions engine;
  MethodsArguments methods{{}, "full;shadow"};
  std::string contexts = "1024,4096";
  std::string batches = "1";
  int64_t steps = 16;
  int64_t warmup = 2;
  bool made_up = false;  // sequences hold made-up state instead of a prompt
  std::string hit_rate = "natural";
  double hit_share = -1;  // of hit_rate; negative: natural
  std::string json;
};

struct Cell {
  int64_t context = 0, batch = 0;
};

struct Row {
  Cell cell;
  std::string method;
  double prefill_s = 0;         // of the whole batch, shared by the methods
  std::vector<double> step_ms;  // sorted
  SessionStatistics statistics;
  std::string error;  // why it did not run; then the rest is 0
};

// The most sequences of that many tokens that both memories hold, with room left for a step's activations.
int64_t largest_batch(const Engine& engine, const AttentionConfig& config, int64_t tokens) {
  constexpr int64_t kActivations = int64_t{3}
                                   << 29;  // 1.5 GiB: logits, MLP, scores and rebuilt keys of a large batch
  const SequenceFootprint one = engine.footprint(config, tokens);
  const EngineMemory memory = engine.memory();
  const int64_t device = memory.budget[0] - memory.held[0] - kActivations;
  const int64_t host = memory.budget[1] - memory.held[1];
  int64_t batch = 0;
  while (true) {
    const int64_t more = batch + 1;
    const int64_t spilled = std::max<int64_t>(0, more * (one.device + one.either) - device);
    const bool fits = more * one.device <= device && more * one.host + spilled <= host;
    if (!fits) break;
    batch = more;
  }
  require(batch > 0, "not even one sequence of {} tokens fits; shorten --context", tokens);
  return batch;
}

class TokenSource {
 public:
  explicit TokenSource(int64_t vocab) : pick_(0, static_cast<int32_t>(vocab - 1)) {}
  int32_t next() { return pick_(random_); }
  std::vector<int32_t> take(int64_t count) {
    std::vector<int32_t> ids(static_cast<std::size_t>(count));
    std::generate(ids.begin(), ids.end(), [this] { return next(); });
    return ids;
  }

 private:
  std::mt19937_64 random_{1};
  std::uniform_int_distribution<int32_t> pick_;
};

// Sorted milliseconds of the steps after the warm-up.
std::vector<double> time_steps(Session& session, int64_t method, const Arguments& a,
                               std::vector<SequenceToken> batch, TokenSource& tokens) {
  std::vector<double> times;
  for (int64_t s = 0; s < a.warmup + a.steps; ++s) {
    check_interrupted();
    for (SequenceToken& one : batch) one.token = tokens.next();
    const Stopwatch watch;
    (void)session.decode_greedy(method, batch);
    if (s >= a.warmup) times.push_back(1e3 * watch.seconds());
  }
  std::sort(times.begin(), times.end());
  return times;
}

// Decode over made-up state: each method alone, so that all of the memory is its.
std::vector<Row> measure_made_up(Engine& engine, const Arguments& a, Cell cell, const NamedMethod& method) {
  TokenSource tokens(engine.model().vocab_size);
  const std::unique_ptr<Session> session = engine.open({&method.config, 1});
  const int64_t most = cell.context + a.warmup + a.steps;
  if (cell.batch == 0) cell.batch = largest_batch(engine, method.config, most);
  std::vector<SequenceToken> batch;
  for (int64_t i = 0; i < cell.batch; ++i) {
    check_interrupted();
    batch.push_back({session->add(most), 0});
    session->fill(batch.back().sequence, cell.context, static_cast<uint64_t>(i));
  }
  session->force_hit_share(0, a.hit_share);
  Row row{cell, method.label, 0, time_steps(*session, 0, a, batch, tokens), {}, ""};
  row.statistics = session->statistics(0);
  return {row};
}

std::vector<Row> measure(Engine& engine, const Arguments& a, Cell cell,
                         std::span<const NamedMethod> methods) {
  TokenSource tokens(engine.model().vocab_size);
  const std::unique_ptr<Session> session = engine.open(configs_of(methods));
  std::vector<SequenceToken> batch;
  double prefill_s = 0;
  for (int64_t i = 0; i < cell.batch; ++i) {
    const std::vector<int32_t> ids = tokens.take(cell.context);
    const PrefillResult read = prefill_with_bar(*session, ids, cell.context + a.warmup + a.steps);
    batch.push_back({read.sequence, 0});
    prefill_s += read.seconds;
  }
  std::vector<Row> rows;
  for (std::size_t m = 0; m < methods.size(); ++m) {
    const auto method = static_cast<int64_t>(m);
    Row row{cell, methods[m].label, prefill_s, time_steps(*session, method, a, batch, tokens), {}, ""};
    row.statistics = session->statistics(method);
    rows.push_back(std::move(row));
  }
  return rows;
}

// What does not fit is a row that says so; the others still run.
std::vector<Row> measure_or_explain(Engine& engine, const Arguments& a, Cell cell,
                                    std::span<const NamedMethod> methods) {
  try {
    if (!a.made_up) return measure(engine, a, cell, methods);
    std::vector<Row> rows;
    for (const NamedMethod& method : methods) {
      for (Row& row : measure_made_up(engine, a, cell, method)) rows.push_back(std::move(row));
    }
    return rows;
  } catch (const OutOfMemory& error) {
    std::vector<Row> rows;
    for (const NamedMethod& method : methods) rows.push_back({cell, method.label, 0, {}, {}, error.what()});
    return rows;
  }
}

double prefill_rate(const Row& row) {
  return static_cast<double>(row.cell.context * row.cell.batch) / row.prefill_s;
}
double median(const Row& row) {
  const std::size_t half = row.step_ms.size() / 2;
  return row.step_ms.size() % 2 == 1 ? row.step_ms[half] : (row.step_ms[half - 1] + row.step_ms[half]) / 2;
}
double decode_rate(const Row& row) {
  return 1e3 * static_cast<double>(row.cell.batch) / median(row);
}

std::string table_of(const std::vector<Row>& rows) {
  Table table({"method", "context", "batch", "prefill s", "prefill tok/s", "ms/step", "min", "max", "tok/s",
               "device", "host", "slot hits"});
  std::string errors;
  for (const Row& row : rows) {
    const std::string context = fmt::format("{}", row.cell.context),
                      batch = fmt::format("{}", row.cell.batch);
    if (!row.error.empty()) {
      table.add({row.method, context, batch, "no room", "-", "-", "-", "-", "-", "-", "-", "-"});
      errors = "\nNo room, for example: " + row.error + "\n";
      continue;
    }
    const SessionStatistics& s = row.statistics;
    const bool read = row.prefill_s > 0;
    table.add({row.method, context, batch, read ? fmt::format("{:.2f}", row.prefill_s) : "-",
               read ? fmt::format("{:.1f}", prefill_rate(row)) : "-", fmt::format("{:.2f}", median(row)),
               fmt::format("{:.2f}", row.step_ms.front()), fmt::format("{:.2f}", row.step_ms.back()),
               fmt::format("{:.2f}", decode_rate(row)), format_bytes(s.held_bytes[0]),
               format_bytes(s.held_bytes[1]),
               s.chosen_chunks == 0 ? "-"
                                    : fmt::format("{:.1f} %", 100.0 * static_cast<double>(s.slot_hits) /
                                                                  static_cast<double>(s.chosen_chunks))});
  }
  return table.text() +
         "\nms/step is the median. Prompts are read once, exactly, for all methods; a dash stands for "
         "made-up state.\n" +
         errors;
}

Json row_json(const Row& row) {
  Json json = {{"context", row.cell.context}, {"batch", row.cell.batch}, {"method", row.method}};
  if (!row.error.empty()) {
    json["error"] = row.error;
    return json;
  }
  if (row.prefill_s > 0) {
    json["prefill_s"] = row.prefill_s;
    json["prefill_tokens_per_s"] = prefill_rate(row);
  }
  json["step_ms"] = {{"median", median(row)}, {"min", row.step_ms.front()}, {"max", row.step_ms.back()}};
  json["decode_tokens_per_s"] = decode_rate(row);
  json["statistics"] = to_json(row.statistics);
  return json;
}

Json report(const Engine& engine, const Arguments& a, std::span<const NamedMethod> methods,
            const std::vector<Row>& rows) {
  Json configs = Json::object(), list = Json::array();
  for (const NamedMethod& method : methods) configs[method.label] = to_json(method.config);
  for (const Row& row : rows) list.push_back(row_json(row));
  return {{"model", to_json(engine.model())},
          {"dtype", a.engine.dtype},
          {"random_weights", !a.engine.shape.empty()},
          {"steps", a.steps},
          {"warmup", a.warmup},
          {"made_up_state", a.made_up},
          {"forced_hit_share", a.hit_share < 0 ? Json(nullptr) : Json(a.hit_share)},
          {"attention", configs},
          {"rows", list}};
}

void print_results(const Json& json, const std::vector<Row>& rows, std::optional<OutputFile>& file,
                   bool only_json) {
  if (only_json) return print_json(json);
  if (file) {
    file->stream() << dump(json) << "\n";
    file->commit();
  }
  std::cout << table_of(rows);
}

double parse_hit_rate(const std::string& text) {
  if (text == "natural") return -1;
  double share = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), share);
  require(error == std::errc() && end == text.data() + text.size() && share >= 0 && share <= 1,
          "--hit-rate is \"{}\"; it must be natural or a share in [0, 1]", text);
  return share;
}

void run(Arguments& a) {
  a.hit_share = parse_hit_rate(a.hit_rate);
  check_model_options(a.engine);
  std::vector<NamedMethod> methods = methods_of(a.methods);
  const auto contexts = parse_wholes(a.contexts, "--context", {1, int64_t{1} << 32});
  require(a.made_up || (a.hit_share < 0 && a.batches != "auto"),
          "--hit-rate and --batch auto need --made-up-state; add it");
  const auto batches =
      a.batches == "auto" ? std::vector<int64_t>{0} : parse_wholes(a.batches, "--batch", {1, 1 << 20});
  std::optional<OutputFile> file;
  if (!a.json.empty() && a.json != "-") file.emplace(a.json);
  const std::unique_ptr<Engine> engine = load_engine(a.engine);
  resolve_methods(*engine, methods);
  std::vector<Row> rows;
  for (int64_t context : contexts) {
    for (int64_t batch : batches) {
      for (Row& row : measure_or_explain(*engine, a, {context, batch}, methods))
        rows.push_back(std::move(row));
    }
  }
  print_notes(methods);
  print_results(report(*engine, a, methods, rows), rows, file, a.json == "-");
}

}  // namespace

Command add_bench(CLI::App& root) {
  CLI::App& app = add_subcommand(root, "bench",
                                 "Time prefill and decode on random tokens, on a model or on a named "
                                 "shape with random weights.");
  const auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  add_model_options(app, a.engine);
  add_methods_option(app, a.methods);
  add_text(app, {"--context", "TOKENS", "Prompt lengths, separated by commas", ""}, a.contexts);
  add_text(app,
           {"--batch", "SEQUENCES",
            "Sequences decoded together, separated by commas; auto: the most that fit", ""},
           a.batches);
  add_flag(app, {"--made-up-state", "", "Time decode alone, over made-up state instead of prompts", ""},
           a.made_up);
  add_text(
      app,
      {"--hit-rate", "SHARE",
       "Force that share (0 to 1) of the choices to be found in the slot cache; natural: as they come", ""},
      a.hit_rate);
  add_whole(app, {"--steps", "STEPS", "Timed decode steps, at least 1", ""}, {1, 1'000'000}, a.steps);
  add_whole(app, {"--warmup", "STEPS", "Decode steps before those timed", ""}, {0, 1'000'000}, a.warmup);
  add_text(app,
           {"--json", "FILE",
            "Write the results as JSON too; - prints JSON in place of the table [default: none]", ""},
           a.json);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
