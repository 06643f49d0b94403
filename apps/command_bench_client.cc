// shadowkv bench serve: load for a server that runs already, over HTTP, and how it stood it.
#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <utility>

#include "base/check.h"
#include "bench_load.h"
#include "bench_options.h"
#include "bench_report.h"
#include "commands.h"
#include "interrupt.h"
#include "load_report.h"
#include "option_library.h"
#include "server/load_client.h"

namespace shadowkv::apps {
namespace {

constexpr const char* kKeyVariable = "SHADOWKV_API_KEY";
// Token ids that every vocabulary has, behind those that are special in many.
constexpr int32_t kFirstId = 32, kLastId = 255;

struct ClientArguments {
  std::string url = "http://127.0.0.1:8000";
  std::string model;
  LoadShape load = {.requests = 100, .rate = 0, .prompt_tokens = "512", .new_tokens = "128"};
  int64_t most = 1'000'000;
  int64_t timeout_s = 600;
  std::string goals;
  std::string json;
};

// http://host:port, with or without what follows: that is the endpoint's affair.
LoadTarget target_of(const ClientArguments& a) {
  constexpr std::string_view kScheme = "http://";
  const std::string_view url = a.url;
  require(url.starts_with(kScheme), "--url is \"{}\"; it must begin with {}", a.url, kScheme);
  const std::string_view rest = url.substr(kScheme.size(), url.find('/', kScheme.size()) - kScheme.size());
  const std::size_t bracket = rest.find(']'),
                    colon = rest.find(':', bracket == std::string_view::npos ? 0 : bracket);
  std::string_view host = rest.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  require(!host.empty(), "--url is \"{}\", which names no host", a.url);
  LoadTarget target{.host = std::string(host),
                    .port = colon == std::string_view::npos ? "80" : std::string(rest.substr(colon + 1)),
                    .timeout_ms = 1000 * a.timeout_s};
  if (const char* key = std::getenv(kKeyVariable)) target.key = key;
  return target;
}

std::string body_of(const LoadItem& item, const ClientArguments& a, std::mt19937_64& random) {
  std::vector<int32_t> ids(static_cast<std::size_t>(item.prompt_tokens));
  for (int32_t& id : ids) id = kFirstId + static_cast<int32_t>(random() % (kLastId - kFirstId + 1));
  Json body = {{"prompt", ids},    {"max_tokens", item.new_tokens},
               {"temperature", 0}, {"ignore_eos", true},
               {"stream", true},   {"stream_options", {{"include_usage", true}}}};
  if (!a.model.empty()) body["model"] = a.model;
  return body.dump();
}

void run_client(const ClientArguments& a) {
  const LoadGoals goals = load_goals_of(a.goals);
  const LoadTarget target = target_of(a);
  BenchOutput output(a.json);
  std::mt19937_64 random(static_cast<uint64_t>(a.load.seed));
  std::vector<LoadRequest> requests;
  for (const LoadItem& item : make_load(a.load))
    requests.push_back({.at_s = item.at_s, .body = body_of(item, a, random)});
  const std::vector<LoadAnswer> answers = run_load(target, requests, a.most, check_interrupted);
  std::string first_error;
  for (const LoadAnswer& answer : answers) {
    if (first_error.empty() && !answer.error.empty()) first_error = answer.error;
  }
  Json report = load_json(answers, goals);
  if (report.at("completed") == 0)
    throw DeviceFailure(fmt::format("no request was answered; the first: {}", first_error));
  Json head = {{"url", a.url},
               {"num_prompts", a.load.requests},
               {"request_rate", a.load.rate > 0 ? Json(a.load.rate) : Json("inf")},
               {"max_concurrency", a.most},
               {"seed", a.load.seed},
               {"first_error", first_error.empty() ? Json() : Json(first_error)}};
  head.update(report);
  output.print(head,
               load_text(report) + (first_error.empty() ? "" : "the first failure: " + first_error + "\n"));
}

}  // namespace

Command add_bench_client(CLI::App& bench) {
  CLI::App& app =
      add_subcommand(bench, "serve",
                     "Put a server that runs already under load through /v1/completions, and say how "
                     "long its answers took.");
  const auto a = std::make_shared<ClientArguments>();
  const std::string group = "Server";
  add_text(app,
           {"--url", "URL", fmt::format("Where it listens; a key is taken from ${}", kKeyVariable), group},
           a->url);
  add_text(app, {"--model", "NAME", "The model's name there [default: none is named]", group}, a->model);
  add_whole(app, {"--timeout", "SECONDS", "For an answer to go on", group}, {1, 86400}, a->timeout_s);
  add_load_options(app, a->load);
  const std::string load = "Load";
  add_real(app, {"--request-rate", "HERTZ", "Requests a second on average, at random; 0: all at once", load},
           {0, 1e6}, a->load.rate);
  add_whole(app, {"--max-concurrency", "REQUESTS", "In flight at most; others wait for their turn", load},
            {1, 1'000'000}, a->most);
  add_text(app,
           {"--goodput", "LIMITS",
            "Count requests within limits in ms, such as ttft:500,tpot:50,e2el:10000 [default: none]", load},
           a->goals);
  add_json_option(app, a->json);
  return {&app, [a] { run_client(*a); }};
}

}  // namespace shadowkv::apps
