// shadowkv info: what a model is, and what its conversations cost in memory.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <memory>

#include "base/bytes.h"
#include "base/check.h"
#include "bench_needs.h"
#include "commands.h"
#include "json_output.h"
#include "methods.h"
#include "shadowkv/devices.h"
#include "table.h"

namespace shadowkv::apps {
namespace {

// The two lengths between which bytes a token are measured: multiples of every segment and block size.
constexpr int64_t kShort = 65536, kLong = 131072;

struct Arguments {
  EngineOptions engine;
  MethodsArguments methods{{}, "full;shadow;paper"};
  int64_t context = 0;
  bool json = false;
};

struct Room {
  int64_t device = 0, host = 0;  // bytes left for sequences; device may be below 0

  // Whether `count` sequences of that footprint fit. `either` goes where there is room.
  [[nodiscard]] bool holds(const SequenceFootprint& f, int64_t count) const {
    const auto times = static_cast<double>(count);
    const double need_device = times * static_cast<double>(f.device),
                 need_host = times * static_cast<double>(f.host);
    const double all = need_device + need_host + times * static_cast<double>(f.either);
    return device > 0 && need_device <= static_cast<double>(device) &&
           need_host <= static_cast<double>(host) &&
           all <= static_cast<double>(device) + static_cast<double>(host);
  }
};

struct MethodFacts {
  std::string label;
  ResolvedAttention attention;
  SequenceFootprint per_1k;     // bytes 1,024 further tokens take
  int64_t largest_context = 0;  // tokens, batch 1
  int64_t largest_batch = 0;    // sequences of the context asked about
};

// The largest n in [0, most] with fits(n), given that it holds up to some n and not beyond.
int64_t largest(int64_t most, const std::function<bool(int64_t)>& fits) {
  int64_t low = 0, step = 1;
  while (low + step <= most && fits(low + step)) {
    low += step;
    step *= 2;
  }
  for (; step > 0; step /= 2) {
    if (low + step <= most && fits(low + step)) low += step;
  }
  return low;
}

// Budgets that were not given are those that the device would take.
void find_budgets(EngineOptions& options) {
  if (options.device_bytes > 0 && options.host_bytes > 0) return;
  const auto [device, host] = memory_budgets(options);
  options.device_bytes = device;
  options.host_bytes = host;
}

int64_t weight_bytes(const ModelInfo& model, const EngineOptions& options) {
  return checked_mul(model.parameters, number_bytes_of(options).weight, "the model's weights");
}

MethodFacts facts_of(const Arguments& a, const NamedMethod& method, const Room& room) {
  MethodFacts facts;
  facts.label = method.label;
  facts.attention = resolve(a.engine, method.config);
  const auto bytes = [&](int64_t tokens) { return footprint(a.engine, method.config, tokens); };
  const SequenceFootprint at_short = bytes(kShort), at_long = bytes(kLong);
  const int64_t thousands = (kLong - kShort) / 1024;
  facts.per_1k = {(at_long.device - at_short.device) / thousands, (at_long.host - at_short.host) / thousands,
                  (at_long.either - at_short.either) / thousands};
  facts.largest_context = largest(int64_t{1} << 32, [&](int64_t n) { return room.holds(bytes(n), 1); });
  const SequenceFootprint one = bytes(a.context);
  facts.largest_batch = largest(int64_t{1} << 32, [&](int64_t n) { return room.holds(one, n); });
  return facts;
}

void print_model(const ModelInfo& model, const Arguments& a, int64_t weights) {
  std::cout << fmt::format("model          {} ({})\n", model.name, model.architecture)
            << fmt::format("parameters     {}, {} as {}\n", model.parameters, format_bytes(weights),
                           a.engine.weights == "int8" ? "int8" : a.engine.dtype)
            << fmt::format("layers         {} of width {}, MLP {}\n", model.layers, model.hidden, model.inner)
            << fmt::format("heads          {} query, {} key-value, {} wide\n", model.heads, model.kv_heads,
                           model.head_dim)
            << fmt::format("vocabulary     {} tokens\n", model.vocab_size)
            << fmt::format("made for       {} tokens of context\n", model.context)
            << fmt::format("tokenizer      {}\n\n",
                           model.has_tokenizer ? "yes" : "none; give --tokenizer for text");
}

void print_facts(const std::vector<MethodFacts>& all, const Arguments& a) {
  Table table({"method", "device / 1K", "host / 1K", "either / 1K", "largest context",
               fmt::format("batch at {}", a.context)});
  for (const MethodFacts& facts : all) {
    table.add({facts.label, format_bytes(facts.per_1k.device), format_bytes(facts.per_1k.host),
               format_bytes(facts.per_1k.either), fmt::format("{}", facts.largest_context),
               fmt::format("{}", facts.largest_batch)});
    print_notes(facts.label, facts.attention.notes);
  }
  std::cout
      << table.text()
      << fmt::format(
             "\nBytes that 1,024 further tokens take, between {} and {} tokens; \"either\" lies wherever "
             "there is room.\nLargest in {} device and {} host memory, weights counted, room to compute "
             "not.\n",
             kShort, kLong, format_bytes(a.engine.device_bytes), format_bytes(a.engine.host_bytes));
}

Json report(const ModelInfo& model, const std::vector<MethodFacts>& all, const Arguments& a,
            int64_t weights) {
  Json methods = Json::array();
  for (const MethodFacts& facts : all) {
    methods.push_back({{"method", facts.label},
                       {"bytes_per_1024_tokens", footprint_json(facts.per_1k)},
                       {"largest_context", facts.largest_context},
                       {"largest_batch", facts.largest_batch},
                       {"attention", to_json(facts.attention.config)},
                       {"notes", facts.attention.notes}});
  }
  return {{"model", to_json(model)},
          {"weight_bytes", weights},
          {"dtype", a.engine.dtype},
          {"weights", a.engine.weights},
          {"context", a.context},
          {"device_memory", a.engine.device_bytes},
          {"host_memory", a.engine.host_bytes},
          {"methods", methods}};
}

void run(Arguments a) {
  check_model_options(a.engine);
  const std::vector<NamedMethod> methods = methods_of(a.methods);
  const ModelInfo model = read_model_info(a.engine);
  if (a.context == 0) a.context = std::max<int64_t>(model.context, 1);
  find_budgets(a.engine);
  const int64_t weights = weight_bytes(model, a.engine);
  const Room room{a.engine.device_bytes - weights, a.engine.host_bytes};
  std::vector<MethodFacts> all;
  all.reserve(methods.size());
  for (const NamedMethod& method : methods) all.push_back(facts_of(a, method, room));
  if (a.json) return print_json(report(model, all, a, weights));
  print_model(model, a, weights);
  print_facts(all, a);
}

}  // namespace

Command add_info(CLI::App& root) {
  CLI::App& app = add_subcommand(root, "info",
                                 "Say what a model is and what conversations cost: bytes a token in each "
                                 "memory, the longest context, the largest batch.");
  const auto arguments = std::make_shared<Arguments>();
  add_model_options(app, arguments->engine);
  add_methods_option(app, arguments->methods);
  add_whole(app,
            {"--context", "TOKENS",
             "Tokens a sequence when asking for the largest batch; 0: the model's context", ""},
            {0, int64_t{1} << 32}, arguments->context);
  add_flag(app, {"--json", "", "Print one JSON object", ""}, arguments->json);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
