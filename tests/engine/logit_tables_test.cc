#include "engine/logit_tables.h"

#include <gtest/gtest.h>

#include <random>

#include "kernels/logit_rows.h"

namespace shadowkv {
namespace {

constexpr int64_t kVocab = 300;

class LogitTable : public ::testing::Test {
 protected:
  LogitRow begin(const LogitChanges& changes, int64_t sequence = 0) {
    tables_.begin(changes.mask().empty() ? 0 : 1, kVocab);
    const LogitRow row = tables_.row({0, sequence}, changes);
    tables_.send();
    return row;
  }
  // The step's op.
  static void run(const LogitRow& row) {
    std::vector<float> logits(kVocab);
    change_row(logits.data(), kVocab, row);
  }
  static void expect_held(const LogitRow& row, const LogitChanges& changes) {
    ASSERT_EQ(row.marked_count, std::ssize(changes.marked()));
    for (int32_t i = 0; i < row.marked_count; ++i) {
      const MarkedToken& expected = changes.marked()[static_cast<std::size_t>(i)];
      ASSERT_EQ(row.marked[i].id, expected.id) << i;
      ASSERT_EQ(row.marked[i].seen, expected.seen) << i;
      ASSERT_EQ(row.marked[i].bias, expected.bias) << i;
    }
    ASSERT_EQ(row.mask == nullptr, changes.mask().empty());
    for (std::size_t i = 0; i < changes.mask().size(); ++i) ASSERT_EQ(row.mask[i], changes.mask()[i]);
  }
  [[nodiscard]] int64_t kept() const { return device_->memory().of(Tier::device, Purpose::sampling); }

  std::unique_ptr<Device> device_ = make_cpu_device({.threads = 1});
  LogitTables tables_{*device_};
};

SamplingParams penalties() {
  return {.repetition_penalty = 1.5, .logit_bias = {{5, 1.0}, {250, -3.0}}};
}

TEST_F(LogitTable, HoldsWhatItsSamplerSaysWhateverHappens) {
  std::mt19937 random(1);
  const auto token = [&] { return static_cast<int32_t>(random() % kVocab); };
  std::vector<std::unique_ptr<LogitChanges>> all;
  for (int i = 0; i < 3; ++i) {
    const std::vector<int32_t> prompt(static_cast<std::size_t>(40 * i), token());
    all.push_back(
        std::make_unique<LogitChanges>(i < 2 ? penalties() : SamplingParams{.presence_penalty = 1}, prompt));
  }
  std::size_t who = 0;
  for (int step = 0; step < 3000; ++step) {
    if (random() % 40 == 0) who = random() % all.size();
    if (random() % 60 == 0) all[who] = std::make_unique<LogitChanges>(*all[who]);
    LogitChanges& changes = *all[who];
    const auto mask = random() % 8;
    if (mask == 0) changes.allow_all();
    if (mask == 1) changes.forbid(std::vector<int32_t>{token(), token()}, kVocab);
    changes.prepare(kVocab);
    const LogitRow row = begin(changes);
    const auto fate = random() % 10;
    if (fate > 0) run(row);  // else it failed before
    if (fate < 2) continue;  // or behind
    ASSERT_NO_FATAL_FAILURE(expect_held(row, changes)) << "step " << step;
    tables_.finish();
    if (random() % 50 == 0) tables_.forget(0);
    for (auto taken = random() % 3; taken > 0; --taken) {
      changes.count(token());
      changes.prepare(kVocab);
    }
  }
}

TEST_F(LogitTable, AStepBringsOnlyWhatIsNew) {
  LogitChanges changes(penalties(), std::vector<int32_t>{1, 2, 3, 4});
  changes.forbid(std::vector<int32_t>{9}, kVocab);
  changes.prepare(kVocab);
  LogitRow row = begin(changes);
  EXPECT_NE(row.fresh_mask, nullptr);
  run(row);
  tables_.finish();
  row.marked[0].seen = 77;  // stays where nothing brings it again
  row = begin(changes);
  EXPECT_EQ(row.fresh_place, -1);
  EXPECT_EQ(row.fresh_mask, nullptr);
  run(row);
  tables_.finish();
  changes.count(200);
  row = begin(changes);
  EXPECT_EQ(row.fresh_place, 6);
  EXPECT_EQ(row.fresh.id, 200);
  EXPECT_EQ(row.marked[0].seen, 77);
  run(row);
  EXPECT_EQ(row.marked[6].seen, 2);
  row = begin(changes);  // the step before did not end well
  EXPECT_EQ(row.marked[0].seen, 1);
  EXPECT_NE(row.fresh_mask, nullptr);
}

TEST_F(LogitTable, ListsGrowToTheVocabularyAtMostAndGoWithTheirSequence) {
  LogitChanges changes({.frequency_penalty = 1.0}, {});
  for (int32_t id = 0; id < kVocab; ++id) {
    changes.prepare(kVocab);
    const LogitRow row = begin(changes, id % 2);
    run(row);
    expect_held(row, changes);
    tables_.finish();
    changes.count(id);
  }
  EXPECT_GT(kept(), 0);
  EXPECT_LE(kept(), 2 * kVocab * static_cast<int64_t>(sizeof(MarkedToken)));
  tables_.forget(0);
  EXPECT_GT(kept(), 0);
  tables_.forget(1);
  EXPECT_EQ(kept(), 0);
}

TEST(LogitChanges, EachTokenIsMarkedOnce) {
  LogitChanges changes(penalties(), std::vector<int32_t>{7, 5, 7, 1});
  changes.prepare(kVocab);
  ASSERT_EQ(changes.marked().size(), 4u);
  const int32_t ids[] = {1, 5, 7, 250}, seen[] = {1, 1, 1, 0};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(changes.marked()[i].id, ids[i]);
    EXPECT_EQ(changes.marked()[i].seen, seen[i]);
  }
  changes.count(250);
  EXPECT_EQ(changes.latest(), 3);
  EXPECT_EQ(changes.marked()[3].seen, 2);
  EXPECT_EQ(changes.marked()[3].bias, -3.0f);
  changes.count(7);
  EXPECT_EQ(changes.marked()[2].seen, 2) << "once in the answer, besides the prompt";
  changes.prepare(kVocab);
  changes.count(0);
  EXPECT_EQ(changes.latest(), 4);
  EXPECT_EQ(changes.version(), 3);
}

}  // namespace
}  // namespace shadowkv
