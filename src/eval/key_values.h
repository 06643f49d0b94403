// Retrieval from a JSON object of random UUID pairs: Retrieve.KV of InfiniteBench, and the sizes of HELMET's
// JSON-KV.
#pragma once

#include <span>
#include <utility>

#include "eval/draw.h"

namespace shadowkv::eval {

inline constexpr int64_t kKeyValueAnswerTokens = 50;

using KeyValue = std::pair<std::string, std::string>;
[[nodiscard]] Prompt key_value_prompt(std::span<const KeyValue> pairs, std::string_view key);

// As many pairs as fit the draw's length, or `pairs` of them where that is not 0: then the draw's length is
// not looked at. The key that is asked for stands at one of six even depths, by the draw's index.
[[nodiscard]] Sample make_key_values(int64_t pairs, const Draw& draw);

}  // namespace shadowkv::eval
