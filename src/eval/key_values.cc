#include "eval/key_values.h"

#include <fmt/format.h>

#include <bit>

#include "eval/text.h"

namespace shadowkv::eval {
namespace {

constexpr const char* kQuestion =
    "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON "
    "data:\n{context}\n\nKey: "
    "\"{key}\"\n";
constexpr const char* kPrefix = "The value associated with the specified key is: ";
constexpr int64_t kDepths = 6;  // of the key that is asked for, as HELMET has them

std::vector<KeyValue> draw_pairs(int64_t count, Random random) {
  std::vector<KeyValue> pairs;
  for (int64_t i = 0; i < count; ++i) {
    std::string key = random_uuid(random);
    pairs.emplace_back(std::move(key), random_uuid(random));
  }
  return pairs;
}

// The pair asked for: from the first to the last by depth.
const KeyValue& asked_of(const std::vector<KeyValue>& pairs, int64_t index) {
  return pairs[(pairs.size() - 1) * static_cast<std::size_t>(index % kDepths) / (kDepths - 1)];
}

Draft draft_of(int64_t count, const Draw& draw) {
  const std::vector<KeyValue> pairs = draw_pairs(count, draw.random());
  const auto& [key, value] = asked_of(pairs, draw.index);
  return {key_value_prompt(pairs, key), {value}};
}

}  // namespace

Prompt key_value_prompt(std::span<const KeyValue> pairs, std::string_view key) {
  std::vector<std::string> parts;
  parts.reserve(pairs.size());
  for (const auto& [name, value] : pairs) parts.push_back(fmt::format("\"{}\": \"{}\"", name, value));
  const std::string object = fmt::format("{{{}}}", fmt::join(parts, ", "));
  return {fill_in(fill_in(kQuestion, "key", key), "context", object), kPrefix};
}

Sample make_key_values(int64_t pairs, const Draw& draw) {
  Sample sample;
  if (pairs == 0) {
    sample = fit_sample(draw, kKeyValueAnswerTokens, {2, draw.length},
                        [&](int64_t count) { return draft_of(count, draw); });
  } else {
    Draft draft = draft_of(pairs, draw);
    const int64_t tokens = draw.count(draft.prompt) + kKeyValueAnswerTokens;
    sample = {draw.task,
              static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(tokens))),
              draw.index,
              std::move(draft.prompt),
              std::move(draft.outputs),
              kKeyValueAnswerTokens};
  }
  sample.metric = Metric::word;
  return sample;
}

}  // namespace shadowkv::eval
