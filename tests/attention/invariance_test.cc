// What must not change a result, to the bit on the CPU: the slices of a prefill, who else is in the batch,
// how much is cached and where values lie, the number of threads, the methods that share a prefill.
#include <gtest/gtest.h>

#include "attention/cases.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kPrompt = 600;  // more than one segment
constexpr int64_t kSteps = 24;    // through the crossing of the cases that have one

class Invariance : public ::testing::TestWithParam<AttentionCase> {
 protected:
  std::vector<std::vector<float>> run(const AttentionConfig& config, int64_t slice = 512, int threads = 2) {
    TinyModel model(GetParam().shape, {.threads = threads});
    Methods methods(model, {config});
    return methods.run(0, tiny_ids(kPrompt), tiny_ids(kSteps, 2), slice);
  }
};

TEST_P(Invariance, SlicesOfThePrefillChangeNothing) {
  const auto whole = run(GetParam().config, 4096);
  for (const int64_t slice : {1, 7, 64, 512}) {
    EXPECT_EQ(run(GetParam().config, slice), whole) << "slices of " << slice;
  }
}

TEST_P(Invariance, ThreadsChangeNothing) {
  const auto alone = run(GetParam().config, 512, 1);
  for (const int threads : {2, 3}) EXPECT_EQ(run(GetParam().config, 512, threads), alone) << threads;
}

TEST_P(Invariance, RunningAgainChangesNothing) {
  EXPECT_EQ(run(GetParam().config), run(GetParam().config));
}

TEST_P(Invariance, SlotsAndPlacementChangeNothing) {
  AttentionConfig config = GetParam().config;
  const auto expected = run(config);
  for (const double selections : {1.0, 2.5, 8.0}) {
    config.slot_selections = selections;
    EXPECT_EQ(run(config), expected) << "slots for " << selections << " selections";
  }
  for (const Placement placement : {Placement::spill, Placement::host}) {
    config.placement = placement;
    EXPECT_EQ(run(config), expected);
  }
}

// Another owner asks for the device in mid-generation, so that values move to the host.
TEST_P(Invariance, ValuesThatMoveToTheHostInMidGenerationChangeNothing) {
  const auto expected = run(GetParam().config);
  TinyModel model(GetParam().shape);
  Methods methods(model, {GetParam().config});
  ASSERT_EQ(methods.prefill(0, tiny_ids(kPrompt), kSteps), expected[0]);
  const std::vector<int32_t> tokens = tiny_ids(kSteps, 2);
  const std::vector<SeqId> ids = {0};
  Buffer other;
  for (std::size_t step = 0; step < kSteps; ++step) {
    const int64_t movable = model.device().memory().of(Tier::device, Purpose::values);
    if (step == kSteps / 2 && GetParam().config.placement == Placement::spill && movable > 0) {
      const int64_t budget = model.device().memory().budget[0];
      model.device().set_budget(Tier::device, model.device().memory().held(Tier::device));
      other = model.device().allocate(Tier::device, Purpose::index, 64);
      model.device().set_budget(Tier::device, budget);
      EXPECT_GT(model.device().memory().of(Tier::pinned_host, Purpose::values), 0);
    }
    ASSERT_EQ(methods.decode(ids, {&tokens[step], 1}), expected[step + 1]) << "step " << step;
  }
}

// Values of two sequences move down and up between the steps, in amounts that are no multiple of anything.
TEST_P(Invariance, ValuesThatMoveAtRandomStepsChangeNothing) {
  constexpr int64_t kTokens = 60;
  const std::vector<SeqId> ids = {4, 1};
  const auto steps = tiny_ids(kTokens, 2);
  const auto rows = [&](bool moves) {
    TinyModel model(GetParam().shape);
    Device& device = model.device();
    Methods methods(model, {GetParam().config});
    for (const SeqId id : ids)
      (void)methods.prefill(id, tiny_ids(kPrompt, static_cast<uint32_t>(id)), kTokens);
    const auto held = [&](Tier tier) { return device.memory().of(tier, Purpose::values); };
    const int64_t movable = methods.method().movable_bytes();
    std::array<int64_t, 2> moved{};  // down, up
    std::vector<std::vector<float>> all;
    for (std::size_t step = 0; step < kTokens; ++step) {
      const auto random = static_cast<int64_t>(step * step * 7919 % 13);
      const int64_t before = held(Tier::device);
      if (moves && random < 4) {
        const int64_t wanted = device.free_bytes(Tier::device) + movable * random / 7 + 1;
        (void)methods.method().release_device(wanted);
        moved[0] += before - held(Tier::device);
        device.set_budget(Tier::device, device.memory().held(Tier::device) + movable / 9 * (random % 3));
      } else if (moves && random > 9) {
        device.set_budget(Tier::device, int64_t{1} << 30);
      }
      const std::vector<int32_t> tokens = {steps[step], steps[kTokens - 1 - step]};
      const int64_t ahead = held(Tier::device);
      for (bool taken = false; !taken;) {  // a budget of nothing may stop a step: more is given
        try {
          all.push_back(methods.decode(ids, tokens));
          taken = true;
        } catch (const OutOfMemory&) {
          device.set_budget(Tier::device, device.memory().held(Tier::device) + 100'000);
        }
      }
      moved[1] += std::max<int64_t>(0, held(Tier::device) - ahead);
    }
    if (moves && movable > 0) {
      EXPECT_GT(moved[0], 0);
      EXPECT_GT(moved[1], 0);
    }
    const auto now = methods.method().statistics().held_bytes;
    EXPECT_GE(now[0] + now[1], held(Tier::device) + held(Tier::pinned_host));
    for (const SeqId id : ids) methods.end(id);
    EXPECT_EQ(held(Tier::device), 0);
    EXPECT_EQ(held(Tier::pinned_host), 0);
    return all;
  };
  EXPECT_EQ(rows(true), rows(false));
}

// Three sequences of other lengths, one of them short enough to be exact in the cases that have exact_below,
// and one whose share of the context makes a far larger budget.
TEST_P(Invariance, OthersInTheBatchAndItsPartsChangeNothing) {
  const std::vector<int64_t> lengths = {kPrompt, 37, 1300};
  std::vector<std::vector<std::vector<float>>> alone;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    TinyModel model(GetParam().shape);
    Methods methods(model, {GetParam().config});
    const auto seed = static_cast<uint32_t>(10 + i);
    alone.push_back(methods.run(0, tiny_ids(lengths[i], seed), tiny_ids(kSteps, seed + 10)));
  }
  struct Cut {
    int64_t parts, micro_batches;
  };
  for (const Cut& cut : {Cut{1, 1}, {2, 1}, {3, 1}, {0, 2}}) {
    AttentionConfig config = GetParam().config;
    config.step_parts = cut.parts;
    config.micro_batches = cut.micro_batches;
    TinyModel model(GetParam().shape);
    Methods methods(model, {config});
    const std::vector<SeqId> ids = {5, 9, 2};
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto seed = static_cast<uint32_t>(10 + i);
      EXPECT_EQ(methods.prefill(ids[i], tiny_ids(lengths[i], seed), kSteps), alone[i][0]) << "sequence " << i;
    }
    const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
    for (std::size_t step = 0; step < kSteps; ++step) {
      std::vector<int32_t> tokens;
      for (uint32_t i = 0; i < 3; ++i) tokens.push_back(tiny_ids(kSteps, 20 + i)[step]);
      const std::vector<float> all = methods.decode(ids, tokens);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const auto first = all.begin() + static_cast<std::ptrdiff_t>(i * vocab);
        const std::vector<float> row(first, first + static_cast<std::ptrdiff_t>(vocab));
        ASSERT_EQ(row, alone[i][step + 1]) << cut.parts << " parts, " << cut.micro_batches
                                           << " micro-batches, sequence " << i << ", step " << step;
      }
    }
  }
}

TEST_P(Invariance, APromptReadInUnitsBetweenOthersWorkChangesNothing) {
  const std::vector<int32_t> prompt = tiny_ids(700, 4), steps = tiny_ids(kSteps, 2);
  const auto beside = run(GetParam().config);
  TinyModel model(GetParam().shape), other(GetParam().shape);
  const auto alone = Methods(other, {GetParam().config}).run(7, prompt, steps);
  Methods methods(model, {GetParam().config});
  const SeqId running = 3, read = 7;
  ASSERT_EQ(methods.prefill(running, tiny_ids(kPrompt), kSteps), beside[0]);
  PrefillRun reading = methods.begin_prefill(read, prompt, kSteps, 64);
  std::size_t step = 0;
  for (int64_t unit = 0; !methods.is_done(reading); ++unit) {
    if (reading.between_layers()) {
      (void)methods.prefill(8, tiny_ids(90 + reading.layer), 0);
      methods.end(8);
    }
    methods.advance(reading, 20 + unit % 30);
    if (unit % 2 != 0 || step == steps.size()) continue;
    ASSERT_EQ(methods.decode({&running, 1}, {&steps[step], 1}), beside[step + 1]) << "step " << step;
    ++step;
  }
  EXPECT_EQ(step, steps.size());  // through the crossing of the cases that have one
  EXPECT_EQ(methods.end_prefill(reading), alone[0]);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    ASSERT_EQ(methods.decode({&read, 1}, {&steps[i], 1}), alone[i + 1]) << "step " << i;
  }
}

TEST_P(Invariance, AMethodBesideOthersEqualsItselfAlone) {
  const auto expected = run(GetParam().config);
  TinyModel model(GetParam().shape);
  AttentionConfig full;
  full.method = Method::full;
  Methods methods(model, {full, GetParam().config, lossless(IndexKind::landmarks, 4)});
  const SeqId id = 3;
  EXPECT_EQ(methods.prefill(id, tiny_ids(kPrompt), kSteps), expected[0]);
  const std::vector<int32_t> steps = tiny_ids(kSteps, 2);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    for (const int64_t other : {0, 2}) (void)methods.decode({&id, 1}, {&steps[i], 1}, other);
    ASSERT_EQ(methods.decode({&id, 1}, {&steps[i], 1}, 1), expected[i + 1]) << "step " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Configurations, Invariance, ::testing::ValuesIn(lossy_cases()), name_of_case);

// The longer sequence may pick all that is open to it, the shorter one only half: it must rank all the same.
TEST(Batches, WhereOneSequenceMayPickEverythingLeaveTheOthersChoiceAlone) {
  AttentionConfig config = lossless(IndexKind::sketch, 1);
  config.sparse_budget = 600;
  config.sparse_budget_per = 1024;
  config.slot_selections = 1.0;
  const std::vector<int32_t> steps = tiny_ids(6, 2);
  TinyModel model;
  const auto alone = Methods(model, {config}).run(0, tiny_ids(1000), steps);
  Methods methods(model, {config});
  (void)methods.prefill(0, tiny_ids(1000), 6);
  (void)methods.prefill(1, tiny_ids(1030, 4), 6);
  const std::vector<SeqId> both = {0, 1};
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const std::vector<float> rows = methods.decode(both, std::vector<int32_t>{steps[i], steps[i]});
    const auto half = static_cast<std::ptrdiff_t>(rows.size() / 2);
    ASSERT_EQ(std::vector<float>(rows.begin(), rows.begin() + half), alone[i + 1]) << "step " << i;
  }
}

// Sequences whose values moved to the host change places with those whose did not, and logits come back in
// the caller's order.
TEST(Batches, MicroBatchesTakeSequencesFromAnyPlace) {
  AttentionConfig config = sparse_from_the_start(IndexKind::sketch, 64, StorageType::float32);
  const std::vector<SeqId> ids = {0, 1, 2, 3, 4};
  std::vector<std::vector<float>> rows[2];
  for (const int64_t count : {1, 2}) {
    config.micro_batches = count;
    TinyModel model;
    Methods methods(model, {config});
    Device& device = model.device();
    for (const SeqId id : ids)
      (void)methods.prefill(id, tiny_ids(900 + 10 * id, static_cast<uint32_t>(id)), 6);
    const int64_t budget = device.memory().budget[0];
    device.set_budget(Tier::device, device.memory().held(Tier::device));
    const int64_t values = device.memory().of(Tier::device, Purpose::values);
    const Buffer other = device.allocate(Tier::device, Purpose::index, values / 2);
    device.set_budget(Tier::device, budget);
    methods.method().keep_free(device.free_bytes(Tier::device) - (int64_t{64} << 20));  // they stay there
    EXPECT_GT(device.memory().of(Tier::pinned_host, Purpose::values), values / 4);
    EXPECT_GT(device.memory().of(Tier::device, Purpose::values), values / 4);
    for (int32_t step = 0; step < 6; ++step) {
      const std::vector<int32_t> tokens = {step, step + 1, step + 2, step + 3, step + 4};
      rows[count - 1].push_back(methods.decode(ids, tokens));
    }
    EXPECT_GT(device.memory().of(Tier::pinned_host, Purpose::values), values / 4);
  }
  EXPECT_EQ(rows[0], rows[1]);
}

TEST(Sequences, ARowUsedAgainStartsClean) {
  for (const AttentionCase& one : lossy_cases()) {
    TinyModel model;
    Methods methods(model, {one.config});
    const auto first = methods.run(0, tiny_ids(300), tiny_ids(8, 2));
    methods.end(0);
    (void)methods.run(1, tiny_ids(700, 4), tiny_ids(8, 5));
    methods.end(1);
    EXPECT_EQ(methods.run(0, tiny_ids(300), tiny_ids(8, 2)), first) << one.name;
  }
}

}  // namespace
}  // namespace shadowkv::testing
