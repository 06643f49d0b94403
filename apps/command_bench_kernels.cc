// shadowkv bench kernels: microseconds of every op of a decode step at a model's sizes, on made-up state,
// and of the ops that read a prompt.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "bench_needs.h"
#include "bench_report.h"
#include "bench_run.h"
#include "bench_stages.h"
#include "commands.h"
#include "engine_loading.h"
#include "table.h"

namespace shadowkv::apps {
namespace {

struct Arguments : BenchArguments {
  int64_t prefill = 512;
};

constexpr const char* kNotes =
    "Ops run one after the other with a mark after each; a time is from the end of the op before, and on a "
    "GPU\n"
    "holds about 3 us of the mark. GB/s: what the op must read by count (gather_values: from where it "
    "lies).\n";

// Ops of one method's decode step, or of a prompt.
struct Part {
  std::string title = {}, method = {};
  Cell cell = {};
  std::vector<OpTime> ops = {};  // the longest first
  SequenceNeeds needs = {};      // of a decode step
  StepShares shares = {};
  bool decode = false;
};

struct Run {
  const Arguments& a;
  Engine& engine;
  const Ceilings& ceilings;
  NumberBytes bytes;
  const std::optional<SamplingParams>& sampling;
};

void sort_longest_first(std::vector<OpTime>& ops) {
  std::stable_sort(ops.begin(), ops.end(),
                   [](const OpTime& a, const OpTime& b) { return a.seconds > b.seconds; });
}

// Bytes of device memory that the op's runs of a whole step need to read; 0 where it is not counted.
double bytes_of(const Run& run, const Part& part, const OpTime& op) {
  const double batch = static_cast<double>(part.cell.batch), misses = 1 - part.shares.hits;
  const SequenceNeeds& one = part.needs;
  if (op.op == "matmul" || op.op == "matmul_group") {
    return static_cast<double>(op.rows * op.columns * op.runs * run.bytes.weight);
  }
  if (!part.decode) return 0;
  if (op.op == "paged_attention" || op.op == "resident_attention") return batch * one.resident;
  if (op.op == "sketch_scores" || op.op == "landmark_scores") return batch * one.index;
  if (op.op == "rebuild_keys" || op.op == "rebuild_and_score")
    return batch * (one.factors * misses + one.bases);
  if (op.op == "slot_attention") return batch * one.chosen;
  if (op.op == "sample_tokens") return batch * static_cast<double>(run.engine.model().vocab_size * 4);
  if (op.op == "gather_values") return batch * one.values * misses;
  return 0;
}

Part decode_part(const Run& run, const NamedMethod& method, std::optional<double> forced, const Cell& cell) {
  MadeUpBatch batch(run.engine, {.config = &method.config,
                                 .cell = cell,
                                 .growth = run.a.warmup + MadeUpBatch::kOpSteps + 1,
                                 .forced_hits = forced,
                                 .sampling = run.sampling});
  batch.checked_step();
  for (int64_t s = 0; s < run.a.warmup; ++s) batch.step();
  Part part{.method = method.label, .cell = {cell.context, batch.size()}, .decode = true};
  part.ops = batch.op_times();
  part.title =
      fmt::format("decode step, {}: {} sequences of {} tokens", method.label, part.cell.batch, cell.context);
  part.needs = sequence_needs(run.engine.model(), method.config, cell.context, run.bytes.compute);
  const SessionStatistics s = batch.statistics();
  part.shares.hits =
      s.chosen_chunks == 0 ? 1.0 : static_cast<double>(s.slot_hits) / static_cast<double>(s.chosen_chunks);
  sort_longest_first(part.ops);
  return part;
}

// Ops of one prompt read under one method, what it builds included.
Part prefill_part(const Run& run, const NamedMethod& method) {
  TokenSource tokens(run.engine.model().vocab_size);
  const std::unique_ptr<Session> session = run.engine.open({&method.config, 1});
  const std::vector<int32_t> ids = tokens.take(run.a.prefill);
  (void)session->prefill(session->add(run.a.prefill), ids);  // the first time loads and grows what is needed
  session->time_ops(true);
  (void)session->prefill(session->add(run.a.prefill), ids);
  Part part{.title = fmt::format("prompt of {} tokens, {}", run.a.prefill, method.label),
            .method = method.label,
            .cell = {run.a.prefill, 1},
            .ops = session->op_times()};
  session->time_ops(false);
  sort_longest_first(part.ops);
  return part;
}

std::string name_of(const OpTime& op) {
  return op.rows > 0 ? fmt::format("{} {} x {}", op.op, op.rows, op.columns) : op.op;
}

std::string table_of(const Run& run, const Part& part) {
  Table table({"op", "stage", "runs", "us a run", "ms", "share", "GB/s", "of memory's"});
  double total = 0;
  for (const OpTime& op : part.ops) total += op.seconds;
  for (const OpTime& op : part.ops) {
    const double rate = part.decode ? bytes_of(run, part, op) / op.seconds : 0;
    table.add({name_of(op), std::string(stage_of(op.op)), fmt::format("{}", op.runs),
               fmt::format("{:.1f}", 1e6 * op.seconds / static_cast<double>(op.runs)),
               fmt::format("{:.3f}", 1e3 * op.seconds), percent(op.seconds / total),
               rate > 0 ? gigabytes(rate) : "-", rate > 0 ? percent(rate / run.ceilings.device_read) : "-"});
  }
  return fmt::format("{}\n\n{}sum {:.3f} ms\n\n", part.title, table.text(), 1e3 * total);
}

Json part_json(const Run& run, const Part& part) {
  Json json = {{"phase", part.decode ? "decode" : "prefill"},
               {"method", part.method},
               {"context", part.cell.context},
               {"batch", part.cell.batch},
               {"slot_hit_share", part.decode ? Json(part.shares.hits) : Json(nullptr)}};
  Json& ops = json["ops"] = Json::array();
  for (const OpTime& op : part.ops) {
    Json one = to_json(op);
    one["stage"] = stage_of(op.op);
    const double bytes = part.decode ? bytes_of(run, part, op) : 0;
    one["bytes_per_s"] = bytes > 0 ? Json(bytes / op.seconds) : Json(nullptr);
    ops.push_back(std::move(one));
  }
  return json;
}

void print(const Run& run, std::span<const NamedMethod> methods, const std::vector<Part>& parts,
           BenchOutput& output) {
  Json json = head_json(run.engine, run.a);
  json["attention"] = attention_json(methods);
  json["ceilings"] = to_json(run.ceilings);
  Json& list = json["parts"] = Json::array();
  std::string text;
  for (const Part& part : parts) {
    list.push_back(part_json(run, part));
    text += table_of(run, part);
  }
  text += ceilings_line(run.ceilings) + kNotes;
  output.print(json, text);
}

void run_bench(Arguments& a) {
  check_model_options(a.engine);
  std::vector<NamedMethod> methods = bench_methods(a);
  const std::vector<Cell> cells = cells_of(a, true);
  const ForcedHits forced = forced_hits_of(a, methods.size());
  for (NamedMethod& method : methods) method.config = resolve(a.engine, method.config).config;
  const ModelInfo model = read_model_info(a.engine);
  check_cells(model, cells, a.warmup + MadeUpBatch::kOpSteps + 1);
  if (a.prefill > 0) check_cells(model, std::vector<Cell>{{a.prefill, 1}}, 0);
  check_forced(methods, forced, cells);
  const std::optional<SamplingParams> sampling = sampling_of(a, model);
  BenchOutput output(a.json);
  const Ceilings ceilings = measure_ceilings(a.engine);
  const std::unique_ptr<Engine> engine = load_engine(a.engine);
  const Run run{a, *engine, ceilings, number_bytes_of(a.engine), sampling};
  std::vector<Part> parts;
  for (std::size_t m = 0; m < methods.size(); ++m) {
    (void)check_decode(*engine, methods[m]);
    for (const Cell& cell : cells) parts.push_back(decode_part(run, methods[m], forced[m], cell));
    if (a.prefill > 0) parts.push_back(prefill_part(run, methods[m]));
  }
  print_notes(methods);
  print(run, methods, parts, output);
}

}  // namespace

Command add_bench_kernels(CLI::App& bench) {
  CLI::App& app = add_subcommand(
      bench, "kernels", "Time every op of a decode step and of reading a prompt, at a model's sizes.");
  const auto arguments = std::make_shared<Arguments>();
  arguments->contexts = "4096";
  add_model_options(app, arguments->engine);
  add_methods_options(app, *arguments);
  add_cell_options(app, *arguments, true);
  add_hit_rate_option(app, *arguments);
  add_sampling_option(app, *arguments);
  add_whole(app, {"--warmup", "STEPS", "Decode steps before those timed", ""}, {2, 1'000'000},
            arguments->warmup);
  add_whole(app, {"--prefill", "TOKENS", "Length of the prompt whose ops are timed; 0: none", ""},
            {0, 1 << 20}, arguments->prefill);
  add_json_option(app, arguments->json);
  return {&app, [arguments] { run_bench(*arguments); }};
}

}  // namespace shadowkv::apps
