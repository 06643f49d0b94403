#include "attention/step_cut.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

namespace shadowkv {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kLanes = 4;

// "first+count" of each part, "L" where it is over the link; micro-batches in brackets.
std::string text_of(const std::vector<StepCut>& cuts) {
  std::string text;
  for (const StepCut& cut : cuts) {
    text += "[";
    for (const StepPart& part : cut.parts)
      text += fmt::format(" {}+{}{}", part.first, part.count, part.over_link ? "L" : "");
    text += " ]";
  }
  return text;
}

std::vector<int64_t> bytes_of(int64_t travelling, int64_t staying) {
  std::vector<int64_t> bytes(static_cast<std::size_t>(travelling), 100);
  bytes.resize(static_cast<std::size_t>(travelling + staying), 0);
  return bytes;
}

TEST(StepCut, WhatNeedsNoLinkStaysWhole) {
  const auto bytes = bytes_of(0, 43);
  EXPECT_EQ(text_of(cut_step({.host_bytes = bytes, .lanes = kLanes})), "[ 0+43 ]");
  EXPECT_EQ(text_of(cut_step({.host_bytes = bytes, .lanes = kLanes, .step_parts = 2})), "[ 0+21 21+22 ]");
  EXPECT_EQ(text_of(cut_step({.host_bytes = {}, .lanes = kLanes})), "[ ]");
}

TEST(StepCut, PartsEndWhereTravellingDoesAndTheDeviceGoesLast) {
  const auto bytes = bytes_of(28, 15);
  EXPECT_EQ(text_of(cut_step({.host_bytes = bytes, .lanes = kLanes, .reranks = true})),
            "[ 0+14L 14+14L 28+15 ]");
  const auto uneven = bytes_of(20, 6);
  EXPECT_EQ(text_of(cut_step({.host_bytes = uneven, .lanes = kLanes, .reranks = true})),
            "[ 8+12L 0+8L 20+6 ]");
}

TEST(StepCut, WithoutRerankThePartThatFetchesLeastGoesFirst) {
  const auto bytes = bytes_of(20, 6);
  EXPECT_EQ(text_of(cut_step({.host_bytes = bytes, .lanes = kLanes})), "[ 0+8L 8+12L 20+6 ]");
}

TEST(StepCut, WhatTravelsIsArrangedFirstSoThatAPartHasOneKind) {
  // As a memory that filled up leaves them: the first and the last travel.
  std::vector<int64_t> bytes = bytes_of(20, 16);
  bytes.insert(bytes.end(), 7, 100);
  StepToCut step{.host_bytes = bytes, .lanes = kLanes};
  EXPECT_EQ(text_of(cut_step(step)), "[ 28+15L 0+20L 20+8 ]") << "as they come";
  std::vector<int64_t> arranged;
  for (const int64_t place : arrange_step(step)) arranged.push_back(bytes[static_cast<std::size_t>(place)]);
  step.host_bytes = arranged;
  EXPECT_EQ(text_of(cut_step(step)), "[ 14+13L 0+14L 27+16 ]");
  step.step_parts = 1;
  EXPECT_THAT(arrange_step(step), IsEmpty());
}

TEST(StepCut, FewSequencesOrLanesMakeFewParts) {
  const auto bytes = bytes_of(15, 0);
  EXPECT_EQ(text_of(cut_step({.host_bytes = bytes, .lanes = kLanes})), "[ 0+15L ]");
  const auto more = bytes_of(43, 0);
  EXPECT_EQ(text_of(cut_step({.host_bytes = more, .lanes = 1})), "[ 0+43L ]");
  const auto two = bytes_of(2, 0);
  EXPECT_EQ(text_of(cut_step({.host_bytes = two, .lanes = 1, .step_parts = 5})), "[ 0+1L 1+1L ]");
}

TEST(StepCut, MicroBatchesTakeHalfOfWhatTravelsEach) {
  // Every third stays.
  std::vector<int64_t> bytes;
  for (int i = 0; i < 10; ++i) bytes.push_back(i % 3 == 2 ? 0 : 100);
  StepToCut step{.host_bytes = bytes, .lanes = kLanes, .micro_batches = 2};
  const std::vector<int64_t> places = arrange_step(step);
  EXPECT_THAT(places, ElementsAre(0, 1, 3, 4, 2, 6, 7, 9, 5, 8));
  std::vector<int64_t> arranged;
  for (const int64_t place : places) arranged.push_back(bytes[static_cast<std::size_t>(place)]);
  step.host_bytes = arranged;
  EXPECT_EQ(text_of(cut_step(step)), "[ 0+4L 4+1 ][ 5+3L 8+2 ]");
}

TEST(StepCut, SequencesInAnotherOrderThanArrangedMakeOneBatch) {
  const std::vector<int64_t> bytes = {0, 100, 100, 0};
  const StepToCut step{.host_bytes = bytes, .lanes = kLanes, .micro_batches = 2};
  EXPECT_EQ(text_of(cut_step(step)), "[ 0+4L ]");
}

TEST(StepCut, TwoMicroBatchesComeByThemselvesOnlyWhereTheLinkIsWorthThem) {
  const auto bytes = bytes_of(14, 0);
  StepToCut step{.host_bytes = bytes, .picked_bytes = int64_t{58} << 20, .lanes = kLanes};
  EXPECT_EQ(text_of(cut_step(step)), "[ 0+7L ][ 7+7L ]");
  EXPECT_THAT(arrange_step(step), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13));
  step.micro_batches = 1;
  EXPECT_EQ(text_of(cut_step(step)), "[ 0+14L ]");
  EXPECT_THAT(arrange_step(step), IsEmpty()) << "of one part";
  step.micro_batches = 0;
  const auto some = bytes_of(8, 6);
  step.host_bytes = some;
  EXPECT_EQ(micro_batches_of(step), 2) << "some that stay change nothing";
  EXPECT_EQ(text_of(cut_step(step)), "[ 0+14L ]") << "they are not where arrange_step() puts them";
  step.host_bytes = bytes;
  step.picked_bytes = int64_t{8} << 20;
  EXPECT_EQ(micro_batches_of(step), 1);
  step.picked_bytes = int64_t{58} << 20;
  step.lanes = 1;
  EXPECT_EQ(micro_batches_of(step), 1);
  const auto one = bytes_of(1, 0);
  EXPECT_EQ(micro_batches_of({.host_bytes = one, .lanes = kLanes, .micro_batches = 2}), 1);
}

}  // namespace
}  // namespace shadowkv
