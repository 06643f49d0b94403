// The JSON of answers, as OpenAI's clients read it.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>

#include "shadowkv/service.h"

namespace shadowkv {

// Text that may hold anything, as JSON on one line.
[[nodiscard]] std::string dump(const nlohmann::json& value);
// A server-sent event.
[[nodiscard]] std::string event_of(const nlohmann::json& value);

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of them
  int64_t new_tokens = 0;
};
[[nodiscard]] nlohmann::json to_json(const Usage& usage);

// null for an answer that goes on, or that was cut.
[[nodiscard]] nlohmann::json finish_json(const std::optional<FinishReason>& reason);

// "logprobs" of a chat's choice, and of a completion's, whose texts begin at text_offset.
[[nodiscard]] nlohmann::json chat_logprobs_json(std::span<const TokenEvent> tokens, const Engine& engine);
[[nodiscard]] nlohmann::json completion_logprobs_json(std::span<const TokenEvent> tokens,
                                                      const Engine& engine, int64_t text_offset);

}  // namespace shadowkv
