// Sequences of made-up tokens over a golden model, for tests of whole steps on a GPU.
#pragma once

#include <filesystem>
#include <vector>

#include "support/file_model.h"
#include "support/test_data.h"

namespace shadowkv::testing {

inline const std::filesystem::path kGpuModel = test_data() / "golden/llama_gqa/f32.gguf";

inline int32_t made_up_token(int64_t sequence, int64_t place) {
  return static_cast<int32_t>((sequence * 31 + place * 7 + place * place) % 288);
}

// `count` sequences that differ, the s-th with a prompt of prompt_tokens + s tokens read and room for `more`.
inline std::vector<SeqId> read_prompts(Methods& methods, int64_t count, int64_t prompt_tokens, int64_t more) {
  std::vector<SeqId> ids;
  for (int64_t s = 0; s < count; ++s) {
    std::vector<int32_t> prompt;
    for (int64_t i = 0; i < prompt_tokens + s; ++i) prompt.push_back(made_up_token(s, i));
    ids.push_back(s + 3);
    (void)methods.prefill(ids.back(), prompt, more);
  }
  return ids;
}

}  // namespace shadowkv::testing
