// Several answers to one prompt, of which the one that the model finds likeliest is given.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "json_output.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

// Of its tokens, where they came with log-probabilities: at most 0, whatever its length; 0 without tokens.
[[nodiscard]] double mean_logprob(const GenerateResult& answer);
// Place of the answer whose mean is highest; of equals the first. At least one.
[[nodiscard]] std::size_t likeliest(std::span<const GenerateResult> answers);

// The prompt is read once; the i-th answer is what the request with a seed that is larger by i would be
// answered, with log-probabilities. Statistics are those of all together. Throws what Engine::generate()
// does, and Interrupted.
[[nodiscard]] std::vector<GenerateResult> several_answers(Engine& engine, const GenerateRequest& request,
                                                          int64_t count);

// {"chosen": its place, "answers": [{"mean_logprob": .., "tokens": .., "finish": .., "text": ..}, ..]}
[[nodiscard]] Json best_of_json(std::span<const GenerateResult> answers);

}  // namespace shadowkv::apps
