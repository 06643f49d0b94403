// A layer's trace names what was attended: attention over just that, computed from exact attention's own keys
// and values, is what the layer returned.
#include <gmock/gmock.h>

#include <cmath>
#include <map>
#include <stdexcept>

#include "attention/cases.h"

namespace shadowkv::testing {
namespace {

// What was told of one method's layers, by sequence and layer.
struct Told {
  struct Layer {
    LayerTrace trace;
    std::vector<float> out;
  };
  std::map<std::pair<SeqId, int64_t>, Layer> layers;

  [[nodiscard]] Transformer::LayerTold to() {
    return [this](SeqId sequence, int64_t layer, const LayerTrace& trace, std::span<const float> out) {
      layers[{sequence, layer}] = {trace, {out.begin(), out.end()}};
    };
  }
};

// softmax(scale q . k) . v of one query head over some positions.
std::vector<double> attend(const AttentionShape& shape, const Told::Layer& query, const LayerTrace& all,
                           int64_t head, const std::vector<int32_t>& positions) {
  const int64_t d = shape.head_dim, group = head / (shape.heads / shape.kv_heads);
  const auto at = [&](int64_t position) { return (position * shape.kv_heads + group) * d; };
  std::vector<double> out(static_cast<std::size_t>(d));
  double weights = 0;
  for (const int32_t position : positions) {
    double score = 0;
    for (int64_t i = 0; i < d; ++i) {
      score += double{query.trace.q.at(static_cast<std::size_t>(head * d + i))} *
               all.k.at(static_cast<std::size_t>(at(position) + i));
    }
    const double weight = std::exp(score * shape.scale());
    weights += weight;
    for (int64_t i = 0; i < d; ++i) {
      out[static_cast<std::size_t>(i)] += weight * all.v.at(static_cast<std::size_t>(at(position) + i));
    }
  }
  for (double& x : out) x /= weights;
  return out;
}

void expect_attention_over_attended(const AttentionShape& shape, const Told::Layer& layer,
                                    const LayerTrace& all) {
  const int64_t d = shape.head_dim;
  for (int64_t head = 0; head < shape.heads; ++head) {
    const auto& positions =
        layer.trace.attended.at(static_cast<std::size_t>(head / (shape.heads / shape.kv_heads)));
    const std::vector<double> expected = attend(shape, layer, all, head, positions);
    for (int64_t i = 0; i < d; ++i) {
      ASSERT_NEAR(layer.out.at(static_cast<std::size_t>(head * d + i)), expected[static_cast<std::size_t>(i)],
                  2e-4)
          << "head " << head;
    }
  }
}

class Traces : public ::testing::TestWithParam<AttentionCase> {};

// Of the first layer, whose keys and values every method has alike; two sequences of different lengths.
TEST_P(Traces, NameWhatWasAttended) {
  TinyModel model(GetParam().shape);
  AttentionConfig full;
  full.method = Method::full;
  Methods methods(model, {full, GetParam().config});
  const std::vector<SeqId> ids = {0, 1};
  const std::vector<int64_t> lengths = {700, 333};
  for (const SeqId id : ids)
    (void)methods.prefill(id, tiny_ids(lengths[static_cast<std::size_t>(id)], 5), 40);
  const AttentionShape shape = model.attention_shape();
  for (int32_t step = 0; step < 20; ++step) {
    const std::vector<int32_t> tokens = {step, 95 - step};
    Told exact, told;
    model.transformer().tell_layers_to(exact.to());
    (void)methods.decode(ids, tokens, 0);
    model.transformer().tell_layers_to(told.to());
    (void)methods.decode(ids, tokens, 1);
    ASSERT_EQ(std::ssize(told.layers), 2 * shape.layers);
    for (const SeqId id : ids) {
      const Told::Layer& layer = told.layers.at({id, 0});
      const LayerTrace& all = exact.layers.at({id, 0}).trace;
      const int64_t held = lengths[static_cast<std::size_t>(id)] + step + 1;
      ASSERT_EQ(std::ssize(all.k), held * shape.kv_width());
      for (const std::vector<int32_t>& positions : layer.trace.attended) {
        ASSERT_TRUE(std::is_sorted(positions.begin(), positions.end()));
        ASSERT_EQ(std::adjacent_find(positions.begin(), positions.end()), positions.end());
        ASSERT_EQ(positions.back(), held - 1);
      }
      ASSERT_NO_FATAL_FAILURE(expect_attention_over_attended(shape, layer, all)) << "step " << step;
    }
  }
  const auto counted = methods.method(1).statistics();
  EXPECT_LT(counted.attended_tokens, 0.9 * static_cast<double>(counted.context_tokens)) << "all is attended";
}

std::vector<AttentionCase> traced_cases() {
  const auto sketch = IndexKind::sketch;
  const auto landmarks = IndexKind::landmarks;
  return {
      {"sketch_chunk1", lossless(sketch, 1)},
      {"sketch_chunk4", lossless(sketch, 4)},
      {"sketch_norerank_host", with(lossless(sketch, 3),
                                    [](AttentionConfig& c) {
                                      c.rerank = 1.0;
                                      c.placement = Placement::host;
                                    })},
      {"landmarks_outliers", lossless(landmarks, 8)},
      {"beside_an_exact_one", with(lossless(sketch, 4), [](AttentionConfig& c) { c.exact_below = 500; })},
      {"quest", quest(16, 0)},
      {"quest_rerank_dense_first", with(quest(4, 1), [](AttentionConfig& c) { c.rerank = 2.0; })},
      {"in_parts", with(lossless(sketch, 4), [](AttentionConfig& c) { c.step_parts = 2; })},
      {"micro_batches", with(lossless(sketch, 4),
                             [](AttentionConfig& c) {
                               c.placement = Placement::host;
                               c.micro_batches = 2;
                             })},
  };
}

INSTANTIATE_TEST_SUITE_P(Configurations, Traces, ::testing::ValuesIn(traced_cases()), name_of_case);

TEST(Tracing, ChangesNoToken) {
  TinyModel model;
  Methods methods(model, {lossless(IndexKind::sketch, 4)});
  for (const SeqId id : {0, 1}) (void)methods.prefill(id, tiny_ids(400), 10);
  for (int32_t step = 0; step < 10; ++step) {
    const SeqId plain = 0, traced = 1;
    model.transformer().tell_layers_to(nullptr);
    const std::vector<float> expected = methods.decode({&plain, 1}, {&step, 1});
    Told told;
    model.transformer().tell_layers_to(told.to());
    EXPECT_EQ(methods.decode({&traced, 1}, {&step, 1}), expected);
  }
}

TEST(Tracing, WhatIsThrownEndsTheStepAndItCanBeTakenAgain) {
  TinyModel model;
  Methods methods(model, {lossless(IndexKind::sketch, 4)});
  for (const SeqId id : {0, 1}) (void)methods.prefill(id, tiny_ids(400), 10);
  const SeqId id = 0, other = 1;
  const int32_t token = 7;
  const std::vector<float> expected = methods.decode({&other, 1}, {&token, 1});
  model.transformer().tell_layers_to([](SeqId, int64_t layer, const LayerTrace&, std::span<const float>) {
    if (layer == 1) throw std::runtime_error("enough");
  });
  EXPECT_THROW((void)methods.decode({&id, 1}, {&token, 1}), std::runtime_error);
  model.transformer().tell_layers_to(nullptr);
  EXPECT_EQ(methods.decode({&id, 1}, {&token, 1}), expected);
}

}  // namespace
}  // namespace shadowkv::testing
