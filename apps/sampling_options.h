// How tokens are chosen and answers end, by options: the same for every command that answers.
#pragma once

#include <string>

#include "option_library.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

struct SamplingArguments {
  SamplingParams params;
  std::string logit_bias, stop_ids, logprobs, json_schema;  // as they are written; empty: not given
};

// --temperature, --top-k, --top-p, --min-p, --seed, the penalties, --logit-bias, --logprobs, --stop,
// --stop-ids,
// --min-tokens, --regex, --json-schema, --json-object.
void add_sampling_options(CLI::App& app, SamplingArguments& arguments);

// Throws InvalidInput for what is out of range, and with both values for what has no effect beside another.
[[nodiscard]] SamplingParams sampling_of(const SamplingArguments& arguments);

}  // namespace shadowkv::apps
