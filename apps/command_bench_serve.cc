// shadowkv bench serve-load: requests that arrive at random are served, and what that took is held against
// the same work without a schedule: every prompt read by itself, every step at the mean batch.
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <thread>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"
#include "bench_load.h"
#include "bench_report.h"
#include "bench_run.h"
#include "commands.h"
#include "engine_loading.h"
#include "interrupt.h"
#include "progress.h"
#include "shadowkv/service.h"
#include "table.h"

namespace shadowkv::apps {
namespace {

struct ServeArguments {
  BenchArguments bench;
  LoadShape load;
  ServiceOptions service = {};
};

struct Arrival {
  double at_s = 0;
  ServiceRequest request;
};

std::vector<Arrival> make_arrivals(const LoadShape& load, int64_t vocab) {
  TokenSource tokens(vocab);
  std::vector<Arrival> arrivals;
  for (const LoadItem& item : make_load(load)) {
    Arrival arrival{.at_s = item.at_s, .request = {}};
    arrival.request.prompt_ids = tokens.take(item.prompt_tokens);
    arrival.request.max_new_tokens = item.new_tokens;
    arrival.request.ignore_eos = true;
    arrivals.push_back(std::move(arrival));
  }
  return arrivals;
}

struct Served {
  ServiceStatistics statistics;
  double wall_s = 0;  // from the first arrival to the last token

  // Seconds that the service's thread was not idle.
  [[nodiscard]] double busy_s() const {
    return statistics.reading_s + statistics.step_s + statistics.moving_s + statistics.scheduling_s;
  }
  [[nodiscard]] double mean_batch() const {
    const int64_t steps = std::max<int64_t>(1, statistics.steps);
    return static_cast<double>(statistics.step_tokens) / static_cast<double>(steps);
  }
};

Served serve(Engine& engine, const ServiceOptions& options, const std::vector<Arrival>& arrivals) {
  const std::unique_ptr<Service> service = engine.serve(options);
  std::vector<std::unique_ptr<Stream>> streams;
  const Stopwatch watch;
  for (const Arrival& arrival : arrivals) {
    while (watch.seconds() < arrival.at_s) {
      check_interrupted();
      const double left = std::min(0.05, arrival.at_s - watch.seconds());
      std::this_thread::sleep_for(std::chrono::duration<double>(std::max(0.0, left)));
    }
    streams.push_back(service->submit(arrival.request));
  }
  for (const auto& stream : streams) {
    while (stream->next()) check_interrupted();
  }
  Served served;
  served.wall_s = watch.seconds();
  service->wait_idle();
  served.statistics = service->statistics();
  return served;
}

// Seconds that the prompts take one after the other, alone.
double prompts_alone_s(Engine& engine, const AttentionConfig& method, const std::vector<Arrival>& arrivals) {
  const std::unique_ptr<Session> session = engine.open({&method, 1});
  double seconds = 0;
  for (const Arrival& arrival : arrivals) {
    const PrefillResult read =
        prefill_with_bar(*session, arrival.request.prompt_ids, std::ssize(arrival.request.prompt_ids));
    seconds += read.seconds;
    session->remove(read.sequence);
  }
  return seconds;
}

// Seconds of a step of the mean batch, over made-up state of the mean context.
double mean_step_s(Engine& engine, const ServeArguments& a, const AttentionConfig& method,
                   const Served& served) {
  const SessionStatistics& s = served.statistics.attention;
  const int64_t context = s.context_tokens / std::max<int64_t>(1, s.decode_steps);
  const auto batch = std::max<int64_t>(1, std::llround(served.mean_batch()));
  MadeUpBatch steps(engine, {.config = &method,
                             .cell = {std::max<int64_t>(1, context), batch},
                             .growth = a.bench.warmup + a.bench.steps,
                             .forced_hits = std::nullopt});
  for (int64_t i = 0; i < a.bench.warmup; ++i) steps.step();
  std::vector<double> ms;
  for (int64_t i = 0; i < a.bench.steps; ++i) {
    const Stopwatch watch;
    steps.step();
    ms.push_back(1e3 * watch.seconds());
  }
  return 1e-3 * StepTimes(std::move(ms)).median();
}

Json histogram_json(const DurationHistogram& histogram) {
  Json json = {{"count", histogram.count()}, {"max_s", histogram.max()}};
  for (const double share : {0.5, 0.9, 0.99}) {
    json[fmt::format("p{:.0f}_s", 100 * share)] = histogram.quantile(share);
  }
  Json& buckets = json["buckets"] = Json::array();
  for (int i = 0; i < DurationHistogram::kBuckets; ++i) {
    if (histogram.in_bucket(i) == 0) continue;
    buckets.push_back({{"up_to_s", DurationHistogram::upper_bound(i)}, {"count", histogram.in_bucket(i)}});
  }
  return json;
}

struct Ideal {
  double prompts_s = 0;
  double step_s = 0;
  [[nodiscard]] double seconds(const ServiceStatistics& s) const {
    return prompts_s + static_cast<double>(s.steps) * step_s;
  }
};

Json serve_json(const Served& served, const Ideal& ideal) {
  const ServiceStatistics& s = served.statistics;
  return {{"requests", s.submitted},
          {"prompt_tokens", s.prompt_tokens},
          {"new_tokens", s.new_tokens},
          {"wall_s", served.wall_s},
          {"busy_s", served.busy_s()},
          {"tokens_per_s", static_cast<double>(s.new_tokens) / served.wall_s},
          {"tokens_per_busy_s", static_cast<double>(s.new_tokens) / served.busy_s()},
          {"ideal_s", ideal.seconds(s)},
          {"prompts_alone_s", ideal.prompts_s},
          {"mean_batch_step_ms", 1e3 * ideal.step_s},
          {"share_of_ideal", ideal.seconds(s) / served.busy_s()},
          {"steps", s.steps},
          {"replayed_steps", s.replayed_steps},
          {"recordings", s.recordings},
          {"mean_batch", served.mean_batch()},
          {"reading_s", s.reading_s},
          {"step_s", s.step_s},
          {"moving_s", s.moving_s},
          {"scheduling_s", s.scheduling_s},
          {"scheduling_share_of_a_step", ratio_json(s.scheduling_s, s.step_s)},
          {"pauses", s.pauses},
          {"drops", s.drops},
          {"first_token", histogram_json(s.first_token)},
          {"between_tokens", histogram_json(s.between_tokens)},
          {"statistics", to_json(s.attention)}};
}

std::string link_text(const LinkBytes& link) {
  return fmt::format("over the link: {} of values read, {} written; {} moved up, {} down\n",
                     format_bytes(link.read), format_bytes(link.written), format_bytes(link.moved_up),
                     format_bytes(link.moved_down));
}

std::string serve_text(const Served& served, const Ideal& ideal) {
  const ServiceStatistics& s = served.statistics;
  const auto times = [](const char* name, const DurationHistogram& h) {
    return fmt::format("{}: median {:.1f} ms, 90 % {:.1f} ms, 99 % {:.1f} ms, most {:.1f} ms\n", name,
                       1e3 * h.quantile(0.5), 1e3 * h.quantile(0.9), 1e3 * h.quantile(0.99), 1e3 * h.max());
  };
  return fmt::format("{} requests, {} prompt tokens, {} new tokens in {:.2f} s, {:.2f} s of them busy\n",
                     s.submitted, s.prompt_tokens, s.new_tokens, served.wall_s, served.busy_s()) +
         fmt::format("{:.1f} tok/s; {} of the ideal ({:.2f} s of prompts alone, {} steps of {:.2f} ms)\n",
                     static_cast<double>(s.new_tokens) / served.wall_s,
                     percent(ideal.seconds(s) / served.busy_s()), ideal.prompts_s, s.steps,
                     1e3 * ideal.step_s) +
         fmt::format("mean batch {:.1f}; scheduling {} of the steps' time; {} pauses, {} drops\n",
                     served.mean_batch(), percent(s.step_s > 0 ? s.scheduling_s / s.step_s : 0), s.pauses,
                     s.drops) +
         link_text(s.attention.link) + times("first token", s.first_token) +
         times("between tokens", s.between_tokens);
}

void check_arguments(const ServeArguments& a, const ModelInfo& model) {
  const int64_t prompt = span_of(a.load.prompt_tokens, "--prompt-tokens").most;
  const int64_t answer = span_of(a.load.new_tokens, "--new-tokens").most;
  require(prompt + answer <= model.context,
          "prompts of up to {} and answers of up to {} tokens were asked for, the model's context is {}",
          prompt, answer, model.context);
}

void run_serve(ServeArguments& a) {
  check_model_options(a.bench.engine);
  std::vector<NamedMethod> methods = bench_methods(a.bench);
  require(methods.size() == 1, "{} methods were named; serve-load takes one", methods.size());
  BenchOutput output(a.bench.json);
  const std::unique_ptr<Engine> engine = load_engine(a.bench.engine);
  resolve_methods(*engine, methods);
  check_arguments(a, engine->model());
  const std::vector<Arrival> arrivals = make_arrivals(a.load, engine->model().vocab_size);
  ServiceOptions options = a.service;
  options.attention = methods[0].config;
  options.max_waiting = a.load.requests;
  const Served served = serve(*engine, options, arrivals);
  const Ideal ideal{.prompts_s = prompts_alone_s(*engine, methods[0].config, arrivals),
                    .step_s = mean_step_s(*engine, a, methods[0].config, served)};
  Json json = head_json(*engine, a.bench);
  json["attention"] = attention_json(methods);
  json["serve"] = serve_json(served, ideal);
  output.print(json, serve_text(served, ideal));
}

}  // namespace

Command add_bench_serve(CLI::App& bench) {
  CLI::App& app = add_subcommand(
      bench, "serve-load", "Serve requests that arrive at random, against the same work without a schedule.");
  const auto a = std::make_shared<ServeArguments>();
  a->bench.methods.fallback = "default";
  add_model_options(app, a->bench.engine);
  add_methods_options(app, a->bench);
  add_step_options(app, a->bench, 0);
  add_json_option(app, a->bench.json);
  const std::string group = "Load";
  add_load_options(app, a->load);
  add_real(app, {"--rate", "HERTZ", "Requests that arrive a second, on average", group}, {0, 1e6, true},
           a->load.rate);
  add_whole(app, {"--max-running", "COUNT", "Requests in one decode step at most", group}, {1, 1'000'000},
            a->service.max_running);
  add_whole(app, {"--max-reading", "COUNT", "Prompts that are read in turns, short ones first", group},
            {1, 1'000'000}, a->service.max_reading);
  add_real(app, {"--max-gap", "TIMES", "Gap between tokens while prompts are read, in gaps without", group},
           {1, 1000, true}, a->service.max_gap);
  return {&app, [a] { run_serve(*a); }};
}

}  // namespace shadowkv::apps
