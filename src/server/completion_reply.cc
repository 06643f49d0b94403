#include "server/completion_reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <utility>

namespace shadowkv {
namespace {

using Json = nlohmann::json;

Json frame_json(const ReplyFrame& frame, const char* object) {
  return {{"id", frame.id},
          {"object", object},
          {"created", frame.created},
          {"model", frame.model},
          {"choices", Json::array()}};
}

// Mistral's templates take ids of nine letters and digits alone.
std::string call_id_of(ToolFormat format) {
  std::random_device device;
  if (format == ToolFormat::mistral) return fmt::format("{:08x}{:x}", device(), device() & 0xF);
  return fmt::format("call_{:08x}{:08x}{:08x}", device(), device(), device());
}

}  // namespace

CompletionReply::CompletionReply(ReplyFrame frame, const CompletionRequest& request,
                                 std::vector<std::unique_ptr<Stream>> streams, RequestLog log)
    : frame_(std::move(frame)), request_(request), opened_(streams.size(), false), log_(std::move(log)) {
  request_.prompts.clear();
  for (std::size_t i = 0; i < streams.size(); ++i) {
    Choice choice;
    choice.stream = std::move(streams[i]);
    if (request_.tools) choice.parser.emplace(*request_.tools);
    if (!request_.echoes.empty())
      choice.text = request_.echoes[i / static_cast<std::size_t>(request_.best_of)];
    choices_.push_back(std::move(choice));
  }
}

CompletionReply::~CompletionReply() {
  try {
    count_given_up();
    write_line();
  } catch (...) {  // the log's own trouble
  }
}

HttpHead CompletionReply::head() const {
  HttpHead head = error_ ? head_of(*error_) : HttpHead{};
  if (streams()) {
    head.content_type = "text/event-stream; charset=utf-8";
    head.headers.push_back({"Cache-Control", "no-cache"});
  }
  head.headers.insert(head.headers.end(), frame_.headers.begin(), frame_.headers.end());
  return head;
}

HttpReply::Part CompletionReply::next() noexcept {
  try {
    return next_part();
  } catch (...) {
    return {.text = {}, .ended = true};  // no memory even for saying so
  }
}

bool CompletionReply::has_ended() const {
  return std::all_of(choices_.begin(), choices_.end(), [](const Choice& c) { return c.end.has_value(); });
}

HttpReply::Part CompletionReply::next_part() {
  std::string events;
  try {
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      if (!choices_[i].end) read(i, events);
    }
  } catch (...) {
    return {.text = events + fail(std::current_exception()), .ended = true};
  }
  const bool ended = has_ended();
  if (ended) events += request_.stream ? last_events() : whole();
  began_ = began_ || !events.empty();
  return {.text = std::move(events), .ended = ended};
}

// An error before anything was sent has a status of its own; later it is an event.
std::string CompletionReply::fail(const std::exception_ptr& error) {
  error_ = api_error_of(error);
  for (const Choice& choice : choices_) {
    if (!choice.end) count(choice.stream->report(), RequestEnd::error);
  }
  choices_.clear();  // cancels what is left
  return streams() ? "data: " + to_json_text(*error_) + "\n\n" : to_json_text(*error_);
}

// What has come of a choice, told apart into text and calls; and whether it has ended.
ToolDelta CompletionReply::take(Choice& choice) {
  const RequestReport report = choice.stream->report();  // before its tokens: what had ended has no more
  ToolDelta delta;
  const auto add = [&](ToolDelta more) {
    delta.text += more.text;
    for (ToolDelta::Call& call : more.calls) delta.calls.push_back(std::move(call));
  };
  choice.has_news = false;
  while (auto token = choice.stream->try_next()) {
    choice.has_news = !frame_.engine->model().has_tokenizer;
    if (choice.parser) {
      const bool is_open = token->id == request_.open_token;
      add(choice.parser->add(is_open ? token->text + std::string(syntax_of(request_.tools->format).open)
                                     : token->text));
    } else {
      delta.text += token->text;
    }
    if (token->logprobs.empty()) continue;
    choice.logprob += token->logprobs.front().logprob;
    ++choice.tokens;
    if (request_.show_logprobs) choice.scored.push_back(std::move(*token));
  }
  if (choice.parser && choice.parser->is_done() && !std::exchange(choice.is_cut, true))
    choice.stream->cancel();  // all calls that it may make are there
  if (report.ended) {
    choice.end = choice.is_cut ? FinishReason::stop : report.finish;
    count(report, request_end_of(*choice.end));
  }
  if (choice.parser && choice.end) add(choice.parser->finish());
  return delta;
}

void CompletionReply::add_calls(Choice& choice, const ToolDelta& delta) const {
  for (const ToolDelta::Call& call : delta.calls) {
    if (!call.name.empty())
      choice.calls.push_back({.id = call_id_of(request_.tools->format), .name = call.name, .arguments = {}});
    choice.calls.back().arguments += call.arguments;
  }
}

// What a choice has to say since it was last asked.
void CompletionReply::read(std::size_t i, std::string& events) {
  Choice& choice = choices_[i];
  std::string echo = request_.stream ? std::exchange(choice.text, {}) : std::string();
  ToolDelta delta = take(choice);
  if (!request_.stream) {
    choice.text += delta.text;
    add_calls(choice, delta);
    return;
  }
  delta.text.insert(0, echo);
  const bool is_empty = delta.text.empty() && delta.calls.empty() && choice.scored.empty();
  if (is_empty && !choice.has_news && !choice.end) return;
  const bool is_first = !opened_[i];
  opened_[i] = true;
  events += events_of(i, delta, is_first);
}

Json CompletionReply::finish_json_of(const Choice& choice) const {
  const bool has_calls = choice.parser && choice.parser->calls() > 0;
  return has_calls && choice.end == FinishReason::stop ? Json("tool_calls") : finish_json(choice.end);
}

// One event for the text and one for each piece of a call.
std::string CompletionReply::events_of(std::size_t i, const ToolDelta& delta, bool is_first) {
  if (!request_.is_chat) return event(i, {{"text", delta.text}}, true);
  std::vector<Json> parts;
  if (!delta.text.empty() || (is_first && delta.calls.empty())) parts.push_back({{"content", delta.text}});
  for (const ToolDelta::Call& call : delta.calls) {
    Json piece = {{"index", call.index}, {"function", {{"arguments", call.arguments}}}};
    if (!call.name.empty()) {
      piece["id"] = call_id_of(request_.tools->format);
      piece["type"] = "function";
      piece["function"]["name"] = call.name;
    }
    parts.push_back({{"tool_calls", Json::array({std::move(piece)})}});
  }
  if (parts.empty()) parts.push_back(Json::object());
  if (is_first) parts.front()["role"] = "assistant";
  if (is_first && !parts.front().contains("content")) parts.front()["content"] = nullptr;
  std::string events;
  for (std::size_t k = 0; k < parts.size(); ++k)
    events += event(i, {{"delta", std::move(parts[k])}}, k + 1 == parts.size());
  return events;
}

std::string CompletionReply::event(std::size_t i, const Json& part, bool is_last) {
  Choice& choice = choices_[i];
  Json body = frame_json(frame_, request_.is_chat ? "chat.completion.chunk" : "text_completion");
  Json said = {{"index", i}, {"finish_reason", nullptr}, {"logprobs", nullptr}};
  said.update(part);
  if (!choice.scored.empty()) {
    said["logprobs"] = request_.is_chat ? chat_logprobs_json(choice.scored, *frame_.engine)
                                        : completion_logprobs_json(choice.scored, *frame_.engine, 0);
    choice.scored.clear();
  }
  if (is_last) said["finish_reason"] = finish_json_of(choice);
  body["choices"].push_back(std::move(said));
  if (request_.continuous_usage) {
    const RequestReport report = choice.stream->report();
    body["usage"] = to_json(Usage{report.prompt_tokens, report.cached_tokens, report.new_tokens});
  }
  return event_of(body);
}

// Several answers to one prompt read it once, as far as the client is concerned; those that are not shown
// were made all the same.
Usage CompletionReply::usage() const {
  Usage sum;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const RequestReport report = choices_[i].stream->report();
    if (i % static_cast<std::size_t>(request_.best_of) == 0) {
      sum.prompt_tokens += report.prompt_tokens;
      sum.cached_tokens += report.cached_tokens;
    }
    sum.new_tokens += report.new_tokens;
  }
  return sum;
}

std::string CompletionReply::last_events() const {
  std::string events;
  if (request_.include_usage) {
    Json body = frame_json(frame_, request_.is_chat ? "chat.completion.chunk" : "text_completion");
    body["usage"] = to_json(usage());
    events += event_of(body);
  }
  return events + "data: [DONE]\n\n";
}

// Of each prompt's answers the likeliest, the best first; of equals that with the lower seed.
std::vector<std::size_t> CompletionReply::shown() const {
  std::vector<std::size_t> places(choices_.size());
  std::iota(places.begin(), places.end(), std::size_t{0});
  if (request_.best_of == request_.choices) return places;
  std::vector<std::size_t> best;
  for (auto first = places.begin(); first != places.end(); first += request_.best_of) {
    std::stable_sort(first, first + request_.best_of, [this](std::size_t a, std::size_t b) {
      return choices_[a].mean_logprob() > choices_[b].mean_logprob();
    });
    best.insert(best.end(), first, first + request_.choices);
  }
  return best;
}

Json CompletionReply::json_of(const Choice& choice) const {
  Json part = {{"finish_reason", finish_json_of(choice)}, {"logprobs", nullptr}};
  if (request_.is_chat) {
    part["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    for (const Call& call : choice.calls)
      part["message"]["tool_calls"].push_back(
          {{"id", call.id},
           {"type", "function"},
           {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    if (choice.text.empty() && !choice.calls.empty()) part["message"]["content"] = nullptr;
  } else {
    part["text"] = choice.text;
  }
  if (request_.show_logprobs) {
    part["logprobs"] = request_.is_chat ? chat_logprobs_json(choice.scored, *frame_.engine)
                                        : completion_logprobs_json(choice.scored, *frame_.engine, 0);
  }
  return part;
}

std::string CompletionReply::whole() const {
  Json body = frame_json(frame_, request_.is_chat ? "chat.completion" : "text_completion");
  for (const std::size_t place : shown()) {
    Json part = json_of(choices_[place]);
    part["index"] = body["choices"].size();
    body["choices"].push_back(std::move(part));
  }
  body["usage"] = to_json(usage());
  return dump(body);
}

void CompletionReply::count(const RequestReport& report, RequestEnd end) const {
  if (frame_.counter != nullptr) frame_.counter->add(report, end);
}

// What the client did not wait for.
void CompletionReply::count_given_up() const {
  for (const Choice& choice : choices_) {
    if (!choice.end) count(choice.stream->report(), RequestEnd::abort);
  }
}

void CompletionReply::write_line() const {
  if (!log_) return;
  RequestLine line{.id = frame_.id,
                   .path = request_.is_chat ? "/v1/chat/completions" : "/v1/completions",
                   .status = error_ && !began_ ? error_->status : 200,
                   .outcome = error_ ? error_->type : ""};
  for (const Choice& choice : choices_) {
    const RequestReport report = choice.stream->report();
    line.prompt_tokens += report.prompt_tokens;
    line.cached_tokens += report.cached_tokens;
    line.new_tokens += report.new_tokens;
    line.first_s = std::max(line.first_s, report.first_s);
    line.total_s = std::max(line.total_s, report.total_s);
    line.outcome = choice.end ? std::string(name_of(*choice.end)) : "cancelled";
  }
  log_(line);
}

}  // namespace shadowkv
