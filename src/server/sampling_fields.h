// How a request wants its tokens chosen.
#pragma once

#include <cstdint>
#include <optional>

#include "server/json_fields.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv {

// Defaults are OpenAI's: temperature 1. A request without a seed gets a random one. Throws ApiError.
[[nodiscard]] SamplingParams sampling_of(const JsonFields& fields);
// "logprobs" and "top_logprobs" of a chat.
[[nodiscard]] std::optional<int64_t> chat_logprobs_of(const JsonFields& fields);

}  // namespace shadowkv
