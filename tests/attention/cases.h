// The configurations that the laws of attention are stated over: every choice of every knob in a few of them.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "shadowkv/attention_config.h"
#include "support/sanitizer.h"
#include "support/tiny_model.h"

namespace shadowkv::testing {

struct AttentionCase {
  std::string name;
  AttentionConfig config;
  TinyShape shape = {};
};

inline std::string name_of_case(const ::testing::TestParamInfo<AttentionCase>& info) {
  return info.param.name;
}

// Float32 storage at full rank, small segments, sparse from the first token.
inline AttentionConfig lossless(IndexKind index, int64_t chunk) {
  AttentionConfig config;
  config.exact_below = 0;
  config.index = index;
  config.sketch_bits = 1;
  config.chunk_size = chunk;
  config.sparse_budget = 64;
  config.rank = 1 << 20;
  config.factors = StorageType::float32;
  config.values = StorageType::float32;
  config.outlier_chunks = index == IndexKind::landmarks ? 3 : 0;
  config.segment_tokens = 512;
  config.segment_min_tokens = 128;
  return config;
}

// Whole keys of every layer in float32 beside such values, sparse from the first token.
inline AttentionConfig quest(int64_t chunk, int64_t dense_layers) {
  AttentionConfig config;
  config.method = Method::quest;
  config.exact_below = 0;
  config.dense_layers = dense_layers;
  config.chunk_size = chunk;
  config.sparse_budget = 64;
  config.rerank = 1.0;
  config.values = StorageType::float32;
  return config;
}

inline AttentionConfig with(AttentionConfig config, const std::function<void(AttentionConfig&)>& change) {
  change(config);
  return config;
}

// Each attends to a part of the context and, but for the first, loses something in storage.
inline std::vector<AttentionCase> all_lossy_cases() {
  const auto sketch = [](int64_t chunk) { return lossless(IndexKind::sketch, chunk); };
  const auto landmarks = [](int64_t chunk) { return lossless(IndexKind::landmarks, chunk); };
  return {
      {"sketch_chunk1", sketch(1)},
      {"sketch2_int8_rank", with(sketch(4),
                                 [](AttentionConfig& c) {
                                   c.sketch_bits = 2;
                                   c.rank = 12;
                                   c.factors = StorageType::int8;
                                   c.values = StorageType::int8;
                                 })},
      {"sketch_bf16_norerank_host", with(sketch(3),
                                         [](AttentionConfig& c) {
                                           c.rerank = 1.0;
                                           c.rank = 20;
                                           c.factors = StorageType::bfloat16;
                                           c.values = StorageType::bfloat16;
                                           c.placement = Placement::host;
                                         })},
      {"sketch_chunk16_share", with(sketch(16),
                                    [](AttentionConfig& c) {
                                      c.sparse_budget_share = 0.1;
                                      c.slot_selections = 1.5;
                                    })},
      {"sketch_one_segment_wide_window", with(sketch(8),
                                              [](AttentionConfig& c) {
                                                c.segment_tokens = 0;
                                                c.local_window = 100;
                                                c.rank = 16;
                                              })},
      {"landmarks_rerank_int8", with(landmarks(8),
                                     [](AttentionConfig& c) {
                                       c.factors = StorageType::int8;
                                       c.rank = 16;
                                     })},
      {"landmarks_int8", with(landmarks(4),
                              [](AttentionConfig& c) {
                                c.landmarks = StorageType::int8;
                                c.rerank = 1.0;
                              })},
      {"landmarks_paper_like", with(landmarks(8),
                                    [](AttentionConfig& c) {
                                      c.rerank = 1.0;
                                      c.segment_tokens = 0;
                                      c.sparse_budget_per = 512;
                                      c.sparse_budget = 40;
                                      c.placement = Placement::host;
                                      c.slot_selections = 1.0;
                                    })},
      {"sketch_exact_below", with(sketch(4), [](AttentionConfig& c) { c.exact_below = 620; })},
      {"landmarks_exact_below_chunk3", with(landmarks(3), [](AttentionConfig& c) { c.exact_below = 620; })},
      {"sketch_dense_first", with(sketch(4),
                                  [](AttentionConfig& c) {
                                    c.dense_layers = 1;
                                    c.rank = 12;
                                  })},
      {"quest", quest(16, 2)},
      {"quest_rerank_int8_host", with(quest(4, 0),
                                      [](AttentionConfig& c) {
                                        c.rerank = 2.0;
                                        c.values = StorageType::int8;
                                        c.placement = Placement::host;
                                      })},
      {"quest_exact_below_chunk3", with(quest(3, 1), [](AttentionConfig& c) { c.exact_below = 620; })},
  };
}

// Under the thread sanitizer one in four, of each index and of a sequence that turns: they differ in
// arithmetic, not in which threads do it.
inline std::vector<AttentionCase> lossy_cases() {
  constexpr std::size_t kFirst = kIsThreadSanitized ? 1 : 0, kStep = kIsThreadSanitized ? 4 : 1;
  const std::vector<AttentionCase> all = all_lossy_cases();
  std::vector<AttentionCase> cases;
  for (std::size_t i = kFirst; i < all.size(); i += kStep) cases.push_back(all[i]);
  return cases;
}

}  // namespace shadowkv::testing
