// One sample being made: what all generators need, and how each of them grows to a length.
#pragma once

#include <functional>
#include <string>

#include "eval/corpus.h"
#include "eval/fit.h"
#include "eval/random.h"
#include "eval/sample.h"

namespace shadowkv::eval {

// Which of RULER's releases a layout follows, where they differ: today's, or that of 2024 that most published
// figures come from.
enum class Edition : uint8_t { current, y2024 };

struct Draw {
  std::string task;    // for messages and for the seed
  int64_t length = 0;  // of prompt and answer together
  int64_t index = 0;   // of the sample among those of its task and length
  uint64_t seed = 0;
  Edition edition = Edition::current;
  Corpus& corpus;
  const CountTokens& count;

  // The sample's own random numbers, from their beginning.
  [[nodiscard]] Random random() const;
};

// What a generator makes for one size of its haystack.
struct Draft {
  Prompt prompt;
  std::vector<std::string> outputs;
};

// The largest draft within the range of sizes whose prompt leaves room for the answer. Throws InvalidInput
// where the smallest is too long.
[[nodiscard]] Sample fit_sample(const Draw& draw, int64_t max_new_tokens, SizeRange sizes,
                                const std::function<Draft(int64_t size)>& make);

}  // namespace shadowkv::eval
