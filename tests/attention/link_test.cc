// What crosses the link between the memories is counted, each byte by why.
#include <gtest/gtest.h>

#include <algorithm>

#include "attention/cases.h"
#include "attention/fetch_meter.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kPrompt = 900, kSteps = 40;
constexpr int64_t kLayers = 3, kKvHeads = 2, kHeadDim = 16;     // of the tiny model
constexpr int64_t kTokenBytes = kLayers * kKvHeads * kHeadDim;  // in int8, whose scales stay on the device

AttentionConfig with_values(Placement placement) {
  AttentionConfig config = sparse_from_the_start(IndexKind::sketch, 64, StorageType::int8);
  config.placement = placement;
  return config;
}

void expect_a_read_for_every_miss(TinyModel& model) {
  const AttentionConfig config = with_values(Placement::host);
  Methods methods(model, {config});
  (void)methods.run(0, tiny_ids(kPrompt), tiny_ids(kSteps, 2));
  const AttentionStatistics now = methods.method().statistics();
  EXPECT_GT(now.chosen_chunks, now.slot_hits);
  EXPECT_EQ(now.link.read, (now.chosen_chunks - now.slot_hits) * config.chunk_size * kHeadDim);
  EXPECT_EQ(now.link.written, (kPrompt + kSteps) * kTokenBytes);
  EXPECT_EQ(now.link.moved_up, 0);
  EXPECT_EQ(now.link.moved_down, 0);
}

TEST(Link, ValuesInHostMemoryAreReadOnceForEveryMissAndWrittenOnce) {
  TinyModel model;
  expect_a_read_for_every_miss(model);
}

TEST(GpuLink, ValuesInHostMemoryAreReadOnceForEveryMissAndWrittenOnce) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "No NVIDIA GPU was found.";
  TinyModel model({}, make_cuda_device());
  expect_a_read_for_every_miss(model);
}

TEST(Link, ReadingOnBehindThemReadsAllOfThemOnceMore) {
  TinyModel model;
  Methods methods(model, {with_values(Placement::host)});
  (void)methods.prefill(0, tiny_ids(kPrompt), 100);
  const LinkBytes before = methods.method().statistics().link;
  (void)methods.append(0, kPrompt, tiny_ids(60, 3));
  const LinkBytes after = methods.method().statistics().link;
  EXPECT_EQ(after.read - before.read, kPrompt * kTokenBytes);
  EXPECT_EQ(after.written - before.written, 60 * kTokenBytes);
}

TEST(Link, ValuesOnTheDeviceCrossNothing) {
  TinyModel model;
  Methods methods(model, {with_values(Placement::spill)});
  (void)methods.run(0, tiny_ids(kPrompt), tiny_ids(kSteps, 2));
  const LinkBytes link = methods.method().statistics().link;
  EXPECT_EQ(link.read + link.written + link.moved_up + link.moved_down, 0);
}

TEST(Link, ValuesThatMoveAreCountedUntilTheyAreBack) {
  TinyModel model;
  Methods methods(model, {with_values(Placement::spill)});
  const SeqId id = 0;
  (void)methods.prefill(id, tiny_ids(kPrompt), kSteps);
  Attention& method = methods.method();
  const int64_t moved = method.release_device(int64_t{1} << 60);
  EXPECT_GT(moved, 0);
  EXPECT_EQ(method.statistics().link.moved_down, moved);
  const std::vector<int32_t> steps = tiny_ids(8, 2);
  for (const int32_t token : steps) (void)methods.decode({&id, 1}, {&token, 1});
  const AttentionStatistics now = method.statistics();
  EXPECT_EQ(now.held_bytes[1], 0) << "there is room, so all of them are back";
  EXPECT_EQ(now.link.moved_up, moved);
  EXPECT_GT(now.link.read, 0) << "the first step found them in host memory";
}

class LinkOf : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(LinkOf, APauseMovesWhatTheDeviceHoldsAndGoingOnBringsItBack) {
  TinyModel model(GetParam().shape);
  Methods methods(model, {GetParam().config});
  (void)methods.run(0, tiny_ids(kPrompt), tiny_ids(6, 2));
  Attention& method = methods.method();
  const AttentionStatistics running = method.statistics();
  method.pause(0);
  const AttentionStatistics paused = method.statistics();
  EXPECT_EQ(paused.held_bytes[0], 0);
  EXPECT_EQ(paused.link.moved_down - running.link.moved_down, running.held_bytes[0]);
  method.resume(0);
  const AttentionStatistics resumed = method.statistics();
  EXPECT_EQ(resumed.link.moved_up - paused.link.moved_up, resumed.held_bytes[0]);
  EXPECT_EQ(resumed.link.moved_down, paused.link.moved_down);
}

INSTANTIATE_TEST_SUITE_P(Configurations, LinkOf, ::testing::ValuesIn(lossy_cases()), name_of_case);

TEST(FetchMeters, WeighMissesByTheShareThatLaySomewhereElse) {
  FetchMeter meter;
  EXPECT_EQ(meter.read({5, 7}, 100), 0) << "nobody took a step";
  meter.add_step(0, 0.0);
  meter.add_step(1, 1.0);
  meter.add_step(1, 0.5);
  EXPECT_EQ(meter.read({25, 11}, 100), 300) << "4 misses, three quarters of whose values lay there";
  EXPECT_EQ(meter.read({25, 11}, 100), 300);
  meter.add_step(0, 0.25);
  EXPECT_EQ(meter.read({29, 11}, 100), 400) << "counts only grow";
}

}  // namespace
}  // namespace shadowkv::testing
