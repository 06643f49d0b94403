#include "server/completion_reply.h"

#include <algorithm>
#include <nlohmann/json.hpp>
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

}  // namespace

CompletionReply::CompletionReply(ReplyFrame frame, const CompletionRequest& request,
                                 std::vector<std::unique_ptr<Stream>> streams, RequestLog log)
    : frame_(std::move(frame)), request_(request), opened_(streams.size(), false), log_(std::move(log)) {
  request_.prompts.clear();
  for (std::size_t i = 0; i < streams.size(); ++i) {
    Choice choice;
    choice.stream = std::move(streams[i]);
    if (!request_.echoes.empty())
      choice.text = request_.echoes[i / static_cast<std::size_t>(request_.choices)];
    choices_.push_back(std::move(choice));
  }
}

CompletionReply::~CompletionReply() {
  try {
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
  choices_.clear();  // cancels what is left
  return streams() ? "data: " + to_json_text(*error_) + "\n\n" : to_json_text(*error_);
}

// What a choice has to say since it was last asked.
void CompletionReply::read(std::size_t i, std::string& events) {
  Choice& choice = choices_[i];
  const RequestReport report = choice.stream->report();  // before its tokens: what had ended has no more
  std::string text = request_.stream ? std::exchange(choice.text, {}) : std::string();
  while (auto token = choice.stream->try_next()) {
    text += token->text;
    if (!token->logprobs.empty()) choice.scored.push_back(std::move(*token));
  }
  if (report.ended) choice.end = report.finish;
  if (!request_.stream) {
    choice.text += text;
    return;
  }
  if (text.empty() && choice.scored.empty() && !choice.end) return;
  const bool is_first = !opened_[i];
  opened_[i] = true;
  events += event(i, text, is_first, choice.end.has_value());
  choice.scored.clear();
}

std::string CompletionReply::event(std::size_t i, const std::string& text, bool is_first, bool is_last) {
  const Choice& choice = choices_[i];
  Json body = frame_json(frame_, request_.is_chat ? "chat.completion.chunk" : "text_completion");
  Json part = {{"index", i}, {"finish_reason", nullptr}, {"logprobs", nullptr}};
  if (request_.is_chat) {
    part["delta"] = Json::object();
    if (is_first) part["delta"]["role"] = "assistant";
    if (is_first || !text.empty()) part["delta"]["content"] = text;
  } else {
    part["text"] = text;
  }
  if (!choice.scored.empty()) {
    part["logprobs"] = request_.is_chat ? chat_logprobs_json(choice.scored, *frame_.engine)
                                        : completion_logprobs_json(choice.scored, *frame_.engine, 0);
  }
  if (is_last) part["finish_reason"] = finish_json(choice.end);
  body["choices"].push_back(std::move(part));
  if (request_.continuous_usage) {
    const RequestReport report = choice.stream->report();
    body["usage"] = to_json(Usage{report.prompt_tokens, report.new_tokens});
  }
  return event_of(body);
}

// Several answers to one prompt read it once, as far as the client is concerned.
Usage CompletionReply::usage() const {
  Usage sum;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const RequestReport report = choices_[i].stream->report();
    if (i % static_cast<std::size_t>(request_.choices) == 0) sum.prompt_tokens += report.prompt_tokens;
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

std::string CompletionReply::whole() const {
  Json body = frame_json(frame_, request_.is_chat ? "chat.completion" : "text_completion");
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    Json part = {{"index", i}, {"finish_reason", finish_json(choice.end)}, {"logprobs", nullptr}};
    if (request_.is_chat) {
      part["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    } else {
      part["text"] = choice.text;
    }
    if (request_.sampling.logprobs) {
      part["logprobs"] = request_.is_chat ? chat_logprobs_json(choice.scored, *frame_.engine)
                                          : completion_logprobs_json(choice.scored, *frame_.engine, 0);
    }
    body["choices"].push_back(std::move(part));
  }
  body["usage"] = to_json(usage());
  return dump(body);
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
    line.new_tokens += report.new_tokens;
    line.first_s = std::max(line.first_s, report.first_s);
    line.total_s = std::max(line.total_s, report.total_s);
    line.outcome = choice.end ? std::string(name_of(*choice.end)) : "cancelled";
  }
  log_(line);
}

}  // namespace shadowkv
