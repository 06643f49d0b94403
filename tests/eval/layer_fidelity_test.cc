#include "eval/layer_fidelity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "shadowkv/error.h"

namespace shadowkv::eval {
namespace {

// One KV head of two numbers with two query heads, four tokens. With a scale of 1 the first query gives the
// tokens weights of 1 : 2 : 4 : 1, the second 1 : 1 : 1 : 1.
class LayerFidelity : public ::testing::Test {
 protected:
  [[nodiscard]] AttendedLayer layer() const {
    return {.heads = 2,
            .kv_heads = 1,
            .head_dim = 2,
            .scale = 1,
            .q = q_,
            .output = output_,
            .attended = attended_};
  }

  const float ln2_ = std::log(2.0f);
  ExactKeysValues exact_{.k = {0, 5, ln2_, 5, 2 * ln2_, 5, 0, 5}, .v = {8, 0, 0, 8, 8, 8, 0, 0}};
  std::vector<float> q_ = {1, 0, 0, 1};
  // Of exact attention over everything: (1 * (8, 0) + 2 * (0, 8) + 4 * (8, 8)) / 8; the mean.
  std::vector<float> output_ = {5, 6, 4, 4};
  std::vector<std::vector<int32_t>> attended_ = {{0, 1, 2, 3}};
};

TEST_F(LayerFidelity, OfExactAttentionIsWhole) {
  const HeadFidelity all = fidelity_of(exact_, layer()).at(0);
  EXPECT_NEAR(all.mass, 1, 1e-12);
  EXPECT_EQ(all.overlap, 1);
  EXPECT_NEAR(all.error + all.selection_error + all.storage_error, 0, 1e-6);
}

TEST_F(LayerFidelity, TellsWhatWasNotAttendedFromWhatWasHeldInexactly) {
  attended_ = {{1, 3}};
  output_ = {0, 16.0f / 3, 0, 4};  // exact over those two: (0, 8) at 2/3, (0, 0) at 1/3; the same halved
  const HeadFidelity sparse = fidelity_of(exact_, layer()).at(0);
  EXPECT_NEAR(sparse.mass, (3.0 / 8 + 2.0 / 4) / 2, 1e-6);
  EXPECT_EQ(sparse.overlap, 0.5) << "the weightiest are 2, then 1";
  const double first = std::hypot(5, 6 - 16.0 / 3) / std::hypot(5, 6), second = 4 / std::hypot(4, 4);
  EXPECT_NEAR(sparse.selection_error, (first + second) / 2, 1e-6);
  EXPECT_NEAR(sparse.error, sparse.selection_error, 1e-6);
  EXPECT_NEAR(sparse.storage_error, 0, 1e-6);
  output_[3] += 0.5f;
  const HeadFidelity inexact = fidelity_of(exact_, layer()).at(0);
  EXPECT_NEAR(inexact.storage_error, 0.5 / std::hypot(4, 4) / 2, 1e-6);
  EXPECT_NEAR(inexact.selection_error, sparse.selection_error, 1e-12);
}

TEST_F(LayerFidelity, WhatDoesNotFitTogetherIsRefused) {
  attended_ = {{4}};
  EXPECT_THROW((void)fidelity_of(exact_, layer()), InvalidInput);
  attended_ = {{}};
  EXPECT_THROW((void)fidelity_of(exact_, layer()), InvalidInput);
  attended_ = {{0}, {0}};
  EXPECT_THROW((void)fidelity_of(exact_, layer()), InvalidInput);
  attended_ = {{0}};
  exact_.v.pop_back();
  EXPECT_THROW((void)fidelity_of(exact_, layer()), InvalidInput);
}

TEST(LayerFidelities, AreMeansByLayerAndHead) {
  LayerFidelities all;
  all.add(0, std::vector<HeadFidelity>{{.mass = 1}, {.mass = 0.5}});
  all.add(1, std::vector<HeadFidelity>{{.mass = 0.5, .error = 0.25}, {.mass = 0}});
  all.add(1, std::vector<HeadFidelity>{{.mass = 0, .error = 0.75}, {.mass = 0}});
  EXPECT_EQ(all.layers(), 2);
  EXPECT_EQ(all.kv_heads(), 2);
  EXPECT_EQ(all.at(1, 0).mass, 0.25);
  EXPECT_EQ(all.at(1, 0).error, 0.5);
  EXPECT_EQ(all.of_layer(0).mass, 0.75);
  EXPECT_EQ(all.mean().mass, (0.75 + 0.125) / 2);
  EXPECT_EQ(all.worst_layer(), 1);
}

}  // namespace
}  // namespace shadowkv::eval
