// /v1/chat/completions and /v1/completions: the body of a request, checked.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "server/tool_call_parser.h"
#include "server/tool_style.h"
#include "shadowkv/service.h"

namespace shadowkv {

struct RequestLimits {
  int64_t default_max_tokens = 4096;  // of an answer that does not say; the context may end it sooner
  int64_t max_prompt_tokens = 0;      // of each prompt; 0: the model's context
  int64_t max_new_tokens = 0;         // of each answer; 0: the model's context
  int64_t max_choices = 16;           // answers made for one request, over all its prompts
};

struct CompletionRequest {
  bool is_chat = false;
  std::vector<std::vector<int32_t>> prompts;  // one where it is a chat
  std::vector<std::string> echoes;            // text to put before each prompt's answer; empty: none
  int64_t choices = 1;                        // answers to each prompt that are shown
  int64_t best_of = 1;                        // that are made: the likeliest are shown, best first
  int64_t max_new_tokens = 0;
  SamplingParams sampling;
  bool show_logprobs = false;  // of those that `sampling` asks for
  bool ignore_eos = false;
  bool stream = false;
  bool include_usage = false;     // in a last event of a stream
  bool continuous_usage = false;  // in every event
  int priority = 0;
  std::string user;
  std::string cache_salt;
  std::optional<ToolParsing> tools;   // where answers may hold calls of tools
  std::optional<int32_t> open_token;  // that stands for their `open` in an answer
};

// The model that is served.
struct ServedModel {
  const Engine& engine;
  const std::string& name;  // for clients
  const ToolStyle& tools;
};

// Throw ApiError naming the field for what is malformed, out of range or not supported.
[[nodiscard]] CompletionRequest chat_request_of(const nlohmann::ordered_json& body, const ServedModel& model,
                                                const RequestLimits& limits);
[[nodiscard]] CompletionRequest completion_request_of(const nlohmann::ordered_json& body,
                                                      const ServedModel& model, const RequestLimits& limits);

// Ids of a chat: "messages", "tools", "tool_choice", "chat_template_kwargs", "add_generation_prompt".
[[nodiscard]] std::vector<int32_t> chat_ids_of(const nlohmann::ordered_json& body, const ServedModel& model);

}  // namespace shadowkv
