#include "server/completion_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "formats/json.h"
#include "server/api_error.h"
#include "server/chat_messages.h"
#include "server/json_fields.h"
#include "server/sampling_fields.h"
#include "server/tool_request.h"

namespace shadowkv {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMostTokens = int64_t{1} << 30;
constexpr int64_t kShortAnswer = 16;  // what /v1/completions answers with where nothing is said

void check_model(const JsonFields& fields, const std::string& served) {
  const auto model = fields.text("model");
  if (!model || *model == served) return;
  throw ApiError(404, "invalid_request_error",
                 fmt::format("model \"{}\" is unknown; \"{}\" is served", *model, served), "model",
                 "model_not_found");
}

// What other servers know and this one does not do yet, with the values that ask for nothing.
void refuse_unsupported(const JsonFields& fields, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const Json* value = fields.find(name);
    const bool asks_nothing = !value || *value == Json(false) || *value == Json("") ||
                              *value == Json("none") || *value == Json("auto") || *value == Json(1) ||
                              (value->is_structured() && value->empty());
    if (!asks_nothing) {
      throw bad_request(fmt::format("{} is not supported; leave it out", name), name,
                        "unsupported_parameter");
    }
  }
}

void read_stream_options(const JsonFields& fields, CompletionRequest& request) {
  request.stream = fields.boolean("stream").value_or(false);
  const Json* options = fields.find("stream_options");
  if (options == nullptr) return;
  const JsonFields inner(*options, "stream_options.");
  if (!request.stream) {
    throw bad_request("stream_options is given, but stream is not true", "stream_options", "invalid_value");
  }
  request.include_usage = inner.boolean("include_usage").value_or(false);
  request.continuous_usage = inner.boolean("continuous_usage_stats").value_or(false);
}

void refuse_known(const JsonFields& fields) {
  refuse_unsupported(
      fields, {"suffix", "truncate_prompt_tokens", "continue_final_message", "use_beam_search", "functions",
               "function_call", "audio", "include_stop_str_in_output", "return_token_ids"});
  if (!fields.boolean("skip_special_tokens").value_or(true)) {
    throw bad_request("skip_special_tokens = false is not supported; leave it out", "skip_special_tokens",
                      "unsupported_parameter");
  }
}

// What both kinds of request have in common.
CompletionRequest common_of(const JsonFields& fields, const std::string& served,
                            const RequestLimits& limits) {
  check_model(fields, served);
  refuse_known(fields);
  CompletionRequest request;
  request.choices = fields.whole("n", {1, limits.max_choices}).value_or(1);
  request.best_of = request.choices;
  request.sampling = sampling_of(fields);
  request.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  request.priority = static_cast<int>(fields.whole("priority", {-1000, 1000}).value_or(0));
  request.user = fields.text("user").value_or("");
  request.cache_salt = fields.text("cache_salt").value_or("");
  read_stream_options(fields, request);
  return request;
}

std::vector<int32_t> ids_of(const Json& list) {
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX) {
      throw bad_request(fmt::format("prompt holds {}, where token ids must stand", json_text(id)), "prompt",
                        "invalid_type");
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

// A text, ids, or a list of one or the other.
void add_prompts(const Json& prompt, const Engine& engine, std::vector<std::vector<int32_t>>& to) {
  if (prompt.is_string()) {
    to.push_back(engine.tokenize(prompt.get_ref<const std::string&>()));
  } else if (prompt.is_array() && !prompt.empty() && prompt.front().is_number()) {
    to.push_back(ids_of(prompt));
  } else if (prompt.is_array()) {
    for (const Json& one : prompt) {
      if (!one.is_string() && !(one.is_array() && !one.empty() && one.front().is_number())) {
        throw bad_request("prompt must be a text, a list of token ids, or a list of these", "prompt",
                          "invalid_type");
      }
      add_prompts(one, engine, to);
    }
  } else {
    throw bad_request("prompt must be a text, a list of token ids, or a list of these", "prompt",
                      "invalid_type");
  }
}

// Most tokens of an answer, by the first of these names that the request has.
int64_t most_tokens_of(const JsonFields& fields, std::initializer_list<const char*> names, int64_t fallback,
                       const RequestLimits& limits) {
  const int64_t most = limits.max_new_tokens > 0 ? limits.max_new_tokens : kMostTokens;
  for (const char* name : names) {
    if (const auto given = fields.whole(name, {1, most})) return *given;
  }
  return std::min(fallback, most);
}

void check_prompts(const CompletionRequest& request, const RequestLimits& limits) {
  for (const std::vector<int32_t>& prompt : request.prompts) {
    if (limits.max_prompt_tokens == 0 || std::ssize(prompt) <= limits.max_prompt_tokens) continue;
    throw bad_request(fmt::format("a prompt of {} tokens was given, and this server takes {} at most; "
                                  "shorten it",
                                  prompt.size(), limits.max_prompt_tokens),
                      request.is_chat ? "messages" : "prompt", "context_length_exceeded");
  }
}

// Which answers are the best shows when all have ended, by log-probabilities that nobody need have asked for.
void read_best_of(const JsonFields& fields, const RequestLimits& limits, CompletionRequest& request) {
  request.best_of = fields.whole("best_of", {1, limits.max_choices}).value_or(request.choices);
  if (request.best_of < request.choices) {
    throw bad_request(fmt::format("best_of = {} is less than n = {}: the n best of so many are wanted",
                                  request.best_of, request.choices),
                      "best_of", "invalid_value");
  }
  if (request.best_of == request.choices) return;
  if (request.stream) {
    throw bad_request(fmt::format("best_of = {} is more than n = {}, and which are the best is not known "
                                  "before all have ended; leave out best_of or stream",
                                  request.best_of, request.choices),
                      "best_of", "invalid_value");
  }
  if (!request.sampling.logprobs) request.sampling.logprobs = 0;
}

void check_answers(const CompletionRequest& request, const RequestLimits& limits) {
  const int64_t answers = std::ssize(request.prompts) * request.best_of;
  if (answers <= limits.max_choices) return;
  const char* name = request.best_of > request.choices ? "best_of" : "n";
  throw bad_request(fmt::format("{} prompts with {} = {} are {} answers; one request may have {}",
                                request.prompts.size(), name, request.best_of, answers, limits.max_choices),
                    name, "invalid_value");
}

std::vector<int32_t> chat_ids_of(const JsonFields& fields, const ToolRequest& tools,
                                 const ServedModel& model) {
  const Json* given = fields.find("messages");
  if (given == nullptr) throw bad_request("messages is missing", "messages", "missing_required_parameter");
  const Json& told = tools.choice == ToolChoice::none ? Json::array() : tools.tools;
  Json messages = chat_messages_of(*given);
  if (!model.tools.lists_tools || !model.tools.writes_calls) write_tools_into(messages, told, model.tools);
  ChatRequest request{.messages = messages.dump()};
  if (model.tools.lists_tools && !told.empty()) request.tools = told.dump();
  if (const Json* variables = fields.find("chat_template_kwargs")) request.variables = variables->dump();
  request.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(true);
  return model.engine.chat_prompt(request);
}

// The form that an answer must have, as a schema with references of its own.
Json schema_of_form(const SamplingParams& sampling) {
  if (sampling.json_object) return {{"type", "object"}};
  const OrderedJsonDocument form = parse_ordered_json(sampling.json_schema, "the JSON schema");
  if (form->is_object() && !form->contains("$id")) (*form)["$id"] = "answer";
  return std::move(*form);
}

// Whether calls that nobody requires are kept to their schemas: where the syntax shows in text, and nothing
// else is asked of the answer that a constraint does not go with.
bool is_strict_in_text(const ToolRequest& tools, ToolFormat format, const CompletionRequest& request) {
  const bool has_strict = std::find(tools.strict.begin(), tools.strict.end(), true) != tools.strict.end();
  return has_strict && !syntax_of(format).close.empty() && !request.ignore_eos &&
         request.sampling.min_tokens == 0;
}

// What the answer's tokens may make up: calls that are required, calls or a form, or text with calls.
Json schema_of_answer(const ToolRequest& tools, const ToolStyle& style, const CompletionRequest& request) {
  const SamplingParams& sampling = request.sampling;
  const bool has_form = sampling.json_object || !sampling.json_schema.empty();
  // A token that texts leave out cannot be written under a constraint: it becomes the prompt's last.
  const bool is_hidden = style.format == ToolFormat::mistral && style.open_token;
  if (tools.choice == ToolChoice::required)
    return schema_of_calls(tools, style.format, is_hidden ? CallPlace::opened : CallPlace::alone);
  if (has_form && !is_hidden)
    return {{"anyOf", {schema_of_form(sampling), schema_of_calls(tools, style.format, CallPlace::alone)}}};
  if (!has_form && is_strict_in_text(tools, style.format, request))
    return schema_of_calls(tools, style.format, CallPlace::in_text);
  return nullptr;
}

void constrain(const ToolRequest& tools, const ToolStyle& style, CompletionRequest& request) {
  const Json schema = schema_of_answer(tools, style, request);
  if (schema.is_null()) return;
  request.sampling.json_object = false;
  request.sampling.json_schema = schema.dump();
  if (tools.choice != ToolChoice::required || style.format != ToolFormat::mistral || !style.open_token)
    return;
  request.prompts.front().push_back(*style.open_token);
  request.tools->is_opened = true;
}

void add_tools(const ToolRequest& tools, const ToolStyle& style, CompletionRequest& request) {
  if (tools.choice == ToolChoice::none) return;
  request.tools = ToolParsing{.format = style.format, .names = tools.names, .by_pieces = request.stream};
  if (!tools.is_parallel && tools.choice == ToolChoice::automatic) request.tools->most = 1;
  request.open_token = style.open_token;
  constrain(tools, style, request);
}

}  // namespace

std::vector<int32_t> chat_ids_of(const Json& body, const ServedModel& model) {
  const JsonFields fields(body);
  return chat_ids_of(fields, tool_request_of(fields), model);
}

CompletionRequest chat_request_of(const Json& body, const ServedModel& model, const RequestLimits& limits) {
  const JsonFields fields(body);
  CompletionRequest request = common_of(fields, model.name, limits);
  refuse_unsupported(fields, {"logprobs_mode", "modalities", "best_of"});
  request.is_chat = true;
  request.sampling.logprobs = chat_logprobs_of(fields);
  request.show_logprobs = request.sampling.logprobs.has_value();
  request.max_new_tokens =
      most_tokens_of(fields, {"max_completion_tokens", "max_tokens"}, limits.default_max_tokens, limits);
  const ToolRequest tools = tool_request_of(fields);
  request.prompts.push_back(chat_ids_of(fields, tools, model));
  check_prompts(request, limits);
  add_tools(tools, model.tools, request);
  return request;
}

CompletionRequest completion_request_of(const Json& body, const ServedModel& model,
                                        const RequestLimits& limits) {
  const JsonFields fields(body);
  CompletionRequest request = common_of(fields, model.name, limits);
  request.sampling.logprobs = fields.whole("logprobs", {0, 20});
  request.show_logprobs = request.sampling.logprobs.has_value();
  read_best_of(fields, limits, request);
  request.max_new_tokens = most_tokens_of(fields, {"max_tokens"}, kShortAnswer, limits);
  const Json* prompt = fields.find("prompt");
  if (prompt == nullptr) throw bad_request("prompt is missing", "prompt", "missing_required_parameter");
  add_prompts(*prompt, model.engine, request.prompts);
  check_prompts(request, limits);
  check_answers(request, limits);
  const bool echo = fields.boolean("echo").value_or(false);
  if (echo && request.show_logprobs) {
    throw bad_request("echo together with logprobs is not supported; leave one out", "echo",
                      "unsupported_parameter");
  }
  for (const auto& ids : request.prompts)
    request.echoes.push_back(echo ? model.engine.detokenize(ids, false) : "");
  return request;
}

}  // namespace shadowkv
