#include "server/sampling_fields.h"

#include <fmt/format.h>

#include <charconv>
#include <random>

#include "formats/json.h"
#include "server/api_error.h"

namespace shadowkv {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMostTopLogprobs = 20;
constexpr std::size_t kMostBiases = 1024;

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

std::map<int32_t, double> logit_bias_of(const JsonFields& fields) {
  std::map<int32_t, double> bias;
  const Json* given = fields.find("logit_bias");
  if (given == nullptr) return bias;
  if (!given->is_object() || given->size() > kMostBiases) {
    throw bad_request(fmt::format("logit_bias must be an object of at most {} token ids", kMostBiases),
                      "logit_bias", "invalid_type");
  }
  for (const auto& [key, value] : given->items()) {
    int32_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc{} || end != key.data() + key.size() || id < 0) {
      throw bad_request(fmt::format("logit_bias names \"{}\", which is no token id", key), "logit_bias",
                        "invalid_value");
    }
    bias[id] = JsonFields(*given, "logit_bias.").number(key.c_str(), {-100, 100}).value_or(0);
  }
  return bias;
}

// A text or a list of texts.
std::vector<std::string> stops_of(const JsonFields& fields) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return {};
  if (stop->is_string()) return {stop->get<std::string>()};
  const auto is_text = [](const Json& one) { return one.is_string(); };
  if (!stop->is_array() || !std::all_of(stop->begin(), stop->end(), is_text)) {
    throw bad_request(fmt::format("stop = {} must be a string or a list of strings", json_text(*stop)),
                      "stop", "invalid_type");
  }
  return stop->get<std::vector<std::string>>();
}

std::vector<int32_t> stop_ids_of(const JsonFields& fields) {
  const Json* ids = fields.find("stop_token_ids");
  if (ids == nullptr) return {};
  const auto is_id = [](const Json& id) { return id.is_number_integer() && id >= 0 && id <= INT32_MAX; };
  if (!ids->is_array() || !std::all_of(ids->begin(), ids->end(), is_id)) {
    throw bad_request("stop_token_ids must be a list of token ids", "stop_token_ids", "invalid_type");
  }
  return ids->get<std::vector<int32_t>>();
}

// What the answer must be: "text", "json_object", or "json_schema" with one.
void read_response_format(const JsonFields& fields, SamplingParams& sampling) {
  const Json* format = fields.find("response_format");
  if (format == nullptr) return;
  const JsonFields inner(*format, "response_format.");
  const std::string type = inner.text("type").value_or("");
  if (type == "json_object") {
    sampling.json_object = true;
  } else if (type == "json_schema") {
    const Json* named = inner.find("json_schema");
    const Json* schema = named == nullptr || !named->is_object() || !named->contains("schema")
                             ? nullptr
                             : &named->at("schema");
    if (schema == nullptr) {
      throw bad_request("response_format.json_schema.schema is missing", "response_format",
                        "missing_required_parameter");
    }
    sampling.json_schema = schema->dump();
  } else if (type != "text") {
    throw bad_request(fmt::format("response_format.type = \"{}\" is unknown; known are text, json_object and "
                                  "json_schema",
                                  type),
                      "response_format", "invalid_value");
  }
}

}  // namespace

SamplingParams sampling_of(const JsonFields& fields) {
  SamplingParams sampling;
  sampling.temperature = fields.number("temperature", {0, 2}).value_or(1);
  sampling.top_p = fields.number("top_p", {0, 1}).value_or(1);
  sampling.top_k = std::max<int64_t>(0, fields.whole("top_k", {-1, INT32_MAX}).value_or(0));
  sampling.min_p = fields.number("min_p", {0, 1}).value_or(0);
  sampling.repetition_penalty = fields.number("repetition_penalty", {0, 10}).value_or(1);
  sampling.presence_penalty = fields.number("presence_penalty", {-2, 2}).value_or(0);
  sampling.frequency_penalty = fields.number("frequency_penalty", {-2, 2}).value_or(0);
  sampling.min_tokens = fields.whole("min_tokens", {0, INT32_MAX}).value_or(0);
  sampling.logit_bias = logit_bias_of(fields);
  sampling.stop = stops_of(fields);
  sampling.stop_ids = stop_ids_of(fields);
  read_response_format(fields, sampling);
  const auto seed = fields.whole("seed", {});
  sampling.seed = seed ? static_cast<uint64_t>(*seed) : random_seed();
  return sampling;
}

std::optional<int64_t> chat_logprobs_of(const JsonFields& fields) {
  const bool wanted = fields.boolean("logprobs").value_or(false);
  const auto top = fields.whole("top_logprobs", {0, kMostTopLogprobs});
  if (top && *top > 0 && !wanted) {
    throw bad_request(fmt::format("top_logprobs = {} is given, but logprobs is not true", *top),
                      "top_logprobs", "invalid_value");
  }
  if (!wanted) return std::nullopt;
  return top.value_or(0);
}

}  // namespace shadowkv
