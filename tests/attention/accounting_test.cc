// Accounting: what a sequence holds stays within what was promised, and goes back when it ends, however it
// ends. Hits and misses are what was chosen.
#include <gtest/gtest.h>

#include "attention/cases.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

std::array<int64_t, kTiers> held(Device& device, std::initializer_list<Purpose> purposes) {
  const MemoryUse use = device.memory();
  std::array<int64_t, kTiers> sum{};
  for (const Purpose purpose : purposes) {
    sum[0] += use.of(Tier::device, purpose);
    sum[1] += use.of(Tier::pinned_host, purpose);
  }
  return sum;
}

// All but tables and scratch of steps, which belong to a method and not to a sequence.
std::array<int64_t, kTiers> held_by_sequences(Device& device) {
  return held(device,
              {Purpose::keys_values, Purpose::index, Purpose::factors, Purpose::values, Purpose::slots});
}

std::array<int64_t, kTiers> held_by_all(Device& device) {
  const MemoryUse use = device.memory();
  return {use.held(Tier::device), use.held(Tier::pinned_host)};
}

class Accounting : public ::testing::TestWithParam<AttentionCase> {
 protected:
  // Leaves that many bytes free on both tiers.
  void set_room(int64_t bytes) {
    const auto now = held_by_all(model_.device());
    model_.device().set_budget(Tier::device, now[0] + bytes);
    model_.device().set_budget(Tier::pinned_host, now[1] + bytes);
  }

  TinyModel model_{GetParam().shape};
};

TEST_P(Accounting, BytesStayWithinTheFootprintOfTheLengthOnBothTiers) {
  for (const int64_t prompt : {int64_t{3}, int64_t{511}, int64_t{600}, int64_t{1025}}) {
    constexpr int64_t kMore = 40;
    Methods methods(model_, {GetParam().config});
    const auto before = held_by_sequences(model_.device());
    const SeqId id = 0;
    (void)methods.prefill(id, tiny_ids(prompt), kMore);
    const Footprint most = methods.method().peak({.prompt_tokens = prompt, .max_tokens = prompt + kMore});
    for (int64_t step = 0; step <= kMore; ++step) {
      const auto now = methods.method().statistics().held_bytes;
      const Footprint until =
          methods.method().peak_until({.prompt_tokens = prompt, .max_tokens = prompt + kMore}, prompt + step);
      ASSERT_LE(now[0] + now[1], until.device + until.pinned_host + until.either) << "step " << step;
      const auto counted = held_by_sequences(model_.device());
      ASSERT_EQ(now[0], counted[0] - before[0]) << "statistics and the device count alike";
      ASSERT_EQ(now[1], counted[1] - before[1]);
      ASSERT_LE(now[0], most.device + most.either) << "step " << step;
      ASSERT_LE(now[1], most.pinned_host + most.either) << "step " << step;
      ASSERT_LE(now[0] + now[1], most.device + most.pinned_host + most.either) << "step " << step;
      const int32_t token = static_cast<int32_t>(step);
      if (step < kMore) (void)methods.decode({&id, 1}, {&token, 1});
    }
    methods.end(id);
    EXPECT_EQ(held_by_sequences(model_.device()), before);
  }
}

TEST_P(Accounting, TheFootprintIsExactForASequenceThatMayGrowNoFurther) {
  for (const int64_t prompt : {int64_t{1}, int64_t{512}, int64_t{513}, int64_t{1100}}) {
    Methods methods(model_, {GetParam().config});
    (void)methods.prefill(0, tiny_ids(prompt), 0);
    const Footprint promised = methods.method().footprint(prompt);
    const auto now = methods.method().statistics().held_bytes;
    EXPECT_LE(now[0] + now[1], promised.device + promised.pinned_host + promised.either);
    EXPECT_GE(now[0] + now[1], (promised.device + promised.pinned_host + promised.either) * 3 / 4)
        << "a promise far above the truth keeps others out";
  }
}

TEST_P(Accounting, EverythingComesBackWhenAPrefillIsStopped) {
  Methods methods(model_, {GetParam().config});
  (void)methods.run(0, tiny_ids(900), tiny_ids(4));  // scratch and tables at their largest
  methods.end(0);
  const auto before = held_by_all(model_.device());
  for (const double stop_at : {0.0, 0.3, 0.5, 0.99}) {
    const auto progress = [&](double share) {
      if (share >= stop_at) throw Interrupted("stopped by the test");
    };
    EXPECT_THROW((void)methods.prefill(1, tiny_ids(900), 4, 64, progress), Interrupted);
    methods.abandon(1);
    EXPECT_EQ(held_by_all(model_.device()), before) << "stopped at " << stop_at;
  }
  (void)methods.run(1, tiny_ids(900), tiny_ids(4));
  methods.end(1);
  EXPECT_EQ(held_by_all(model_.device()), before);
}

TEST_P(Accounting, ADeviceThatIsTooSmallRefusesAndHoldsWhatItHeld) {
  Methods methods(model_, {GetParam().config});
  (void)methods.run(0, tiny_ids(900), tiny_ids(4));
  methods.end(0);
  const auto before = held_by_all(model_.device());
  const int64_t budget = model_.device().memory().budget[0];
  int refusals = 0;
  for (const int64_t room : {1000, 100'000, 400'000, 600'000, 700'000}) {
    model_.device().set_budget(Tier::device, before[0] + room);
    model_.device().set_budget(Tier::pinned_host, before[1] + room / 4);
    try {
      (void)methods.prefill(1, tiny_ids(900), 4);
    } catch (const OutOfMemory&) {
      ++refusals;
    }
    methods.abandon(1);
    EXPECT_EQ(held_by_all(model_.device()), before) << "with room for " << room;
  }
  EXPECT_GE(refusals, 2);
  model_.device().set_budget(Tier::device, budget);
  model_.device().set_budget(Tier::pinned_host, budget);
  (void)methods.prefill(1, tiny_ids(900), 4);
}

// A step that finds no memory, for the next block of one of its sequences or for scratch half-way, can be
// taken again and then gives what it would have given.
TEST_P(Accounting, AStepRefusedForMemoryCanBeTakenAgain) {
  constexpr int64_t kPrompt = 1018;  // some tokens later a block is full, whatever the chunk
  constexpr int64_t kSteps = 8;
  AttentionConfig config = GetParam().config;
  if (config.exact_below > 0) config.exact_below = kPrompt + 3;  // or turns sparse on the way
  const std::vector<int32_t> steps = tiny_ids(kSteps, 2);
  const auto expected = Methods(model_, {config}).run(0, tiny_ids(kPrompt), steps);
  Methods methods(model_, {config});
  const std::vector<SeqId> both = {0, 1};
  for (const int64_t length :
       {kPrompt + 300, kPrompt}) {  // the first brings scratch and tables to their size
    for (const SeqId id : both) (void)methods.prefill(id, tiny_ids(length), kSteps);
    if (length == kPrompt) break;
    (void)methods.decode(both, std::vector<int32_t>{1, 2});
    for (const SeqId id : both) methods.end(id);
  }
  int refusals = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const std::vector<int32_t> tokens = {steps[i], steps[i]};
    std::vector<float> rows;
    for (int64_t room = 0; rows.empty(); room += 60'000) {
      set_room(room);
      try {
        rows = methods.decode(both, tokens);
      } catch (const OutOfMemory&) {
        ++refusals;
      }
    }
    const auto half = static_cast<std::ptrdiff_t>(rows.size() / 2);
    ASSERT_EQ(std::vector<float>(rows.begin(), rows.begin() + half), expected[i + 1]) << "step " << i;
    ASSERT_EQ(std::vector<float>(rows.begin() + half, rows.end()), expected[i + 1]) << "step " << i;
  }
  EXPECT_GT(refusals, 0);
}

TEST_P(Accounting, APausedSequenceHoldsNothingOfTheDeviceAndGoesOnToTheBit) {
  constexpr int64_t kPrompt = 610;  // before the crossing of the cases that have one
  const std::vector<int32_t> steps = tiny_ids(30, 2);
  const auto expected = Methods(model_, {GetParam().config}).run(0, tiny_ids(kPrompt), steps);
  Methods methods(model_, {GetParam().config});
  const auto before = held_by_sequences(model_.device());
  const SeqId id = 0, other = 1;
  (void)methods.prefill(id, tiny_ids(kPrompt), std::ssize(steps));
  (void)methods.prefill(other, tiny_ids(500, 5), std::ssize(steps));
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (i % 7 == 3) {
      const auto running = held_by_sequences(model_.device());
      methods.method().pause(id);
      (void)methods.decode({&other, 1}, {&steps[i], 1});
      methods.end(other);
      EXPECT_EQ(held_by_sequences(model_.device())[0], before[0]);
      EXPECT_EQ(methods.method().statistics().held_bytes[0], 0);
      (void)methods.prefill(other, tiny_ids(500, 5), std::ssize(steps));  // takes the place on the device
      methods.method().resume(id);
      EXPECT_EQ(held_by_sequences(model_.device())[0] + held_by_sequences(model_.device())[1],
                running[0] + running[1]);
    }
    ASSERT_EQ(methods.decode({&id, 1}, {&steps[i], 1}), expected[i + 1]) << "step " << i;
  }
}

TEST_P(Accounting, AMoveThatFindsNoMemoryCanBeTriedAgain) {
  const std::vector<int32_t> steps = tiny_ids(3, 2);
  const auto expected = Methods(model_, {GetParam().config}).run(0, tiny_ids(900), steps);
  Methods methods(model_, {GetParam().config});
  const SeqId id = 0;
  (void)methods.prefill(id, tiny_ids(900), 3);
  int refusals = 0;
  const auto insist = [&](const std::function<void()>& call) {
    for (int64_t room = 0;; room += 20'000) {
      set_room(room);
      try {
        return call();
      } catch (const OutOfMemory&) {
        ++refusals;
      }
    }
  };
  for (std::size_t i = 0; i < steps.size(); ++i) {
    insist([&] { methods.method().pause(id); });
    insist([&] { methods.method().resume(id); });
    set_room(int64_t{1} << 24);
    ASSERT_EQ(methods.decode({&id, 1}, {&steps[i], 1}), expected[i + 1]) << "step " << i;
  }
  EXPECT_GT(refusals, 6);
}

TEST_P(Accounting, HitsAreAmongTheChosen) {
  Methods methods(model_, {GetParam().config});
  (void)methods.run(0, tiny_ids(900), tiny_ids(30, 2));
  const AttentionStatistics now = methods.method().statistics();
  EXPECT_GT(now.chosen_chunks, 0);
  EXPECT_GE(now.chosen_chunks, now.slot_hits);
  EXPECT_GT(now.slot_hits, 0);
  EXPECT_LE(now.attended_tokens, static_cast<double>(now.context_tokens));
}

INSTANTIATE_TEST_SUITE_P(Configurations, Accounting, ::testing::ValuesIn(lossy_cases()), name_of_case);

TEST(Slots, ThatHoldTheWholeContextMissEachChunkOnce) {
  TinyModel model;
  AttentionConfig config = lossless(IndexKind::sketch, 4);
  config.slot_selections = 1000;
  Methods methods(model, {config});
  constexpr int64_t kTokens = 400, kSteps = 60;
  (void)methods.run(0, tiny_ids(kTokens), tiny_ids(kSteps, 2));
  const AttentionStatistics now = methods.method().statistics();
  const int64_t chunks = (kTokens + kSteps) / 4 * 2 * 3;  // of 2 KV heads and 3 layers
  EXPECT_LE(now.chosen_chunks - now.slot_hits, chunks);
  EXPECT_EQ(now.chosen_chunks, kSteps * 16 * 2 * 3);
}

TEST(Slots, HoldMoreOfWhatIsChosenTheMoreThereAre) {
  double last = -1;
  for (const double selections : {1.0, 2.0, 6.0}) {
    TinyModel model;
    AttentionConfig config = lossless(IndexKind::sketch, 4);
    config.slot_selections = selections;
    Methods methods(model, {config});
    (void)methods.run(0, tiny_ids(900), tiny_ids(40, 2));
    const auto hits = static_cast<double>(methods.method().statistics().slot_hits);
    EXPECT_GT(hits, last) << selections;
    last = hits;
  }
}

TEST(Sequences, ThatAreUnknownOrTwiceBegunAreRefused) {
  TinyModel model;
  Methods methods(model, {lossless(IndexKind::sketch, 4)});
  (void)methods.prefill(0, tiny_ids(40), 4);
  EXPECT_THROW(methods.method().begin(0, {.prompt_tokens = 4, .max_tokens = 8}), InvalidInput);
  methods.end(77);  // unknown: ignored
  EXPECT_THROW(Methods(model, {}), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::testing
