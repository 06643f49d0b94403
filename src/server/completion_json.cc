#include "server/completion_json.h"

#include <nlohmann/json.hpp>

namespace shadowkv {
namespace {

using Json = nlohmann::json;

std::string text_of(int32_t id, const Engine& engine) {
  return engine.detokenize({&id, 1}, false);
}

Json scored_json(const TokenLogprob& scored, const Engine& engine) {
  const std::string text = text_of(scored.id, engine);
  Json bytes = Json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", text}, {"logprob", scored.logprob}, {"bytes", std::move(bytes)}};
}

}  // namespace

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string event_of(const Json& value) {
  return "data: " + dump(value) + "\n\n";
}

Json to_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.new_tokens},
          {"total_tokens", usage.prompt_tokens + usage.new_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

Json finish_json(const std::optional<FinishReason>& reason) {
  if (!reason || *reason == FinishReason::cancelled) return nullptr;
  return std::string(name_of(*reason));
}

Json chat_logprobs_json(std::span<const TokenEvent> tokens, const Engine& engine) {
  Json content = Json::array();
  for (const TokenEvent& token : tokens) {
    if (token.logprobs.empty()) continue;
    Json entry = scored_json(token.logprobs.front(), engine);
    Json best = Json::array();
    for (std::size_t i = 1; i < token.logprobs.size(); ++i) {
      best.push_back(scored_json(token.logprobs[i], engine));
    }
    entry["top_logprobs"] = std::move(best);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json completion_logprobs_json(std::span<const TokenEvent> tokens, const Engine& engine, int64_t text_offset) {
  Json texts = Json::array(), logprobs = Json::array(), best = Json::array(), offsets = Json::array();
  for (const TokenEvent& token : tokens) {
    if (token.logprobs.empty()) continue;
    const std::string text = text_of(token.logprobs.front().id, engine);
    Json top = Json::object();
    for (std::size_t i = 1; i < token.logprobs.size(); ++i) {
      top[text_of(token.logprobs[i].id, engine)] = token.logprobs[i].logprob;
    }
    texts.push_back(text);
    logprobs.push_back(token.logprobs.front().logprob);
    best.push_back(std::move(top));
    offsets.push_back(text_offset);
    text_offset += static_cast<int64_t>(text.size());
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(best)},
          {"text_offset", std::move(offsets)}};
}

}  // namespace shadowkv
