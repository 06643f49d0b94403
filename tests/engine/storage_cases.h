// Every way in which a sequence's state is kept, for tests of what becomes of it.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "engine/engines.h"
#include "support/sanitizer.h"

namespace shadowkv::testing {

struct StorageCase {
  std::string name;
  AttentionConfig config;
  std::string dtype = "float32";
};

inline std::string name_of_case(const ::testing::TestParamInfo<StorageCase>& info) {
  return info.param.name;
}

inline AttentionConfig with(AttentionConfig config, const std::function<void(AttentionConfig&)>& change) {
  change(config);
  return config;
}

inline std::unique_ptr<Engine> engine_of(const std::string& dtype, int64_t device_bytes = 0) {
  EngineOptions options = small_engine_options();
  options.dtype = dtype;
  options.device_bytes = device_bytes;
  return Engine::load(options);
}

inline const std::vector<StorageCase>& storage_cases() {
  static const std::vector<StorageCase> all = [] {
    const auto int8 = [](AttentionConfig& c) {
      c.factors = c.values = StorageType::int8;
      c.sketch_bits = 2;
    };
    AttentionConfig landmarks = preset("paper");
    landmarks.outlier_chunks = 2;
    landmarks.sparse_budget = 32;
    return std::vector<StorageCase>{
        {"full", full_attention()},
        {"full_bf16", full_attention(), "bfloat16"},
        {"full_int8", with(full_attention(), [](AttentionConfig& c) { c.values = StorageType::int8; })},
        {"shadow_int8", with(small_shadow(), int8)},
        {"shadow_bf16",
         with(small_shadow(), [](AttentionConfig& c) { c.factors = c.values = StorageType::bfloat16; }),
         "bfloat16"},
        {"shadow_host", with(small_shadow(), [](AttentionConfig& c) { c.placement = Placement::host; })},
        {"shadow_exact_below", with(small_shadow(), [](AttentionConfig& c) { c.exact_below = 350; })},
        {"quest", with(preset("quest"),
                       [](AttentionConfig& c) {
                         c.dense_layers = 1;
                         c.sparse_budget = 32;
                       })},
        {"quest_int8_bf16",
         with(preset("quest"),
              [](AttentionConfig& c) {
                c.dense_layers = 0;
                c.sparse_budget = 32;
                c.values = StorageType::int8;
              }),
         "bfloat16"},
        {"landmarks", landmarks},
        {"landmarks_int8", with(landmarks, [](AttentionConfig& c) { c.landmarks = StorageType::int8; })}};
  }();
  return all;
}

// Those of which prefixes are kept, and segments that make them so; under sanitizers, where each takes ten
// times as long, one of each kind.
inline std::vector<StorageCase> prefix_storage_cases() {
  std::vector<StorageCase> cases = storage_cases();
  cases.push_back({"quest_in_segments", with(preset("quest"), [](AttentionConfig& c) {
                     c.dense_layers = 1;
                     c.sparse_budget = 32;
                     c.segment_tokens = 512;
                   })});
  cases.push_back({"shadow_chunks_of_3", with(small_shadow(), [](AttentionConfig& c) { c.chunk_size = 3; })});
  cases.push_back({"shadow_budget_by_length",
                   with(small_shadow(), [](AttentionConfig& c) { c.sparse_budget_share = 0.05; })});
  if (kIsSanitized) {
    std::erase_if(cases, [](const StorageCase& one) {
      return one.name != "full_int8" && one.name != "shadow_exact_below" && one.name != "quest_in_segments";
    });
  }
  return cases;
}

}  // namespace shadowkv::testing
