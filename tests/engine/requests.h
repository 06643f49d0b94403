// Requests of many kinds over the small golden checkpoint, and what each answers when it is alone.
#pragma once

#include <gtest/gtest.h>

#include <random>
#include <span>
#include <utility>
#include <vector>

#include "engine/engines.h"
#include "shadowkv/service.h"

namespace shadowkv::testing {

// The answer of a plain loop over a session: one sequence, one token after the other. parts: where a prompt
// is cut that is read in several turns.
inline std::vector<int32_t> answer_alone(Engine& engine, const AttentionConfig& method,
                                         const ServiceRequest& request,
                                         const std::vector<int64_t>& parts = {}) {
  const auto session = engine.open({&method, 1});
  const auto prompt = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t most = std::min(request.max_new_tokens, engine.model().context - prompt);
  const SequenceId id = session->add(prompt + most);
  Sampler sampler = engine.make_sampler(request.sampling, request.prompt_ids, request.ignore_eos);
  const auto ends = [&](int32_t token) {
    const std::vector<int32_t>& more = request.sampling.stop_ids;
    return (!request.ignore_eos && engine.is_eos(token)) ||
           std::find(more.begin(), more.end(), token) != more.end();
  };
  std::span<const int32_t> rest = request.prompt_ids;
  int64_t read = 0;
  for (const int64_t end : parts) {
    const auto count = static_cast<std::size_t>(end - std::exchange(read, end));
    (void)session->prefill(id, rest.first(count));
    rest = rest.subspan(count);
  }
  std::vector<int32_t> answer{sampler.pick(session->prefill(id, rest))};
  while (std::ssize(answer) < most && !ends(answer.back()) && !sampler.is_finished()) {
    const SequenceToken next{id, answer.back()};
    answer.push_back(sampler.pick(session->decode(0, {&next, 1})));
  }
  return answer;
}

inline std::vector<int32_t> read_all(Stream& stream) {
  std::vector<int32_t> ids;
  while (const auto event = stream.next()) ids.push_back(event->id);
  return ids;
}

// Bytes of all that belongs to sequences, on both tiers.
inline int64_t held_by_requests(const Engine& engine) {
  int64_t sum = 0;
  for (const auto& [purpose, bytes] : engine.memory().by_purpose) {
    if (purpose != "weights" && purpose != "tables" && purpose != "activations") sum += bytes[0] + bytes[1];
  }
  return sum;
}

struct KnownRequest {
  ServiceRequest request;
  std::vector<int32_t> answer;
  std::vector<std::vector<int32_t>> in_parts = {};  // answers to a prompt that is read as follow-up turns
};

// Everything that changes logits before a token is drawn from them.
inline SamplingParams changed_logits(uint64_t seed) {
  return {.temperature = 0.8,
          .min_p = 0.02,
          .seed = seed,
          .repetition_penalty = 1.3,
          .presence_penalty = 0.5,
          .frequency_penalty = 0.25,
          .logit_bias = {{5, 3.0}, {17, -100.0}},
          .min_tokens = 1,
          .stop_ids = {9, 11}};
}

// Prompts of 1 to 70 tokens; answers of 1 to 24 tokens, greedy and drawn, from logits as they are and
// changed, some with log-probabilities.
inline std::vector<KnownRequest> known_requests(Engine& engine, const AttentionConfig& method, int count) {
  std::mt19937 random(17);
  const auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  std::vector<KnownRequest> known;
  for (int i = 0; i < count; ++i) {
    ServiceRequest request;
    const int64_t tokens = between(1, 70);
    request.prompt_ids = random_ids(tokens, static_cast<uint32_t>(i + 1));
    request.max_new_tokens = between(1, 24);
    request.ignore_eos = i % 3 != 0;
    if (i % 4 == 1) {
      request.sampling = {.temperature = 0.9, .top_k = 40, .top_p = 0.95, .seed = static_cast<uint64_t>(i)};
    }
    if (i % 8 == 7) {
      request.sampling = {.temperature = 1.5, .seed = static_cast<uint64_t>(i), .json_object = true};
      request.ignore_eos = false;
    }
    if (i % 4 == 2) request.sampling = changed_logits(static_cast<uint64_t>(i));
    if (i % 8 == 6) request.sampling.logprobs = i % 5;
    known.push_back({request, answer_alone(engine, method, request)});
  }
  return known;
}

}  // namespace shadowkv::testing
