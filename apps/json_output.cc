#include "json_output.h"

#include <charconv>
#include <iostream>

namespace shadowkv::apps {
namespace {

// "12" as 12, "1.5" as 1.5, anything else as text.
Json value_json(const std::string& text) {
  const char* end = text.data() + text.size();
  int64_t whole = 0;
  if (const auto [rest, error] = std::from_chars(text.data(), end, whole);
      error == std::errc() && rest == end) {
    return whole;
  }
  double real = 0;
  if (const auto [rest, error] = std::from_chars(text.data(), end, real);
      error == std::errc() && rest == end) {
    return real;
  }
  return text;
}

Json tiers_json(const std::array<int64_t, 2>& bytes) {
  return {{"device", bytes[0]}, {"host", bytes[1]}};
}

}  // namespace

Json to_json(const AttentionConfig& config) {
  Json json = Json::object();
  for (const AttentionOption& option : list_options(config)) json[option.name] = value_json(option.value);
  return json;
}

Json to_json(const ModelInfo& model) {
  return {{"name", model.name},
          {"architecture", model.architecture},
          {"layers", model.layers},
          {"hidden", model.hidden},
          {"heads", model.heads},
          {"kv_heads", model.kv_heads},
          {"head_dim", model.head_dim},
          {"inner", model.inner},
          {"vocab_size", model.vocab_size},
          {"context", model.context},
          {"parameters", model.parameters},
          {"tied_embeddings", model.tied_embeddings},
          {"has_tokenizer", model.has_tokenizer}};
}

Json to_json(const LinkBytes& link) {
  return {{"read", link.read},
          {"written", link.written},
          {"moved_up", link.moved_up},
          {"moved_down", link.moved_down}};
}

Json to_json(const SessionStatistics& s) {
  return {
      {"held_bytes", tiers_json(s.held_bytes)},
      {"decode_steps", s.decode_steps},
      {"context_tokens", s.context_tokens},
      {"attended_tokens", s.attended_tokens},
      {"attended_share", ratio_json(s.attended_tokens, static_cast<double>(s.context_tokens))},
      {"chosen_chunks", s.chosen_chunks},
      {"slot_hits", s.slot_hits},
      {"slot_hit_rate", ratio_json(static_cast<double>(s.slot_hits), static_cast<double>(s.chosen_chunks))},
      {"link_bytes", to_json(s.link)}};
}

Json to_json(const EngineMemory& memory) {
  Json json = {{"held", tiers_json(memory.held)},
               {"peak", tiers_json(memory.peak)},
               {"budget", tiers_json(memory.budget)}};
  Json& purposes = json["by_purpose"] = Json::object();
  for (const auto& [name, bytes] : memory.by_purpose) purposes[name] = tiers_json(bytes);
  return json;
}

Json to_json(const DivergenceSummary& s) {
  if (s.steps == 0) return {{"steps", 0}};
  return {{"steps", s.steps}, {"mean", s.mean}, {"median", s.median},    {"p90", s.p90},
          {"p99", s.p99},     {"max", s.max},   {"same_top", s.same_top}};
}

Json footprint_json(const SequenceFootprint& footprint) {
  return {{"device", footprint.device}, {"host", footprint.host}, {"either", footprint.either}};
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void print_json(const Json& json) {
  std::cout << dump(json) << "\n";
}

Json ratio_json(double a, double b) {
  return b == 0 ? Json(nullptr) : Json(a / b);
}

}  // namespace shadowkv::apps
