#include "model/step_graphs.h"

#include <gtest/gtest.h>

#include "attention/attention.h"

namespace shadowkv {
namespace {

// A device that counts what it has recorded and what of it is still held.
class Recorder {
 public:
  [[nodiscard]] std::function<std::unique_ptr<Graph>()> record() {
    return [this]() -> std::unique_ptr<Graph> {
      ++asked;
      if (held >= most) return nullptr;
      ++recorded;
      return std::make_unique<Recording>(held);
    };
  }
  // A step of a shape: from its recording, or else as it comes.
  Graph* step(StepGraphs& graphs, const StepShape& shape) {
    Graph* graph = graphs.find(shape, record());
    if (graph == nullptr) graphs.ran(shape);
    return graph;
  }

  int asked = 0, recorded = 0, held = 0;
  int most = 1000;

 private:
  class Recording final : public Graph {
   public:
    explicit Recording(int& held) : held_(held) { ++held_; }
    ~Recording() override { --held_; }
    void launch() override {}

   private:
    int& held_;
  };
};

StepShape shape_of(int64_t batch, int64_t epoch = 7) {
  return {.attention = {batch}, .address_epoch = epoch, .method = nullptr};
}

TEST(StepGraphs, AShapeIsRecordedTheSecondTimeAndServesFromThenOn) {
  Recorder recorder;
  StepGraphs graphs;
  EXPECT_EQ(recorder.step(graphs, shape_of(1)), nullptr);
  Graph* first = recorder.step(graphs, shape_of(1));
  EXPECT_NE(first, nullptr);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(recorder.step(graphs, shape_of(1)), first);
  EXPECT_EQ(recorder.recorded, 1);
  EXPECT_EQ(graphs.counts().asked, 1);
  EXPECT_EQ(graphs.counts().made, 1);
  EXPECT_EQ(graphs.counts().replayed, 6);
}

TEST(StepGraphs, ShapesThatComeInTurnsAreRecordedOnceEach) {
  Recorder recorder;
  StepGraphs graphs;
  constexpr auto kShapes = static_cast<int>(StepGraphs::kMost);
  for (int round = 0; round < 6; ++round) {
    for (int i = 0; i < kShapes; ++i) recorder.step(graphs, shape_of(i));
  }
  EXPECT_EQ(recorder.recorded, kShapes);
  EXPECT_EQ(recorder.held, kShapes);
}

TEST(StepGraphs, TheOneNotUsedForLongestGivesWay) {
  Recorder recorder;
  StepGraphs graphs;
  constexpr auto kShapes = static_cast<int>(StepGraphs::kMost);
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < kShapes; ++i) recorder.step(graphs, shape_of(i));
  }
  recorder.step(graphs, shape_of(0));
  for (int round = 0; round < 2; ++round) recorder.step(graphs, shape_of(kShapes));
  EXPECT_EQ(recorder.recorded, kShapes + 1);
  EXPECT_EQ(recorder.held, kShapes);
  EXPECT_NE(recorder.step(graphs, shape_of(0)), nullptr) << "it was used since";
  EXPECT_EQ(recorder.step(graphs, shape_of(1)), nullptr) << "it was not";
  EXPECT_EQ(recorder.held, kShapes - 1) << "shape 2 made room for what may be recorded";
}

TEST(StepGraphs, OtherAddressesGiveAllRecordingsBack) {
  Recorder recorder;
  StepGraphs graphs;
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 3; ++i) recorder.step(graphs, shape_of(i));
  }
  EXPECT_EQ(recorder.held, 3);
  EXPECT_EQ(recorder.step(graphs, shape_of(0, 8)), nullptr);
  EXPECT_EQ(recorder.held, 0);
  EXPECT_NE(recorder.step(graphs, shape_of(0, 8)), nullptr);
}

TEST(StepGraphs, WhatCannotBeRecordedBesideOthersTakesTheirPlace) {
  Recorder recorder;
  recorder.most = 2;
  StepGraphs graphs;
  for (int i = 0; i < 3; ++i) {
    for (int round = 0; round < 2; ++round) recorder.step(graphs, shape_of(i));
  }
  EXPECT_NE(recorder.step(graphs, shape_of(2)), nullptr);
  EXPECT_EQ(recorder.held, 1);
  EXPECT_EQ(recorder.step(graphs, shape_of(0)), nullptr) << "it gave way, and comes for the first time";
}

TEST(StepGraphs, WhatTheDeviceHasNoRoomForIsAskedForOnce) {
  Recorder recorder;
  recorder.most = 0;
  StepGraphs graphs;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(recorder.step(graphs, shape_of(1)), nullptr);
  EXPECT_EQ(recorder.asked, 1);
}

TEST(StepGraphs, WhereNothingRecordsEveryStepRuns) {
  StepGraphs graphs;
  const auto nothing = [] { return std::unique_ptr<Graph>(); };
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(graphs.find(shape_of(i % 3), nothing), nullptr);
    graphs.ran(shape_of(i % 3));
  }
  EXPECT_EQ(graphs.counts().asked, 3);
  EXPECT_EQ(graphs.counts().made, 0);
  EXPECT_EQ(graphs.counts().replayed, 0);
}

}  // namespace
}  // namespace shadowkv
