// An engine over the small golden checkpoint, and prompts for it.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "shadowkv/shadowkv.h"

namespace shadowkv::testing {

// Vocabulary of 288, context of 4,096, end of answer 2.
inline EngineOptions small_engine_options() {
  EngineOptions options;
  options.model = std::string(SHADOWKV_TEST_DATA) + "/golden/llama_gqa/f32.gguf";
  options.dtype = "float32";
  options.threads = 2;
  return options;
}

inline std::unique_ptr<Engine> small_engine() {
  return Engine::load(small_engine_options());
}

inline std::vector<int32_t> random_ids(int64_t count, uint32_t seed = 1) {
  std::vector<int32_t> ids;
  uint32_t state = seed;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    ids.push_back(3 + static_cast<int32_t>((state >> 8) % 285));
  }
  return ids;
}

inline AttentionConfig full_attention() {
  return preset("full");
}

// Sparse from the first token, with a budget far below the prompts of these tests.
inline AttentionConfig small_shadow() {
  AttentionConfig config;
  config.exact_below = 0;
  config.sparse_budget = 32;
  config.segment_tokens = 512;
  return config;
}

inline std::vector<float> row_of(const std::vector<float>& logits, std::size_t row, std::size_t width) {
  const auto first = logits.begin() + static_cast<std::ptrdiff_t>(row * width);
  return {first, first + static_cast<std::ptrdiff_t>(width)};
}

inline int32_t best_of(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace shadowkv::testing
