#include "server/api.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "formats/json.h"
#include "formats/quote.h"
#include "server/completion_json.h"
#include "server/json_fields.h"
#include "server/metrics.h"
#include "server/openapi.h"
#include "server/page.h"
#include "server/tool_request.h"

namespace shadowkv {
namespace {

using Json = nlohmann::json;

constexpr int64_t kJsonDepth = 64;
constexpr std::size_t kMostIdBytes = 128;  // of a client's own x-request-id

int64_t now_s() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(since).count();
}

std::string random_id() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}{:08x}", device(), device(), device());
}

// As long as the given one, whatever the key is.
bool is_same(std::string_view given, std::string_view key) {
  unsigned difference = given.size() == key.size() ? 0 : 1;
  for (std::size_t i = 0; i < given.size(); ++i) {
    const char other = key.empty() ? '\0' : key[i % key.size()];
    difference |= static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(other);
  }
  return difference == 0;
}

// Empty: none is given.
std::string_view bearer_of(const HttpRequest& request) {
  constexpr std::string_view kBearer = "Bearer ";
  const std::string_view given = request.header("authorization");
  return given.starts_with(kBearer) ? given.substr(kBearer.size()) : std::string_view();
}

std::string request_id_of(const HttpRequest& request) {
  std::string id(request.header("x-request-id"));
  const auto is_plain = [](char c) { return c > ' ' && c < 127; };
  if (id.empty() || id.size() > kMostIdBytes || !std::all_of(id.begin(), id.end(), is_plain))
    return random_id();
  return id;
}

Json model_json(const std::string& name, const Engine& engine, int64_t created) {
  return {{"id", name},
          {"object", "model"},
          {"created", created},
          {"root", name},
          {"parent", nullptr},
          {"owned_by", "shadowkv"},
          {"max_model_len", engine.model().context}};
}

ApiError wrong_method(const HttpRequest& request, const char* known) {
  ApiError error(405, "invalid_request_error",
                 fmt::format("{} takes {}, not {}", request.path, known, request.method));
  error.headers.push_back({"Allow", known});
  return error;
}

// Whether a path is one of a route's: {name} is what stands between two slashes, {name*} all that follows.
bool is_at(std::string_view path, std::string_view route) {
  for (std::size_t open = 0; (open = route.find('{')) != std::string_view::npos;) {
    if (!path.starts_with(route.substr(0, open))) return false;
    const std::size_t close = route.find('}');
    path.remove_prefix(open);
    const std::size_t end = route[close - 1] == '*' ? path.size() : std::min(path.find('/'), path.size());
    if (end == 0) return false;
    path.remove_prefix(end);
    route.remove_prefix(close + 1);
  }
  return path == route;
}

constexpr std::string_view kConversations = "/v1/conversations/";
constexpr std::array<std::pair<std::string_view, KeptAction>, 4> kKeptActions = {
    {{"pin", KeptAction::pin},
     {"unpin", KeptAction::unpin},
     {"save", KeptAction::save},
     {"restore", KeptAction::restore}}};

Json kept_json(const KeptPrompt& kept) {
  return {{"id", kept.id},
          {"object", "conversation"},
          {"tokens", kept.tokens},
          {"where", kept.where},
          {"memory_bytes", kept.memory_bytes},
          {"file_bytes", kept.file_bytes},
          {"unused_s", kept.unused_s},
          {"pinned", kept.is_pinned}};
}

}  // namespace

struct Api::Call {
  const HttpRequest& http;
  HttpWake wake;
  std::vector<HttpHeader> headers;  // of the answer

  [[nodiscard]] OrderedJsonDocument body() const {
    return parse_ordered_json(http.body, "the request's body",
                              {.bytes = static_cast<int64_t>(http.body.size()) + 1, .depth = kJsonDepth});
  }
  [[nodiscard]] std::unique_ptr<HttpReply> with(const Json& value) const {
    return std::make_unique<WholeReply>(HttpHead{.headers = headers}, dump(value));
  }
  [[nodiscard]] std::unique_ptr<HttpReply> with(const char* type, std::string text) const {
    return std::make_unique<WholeReply>(HttpHead{.content_type = type, .headers = headers}, std::move(text));
  }
};

const std::vector<Api::Route>& Api::routes() {
  static const std::vector<Route> known = {
      {"GET", "/", &Api::page, false, false},  // holds no secret; what it asks for carries the key
      {"GET", "/health", &Api::health, false, false},
      {"GET", "/version", &Api::show_version, true, false},
      {"GET", "/openapi.json", &Api::openapi, true, false},
      {"GET", "/metrics", &Api::metrics, true, true},
      {"GET", "/v1/models", &Api::models, true, true},
      {"GET", "/v1/models/{model*}", &Api::model, true, true},
      {"GET", "/v1/conversations", &Api::conversations, true, true},
      {"DELETE", "/v1/conversations/{id}", &Api::drop_conversation, true, true},
      {"POST", "/v1/conversations/{id}/{action}", &Api::change_conversation, true, true},
      {"POST", "/tokenize", &Api::tokenize, true, true},
      {"POST", "/detokenize", &Api::detokenize, true, true},
      {"POST", "/v1/chat/completions", &Api::chat, true, true},
      {"POST", "/v1/completions", &Api::completion, true, true},
  };
  return known;
}

Api::Api(ApiOptions options) : options_(std::move(options)) {}

void Api::open(Engine& engine, Service& service) {
  engine_ = &engine;
  service_ = &service;
  tools_ = tool_style_of(engine, options_.tool_format);
  opened_at_ = now_s();
  ready_ = true;
}

std::unique_ptr<HttpReply> Api::handle(const HttpRequest& request, HttpWake wake) noexcept {
  try {
    Call call{
        .http = request, .wake = std::move(wake), .headers = {{"x-request-id", request_id_of(request)}}};
    try {
      return dispatch(call);
    } catch (...) {
      const ApiError error = api_error_of(std::current_exception());
      HttpHead head = head_of(error);
      head.headers.insert(head.headers.end(), call.headers.begin(), call.headers.end());
      return std::make_unique<WholeReply>(std::move(head), to_json_text(error));
    }
  } catch (...) {
    return nullptr;  // no memory even for saying so: the connection ends
  }
}

std::unique_ptr<HttpReply> Api::dispatch(const Call& call) {
  const Route& route = route_of(call.http);
  const bool is_open = options_.open_metrics && route.endpoint == &Api::metrics;
  if (route.needs_key && !is_open) check_key(call.http);
  if (route.needs_model && !ready_) throw unavailable("the model is being loaded; try again later");
  return (this->*route.endpoint)(call);
}

const Api::Route& Api::route_of(const HttpRequest& request) const {
  const char* known = nullptr;
  for (const Route& route : routes()) {
    if (!is_at(request.path, route.path)) continue;
    if (request.method == route.method) return route;
    known = route.method;
  }
  if (known != nullptr) throw wrong_method(request, known);
  throw ApiError(404, "invalid_request_error", fmt::format("there is nothing at {}", request.path));
}

void Api::check_key(const HttpRequest& request) const {
  if (options_.keys.empty()) return;
  const std::string_view given = bearer_of(request);
  bool is_right = false;
  for (const std::string& key : options_.keys) is_right = (!given.empty() && is_same(given, key)) || is_right;
  if (is_right) return;
  throw ApiError(401, "authentication_error",
                 "a valid API key is needed; send it as \"Authorization: Bearer KEY\"", {},
                 "invalid_api_key");
}

// Whoever has another key finds nothing that was kept for this one's prompts. No key has a line's end in it.
std::string Api::salt_of(const HttpRequest& request, const std::string& asked) const {
  return options_.keys.empty() ? asked : fmt::format("{}\n{}", bearer_of(request), asked);
}

// ---- facts ------------------------------------------------------------------------------------------------

std::unique_ptr<HttpReply> Api::health(const Call& call) {
  if (draining_) throw unavailable("the server is ending");
  if (!ready_) throw unavailable("the model is being loaded; try again later");
  return call.with(Json{{"status", "ok"}});
}

std::unique_ptr<HttpReply> Api::show_version(const Call& call) {
  return call.with(Json{{"version", std::string(version())}});
}

std::unique_ptr<HttpReply> Api::openapi(const Call& call) {
  return call.with("application/json", std::string(openapi_text()));
}

std::unique_ptr<HttpReply> Api::page(const Call& call) {
  Page page = page_of(random_id() + random_id());
  page.headers.insert(page.headers.end(), call.headers.begin(), call.headers.end());
  return std::make_unique<WholeReply>(
      HttpHead{.content_type = "text/html; charset=utf-8", .headers = std::move(page.headers)},
      std::move(page.html));
}

std::unique_ptr<HttpReply> Api::models(const Call& call) {
  return call.with(
      Json{{"object", "list"}, {"data", Json::array({model_json(options_.model, *engine_, opened_at_)})}});
}

std::unique_ptr<HttpReply> Api::model(const Call& call) {
  const std::string name = call.http.path.substr(std::string_view("/v1/models/").size());
  if (name == options_.model) return call.with(model_json(options_.model, *engine_, opened_at_));
  throw ApiError(404, "invalid_request_error",
                 fmt::format("model \"{}\" is unknown; \"{}\" is served", name, options_.model), "model",
                 "model_not_found");
}

std::unique_ptr<HttpReply> Api::metrics(const Call& call) {
  return call.with("text/plain; version=0.0.4; charset=utf-8",
                   metrics_text(service_->statistics(), counter_.counts(), options_.model));
}

// ---- what is kept of prompts ------------------------------------------------------------------------------

std::unique_ptr<HttpReply> Api::conversations(const Call& call) {
  Json data = Json::array();
  for (const KeptPrompt& kept : service_->kept_prompts(salt_of(call.http, "")))
    data.push_back(kept_json(kept));
  return call.with(Json{{"object", "list"}, {"data", std::move(data)}});
}

// Those of another key are as though they were not there.
KeptPrompt Api::change_kept(const Call& call, const std::string& id, KeptAction action) {
  if (const auto kept = service_->change_kept_prompt(salt_of(call.http, ""), id, action)) return *kept;
  throw ApiError(404, "invalid_request_error", fmt::format("conversation \"{}\" is not kept", printable(id)),
                 "id", "conversation_not_found");
}

std::unique_ptr<HttpReply> Api::drop_conversation(const Call& call) {
  const std::string id = call.http.path.substr(kConversations.size());
  const KeptPrompt kept = change_kept(call, id, KeptAction::drop);
  return call.with(Json{{"id", kept.id}, {"object", "conversation"}, {"deleted", true}});
}

std::unique_ptr<HttpReply> Api::change_conversation(const Call& call) {
  const std::string rest = call.http.path.substr(kConversations.size());
  const std::size_t slash = rest.find('/');
  const std::string_view name = std::string_view(rest).substr(slash + 1);
  const auto known = std::ranges::find(kKeptActions, name, &std::pair<std::string_view, KeptAction>::first);
  if (known == kKeptActions.end()) {
    throw ApiError(404, "invalid_request_error", fmt::format("there is nothing at {}", call.http.path));
  }
  return call.with(kept_json(change_kept(call, rest.substr(0, slash), known->second)));
}

// ---- texts and ids ----------------------------------------------------------------------------------------

std::unique_ptr<HttpReply> Api::tokenize(const Call& call) {
  const OrderedJsonDocument body = call.body();
  const JsonFields fields(*body);
  (void)tool_request_of(fields);  // what is wrong with tools is refused beside a plain text, too
  std::vector<int32_t> ids;
  if (fields.find("messages") != nullptr) {
    ids = chat_ids_of(*body, served());
  } else {
    auto text = fields.text("prompt");
    if (!text) text = fields.text("content");
    if (!text) throw bad_request("prompt is missing", "prompt", "missing_required_parameter");
    ids = engine_->tokenize(*text);
  }
  return call.with(Json{{"count", ids.size()}, {"max_model_len", engine_->model().context}, {"tokens", ids}});
}

std::unique_ptr<HttpReply> Api::detokenize(const Call& call) {
  const OrderedJsonDocument body = call.body();
  const nlohmann::ordered_json* tokens = JsonFields(*body).find("tokens");
  const auto is_id = [](const nlohmann::ordered_json& id) {
    return id.is_number_integer() && id >= 0 && id <= INT32_MAX;
  };
  if (tokens == nullptr || !tokens->is_array() || !std::all_of(tokens->begin(), tokens->end(), is_id)) {
    throw bad_request("tokens must be a list of token ids", "tokens", "invalid_type");
  }
  const std::string text = engine_->detokenize(tokens->get<std::vector<int32_t>>(), false);
  return call.with(Json{{"prompt", text}, {"content", text}});
}

// ---- answers ----------------------------------------------------------------------------------------------

std::unique_ptr<HttpReply> Api::chat(const Call& call) {
  const OrderedJsonDocument body = call.body();
  return submit(call, chat_request_of(*body, served(), options_.limits), "chatcmpl-");
}

std::unique_ptr<HttpReply> Api::completion(const Call& call) {
  const OrderedJsonDocument body = call.body();
  return submit(call, completion_request_of(*body, served(), options_.limits), "cmpl-");
}

// Answers beyond the first differ by their seed.
std::unique_ptr<HttpReply> Api::submit(const Call& call, const CompletionRequest& request,
                                       const char* prefix) {
  if (draining_) throw unavailable("the server is ending");
  std::vector<std::unique_ptr<Stream>> streams;
  for (const std::vector<int32_t>& prompt : request.prompts) {
    ServiceRequest asked{.prompt_ids = prompt,
                         .sampling = request.sampling,
                         .max_new_tokens = request.max_new_tokens,
                         .ignore_eos = request.ignore_eos,
                         .priority = request.priority,
                         .client = request.user,
                         .cache_salt = salt_of(call.http, request.cache_salt),
                         .on_news = call.wake};
    for (auto& stream : service_->submit_several(std::move(asked), request.best_of)) {
      streams.push_back(std::move(stream));
    }
  }
  ReplyFrame frame{.id = prefix + random_id(),
                   .model = options_.model,
                   .created = now_s(),
                   .headers = call.headers,
                   .engine = engine_,
                   .counter = &counter_};
  return std::make_unique<CompletionReply>(std::move(frame), request, std::move(streams), options_.log);
}

}  // namespace shadowkv
