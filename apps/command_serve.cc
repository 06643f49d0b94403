// shadowkv serve: OpenAI's interface over HTTP, for one model.
#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/bytes.h"
#include "base/check.h"
#include "commands.h"
#include "engine_loading.h"
#include "interrupt.h"
#include "methods.h"
#include "named_model.h"
#include "server/api.h"
#include "server/http_server.h"

namespace shadowkv::apps {
namespace {

using namespace std::chrono_literals;

constexpr auto kLook = 50ms;  // between two looks for a signal
constexpr const char* kKeyVariable = "SHADOWKV_API_KEY";

struct Arguments {
  EngineOptions engine;
  AttentionArguments attention;
  // What is kept gives way to every request: a limit for machines with room for more than is of use.
  ServiceOptions service = {.prefix_cache_bytes = int64_t{16} << 30};
  HttpServerOptions http;
  ApiOptions api;
  std::filesystem::path key_file;
  int64_t port = 8000, comment_s = 15, request_s = 60, write_s = 60, drain_s = 600;
  std::string tool_format = "auto";
  bool open = false, quiet = false;
};

void declare_listening(CLI::App& app, Arguments& a) {
  const std::string group = "Listening";
  add_text(app, {"--host", "ADDRESS", "Address to listen at; other machines reach 0.0.0.0 or ::", group},
           a.http.host);
  add_whole(app, {"--port", "PORT", "Port to listen at; 0 takes one that is free", group}, {0, 65535},
            a.port);
  add_path(app,
           {"--api-key-file", "FILE",
            fmt::format("Keys, one a line, of which a client must send one; ${} is another [default: none]",
                        kKeyVariable),
            group},
           a.key_file);
  add_flag(app, {"--allow-without-key", "", "Listen to other machines without a key", group}, a.open);
  add_flag(app, {"--open-metrics", "", "Show /metrics to those without a key", group}, a.api.open_metrics);
  add_text(app, {"--served-model-name", "NAME", "The model's name for clients [default: its file's]", group},
           a.api.model);
  add_text(app,
           {"--tool-format", "NAME",
            "How the model writes calls of tools: hermes, llama, mistral, glm, or auto, as its chat template "
            "writes them",
            group},
           a.tool_format);
  add_flag(app, {"--quiet", "", "Log no line for each request", group}, a.quiet);
}

void declare_limits(CLI::App& app, Arguments& a) {
  const std::string group = "Limits";
  add_whole(app, {"--max-running", "REQUESTS", "Requests that answer at a time", group}, {1, 4096},
            a.service.max_running);
  add_whole(app, {"--max-reading", "PROMPTS", "Prompts that are read in turns, short ones first", group},
            {1, 4096}, a.service.max_reading);
  add_whole(app, {"--max-waiting", "REQUESTS", "Requests that wait; more are refused with 429", group},
            {1, 1'000'000}, a.service.max_waiting);
  add_bytes_or_none(
      app,
      {"--prefix-cache", "BYTES",
       "Most memory of what is kept of prompts, for requests that begin alike; 0 keeps nothing", group},
      a.service.prefix_cache_bytes);
  add_text(
      app,
      {"--prefix-cache-dir", "FOLDER",
       "Where what would have to leave memory is kept in files, also for the next start [default: nowhere]",
       group},
      a.service.prefix_cache_dir);
  add_bytes(app,
            {"--prefix-cache-disk", "BYTES", "Most of these files; the least recently used go first", group},
            format_bytes(a.service.prefix_cache_disk_bytes), a.service.prefix_cache_disk_bytes);
  add_real(app,
           {"--max-gap", "TIMES",
            "Longest gap between an answer's tokens while prompts are read, in gaps without", group},
           {1, 1000, true}, a.service.max_gap);
  add_whole(app, {"--default-max-tokens", "TOKENS", "Longest answer where a chat does not say", group},
            {1, kMostTokens}, a.api.limits.default_max_tokens);
  add_whole(app, {"--max-prompt", "TOKENS", "Longest prompt; 0: the model's context", group},
            {0, kMostTokens}, a.api.limits.max_prompt_tokens);
  add_whole(app,
            {"--max-output", "TOKENS", "Longest answer that may be asked for; 0: the model's context", group},
            {0, kMostTokens}, a.api.limits.max_new_tokens);
  add_whole(app, {"--max-connections", "CONNECTIONS", "Open at a time; more wait", group}, {1, 65536},
            a.http.max_connections);
  add_bytes(app, {"--max-body", "BYTES", "Largest body of a request", group},
            format_bytes(a.http.max_body_bytes), a.http.max_body_bytes);
  add_bytes(app, {"--max-header", "BYTES", "Largest header of a request", group},
            format_bytes(a.http.max_header_bytes), a.http.max_header_bytes);
  add_whole(app, {"--request-timeout", "SECONDS", "For a request to arrive", group}, {1, 86400}, a.request_s);
  add_whole(app, {"--write-timeout", "SECONDS", "For a client to take what is sent", group}, {1, 86400},
            a.write_s);
  add_whole(app, {"--comment-every", "SECONDS", "A comment in streams that have nothing to say", group},
            {1, 86400}, a.comment_s);
  add_whole(app, {"--drain-timeout", "SECONDS", "For answers to end after SIGTERM or Ctrl-C", group},
            {0, 86400}, a.drain_s);
}

std::string trimmed(const std::string& line) {
  const auto first = line.find_first_not_of(" \t\r");
  return first == std::string::npos ? "" : line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
}

std::vector<std::string> read_keys(const std::filesystem::path& file) {
  std::vector<std::string> keys;
  if (const char* key = std::getenv(kKeyVariable); key != nullptr && *key != '\0') keys.emplace_back(key);
  if (file.empty()) return keys;
  std::ifstream in(file);
  require(in.good(), "{} cannot be read; --api-key-file names a file with one key a line", file.string());
  for (std::string line; std::getline(in, line);) {
    if (const std::string key = trimmed(line); !key.empty() && key.front() != '#') keys.push_back(key);
  }
  require(!keys.empty(), "{} holds no key; write one a line", file.string());
  return keys;
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

std::string time_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  std::array<char, 32> text{};
  gmtime_r(&now, &utc);
  return {text.data(), std::strftime(text.data(), text.size(), "%FT%TZ", &utc)};
}

void log_line(const RequestLine& line) {
  const nlohmann::ordered_json entry = {{"time", time_text()},
                                        {"id", line.id},
                                        {"path", line.path},
                                        {"status", line.status},
                                        {"prompt_tokens", line.prompt_tokens},
                                        {"cached_tokens", line.cached_tokens},
                                        {"new_tokens", line.new_tokens},
                                        {"first_s", line.first_s},
                                        {"total_s", line.total_s},
                                        {"outcome", line.outcome}};
  std::cerr << entry.dump() + "\n";
}

std::string name_of_model(const EngineOptions& options) {
  if (options.model.empty()) return options.shape;
  if (const std::optional<HubModel> named = name_in(options.model)) return named->repository;
  std::filesystem::path path = options.model;
  if (!path.has_filename()) path = path.parent_path();
  return std::filesystem::is_directory(path) ? path.filename().string() : path.stem().string();
}

void finish(Arguments& a) {
  if (a.api.model.empty()) a.api.model = name_of_model(a.engine);  // while it is as it was given
  check_model_options(a.engine);
  a.api.keys = read_keys(a.key_file);
  require(a.open || !a.api.keys.empty() || is_loopback(a.http.host),
          "--host {} lets other machines in, and there is no key; set ${} or --api-key-file, or give "
          "--allow-without-key",
          a.http.host, kKeyVariable);
  require(a.service.prefix_cache_dir.empty() || a.service.prefix_cache_bytes > 0,
          "--prefix-cache-dir = {} was given, but --prefix-cache 0 keeps nothing",
          a.service.prefix_cache_dir);
  a.api.tool_format = tool_format_of(a.tool_format);
  require(a.api.tool_format || a.tool_format == "auto",
          "--tool-format = {} is unknown; known are auto, hermes, llama, mistral and glm", a.tool_format);
  a.service.attention = attention_of(a.attention);
  a.http.port = static_cast<int>(a.port);
  a.http.request_timeout_ms = 1000 * a.request_s;
  a.http.write_timeout_ms = 1000 * a.write_s;
  a.http.comment_every_ms = 1000 * a.comment_s;
  if (!a.quiet) a.api.log = log_line;
  a.service.on_note = [](const std::string& line) { std::cerr << "note: " + line + "\n"; };
}

// Answers that have begun may end; what is left then is cut.
void drain(Api& api, const HttpServer& server, int64_t most_s) {
  api.drain();
  std::cerr << fmt::format("ending: {} requests are being answered; the same signal again cuts them\n",
                           server.answering());
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(most_s);
  while (server.answering() > 0 && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(kLook);
}

// Listens at once, so that whoever asks hears that the model is on its way. Members end in reverse order.
void run(Arguments a) {
  finish(a);
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Service> service;
  Api api(a.api);
  const HttpServer server(
      a.http,
      [&api](const HttpRequest& request, HttpWake wake) { return api.handle(request, std::move(wake)); },
      refuse_http);
  engine = load_engine(a.engine);
  const ResolvedAttention resolved = engine->resolve(a.service.attention);
  service = engine->serve(a.service);
  api.open(*engine, *service);
  print_notes("attention", resolved.notes);
  std::cout << fmt::format("serving {} at http://{}:{}", a.api.model, a.http.host, server.port())
            << std::endl;
  while (!interrupted()) std::this_thread::sleep_for(kLook);
  drain(api, server, a.drain_s);
}

}  // namespace

Command add_serve(CLI::App& root) {
  CLI::App& app = add_subcommand(root, "serve",
                                 "Serve a model to many clients at once through OpenAI's interface: "
                                 "/v1/chat/completions, /v1/completions and more (/openapi.json).");
  const auto arguments = std::make_shared<Arguments>();
  declare_listening(app, *arguments);
  add_model_options(app, arguments->engine);
  add_attention_options(app, arguments->attention);
  declare_limits(app, *arguments);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
