// Who runs on two memory budgets, without any device: every request of these tests takes as many bytes as it
// may hold tokens.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "engine/pace.h"
#include "engine/reading_order.h"

namespace shadowkv::testing {
namespace {

using Kind = SchedulerAction::Kind;

class Scheduling : public ::testing::Test {
 protected:
  static Scheduler make(int64_t max_running = 8, int64_t growth = 10, int64_t max_reading = 1) {
    return Scheduler({.max_running = max_running, .max_reading = max_reading, .growth_tokens = growth},
                     [](const SequencePlan& plan, int64_t tokens, int64_t answers) {
                       return Footprint{.device = tokens + (answers - 1) * (tokens - plan.prompt_tokens)};
                     });
  }
  static RequestSize size(int64_t prompt, int64_t max, int priority = 0, const std::string& client = "") {
    return {.priority = priority, .client = client, .prompt_tokens = prompt, .max_tokens = max};
  }
  // Lets the next one in and through its prompt.
  void start(Scheduler& scheduler, RequestId id, const Room& room) {
    expect(scheduler, room, Kind::read, id);
    scheduler.finished_reading(id);
  }
  static void expect(Scheduler& scheduler, const Room& room, Kind kind, RequestId id = 0) {
    const SchedulerAction action = scheduler.next(room);
    EXPECT_EQ(static_cast<int>(action.kind), static_cast<int>(kind));
    EXPECT_EQ(action.id, kind == Kind::none ? 0 : id);
  }
  // A running one that holds `held` tokens holds more, one after the other.
  static void steps(Scheduler& scheduler, RequestId id, int64_t held, int64_t end) {
    while (held < end) scheduler.took_step(id, ++held);
  }
};

TEST(Fitting, ValuesTakeWhatTheDeviceLeavesThenHostMemory) {
  const Room room{.device = 100, .host = 50};
  EXPECT_TRUE(fits({.device = 100, .pinned_host = 50}, room));
  EXPECT_FALSE(fits({.device = 101}, room));
  EXPECT_TRUE(fits({.device = 60, .either = 90}, room));
  EXPECT_FALSE(fits({.device = 60, .either = 91}, room));
  EXPECT_FALSE(fits({.device = 60, .pinned_host = 1, .either = 90}, room));
}

TEST_F(Scheduling, SoManyRunAndOneOfThemMayBeReading) {
  Scheduler scheduler = make(2);
  const Room room{.device = 1000};
  for (const RequestId id : {1, 2, 3}) scheduler.add(id, size(10, 50));
  expect(scheduler, room, Kind::read, 1);
  expect(scheduler, room, Kind::none);
  scheduler.finished_reading(1);
  start(scheduler, 2, room);
  expect(scheduler, room, Kind::none);
  scheduler.remove(1);
  expect(scheduler, room, Kind::read, 3);
}

TEST_F(Scheduling, SeveralPromptsMayBeReadEachWithMemoryOfItsOwn) {
  Scheduler scheduler = make(8, 10, 2);
  const Room room{.device = 100};
  RequestSize sized = size(20, 30);
  sized.working_bytes = 15;
  for (const RequestId id : {1, 2, 3}) scheduler.add(id, sized);
  expect(scheduler, room, Kind::read, 1);
  expect(scheduler, room, Kind::read, 2);
  EXPECT_EQ(scheduler.set_aside().device, 90);
  expect(scheduler, room, Kind::none);
  scheduler.finished_reading(2);
  expect(scheduler, room, Kind::none);  // 75 are taken
  scheduler.finished_reading(1);
  expect(scheduler, {.device = 105}, Kind::read, 3);
}

TEST_F(Scheduling, TheFirstInLineIsWaitedForAndNobodyOvertakesIt) {
  Scheduler scheduler = make();
  const Room room{.device = 100};
  scheduler.add(1, size(60, 70));
  scheduler.add(2, size(80, 90));
  scheduler.add(3, size(5, 10));
  start(scheduler, 1, room);
  expect(scheduler, room, Kind::none);
  scheduler.remove(1);
  start(scheduler, 2, room);
}

TEST_F(Scheduling, WhoGrowsTakesFromTheLowestWhichGoesOnWhenThereIsRoom) {
  Scheduler scheduler = make();
  const Room room{.device = 95, .host = 100};
  for (const RequestId id : {1, 2}) scheduler.add(id, size(30, 90));
  start(scheduler, 1, room);
  start(scheduler, 2, room);  // 40 set aside for each
  steps(scheduler, 1, 30, 40);
  expect(scheduler, room, Kind::none);  // 50 for the first
  steps(scheduler, 1, 40, 50);
  expect(scheduler, room, Kind::pause, 2);
  expect(scheduler, room, Kind::none);
  EXPECT_EQ(scheduler.counts().paused, 1);
  EXPECT_EQ(scheduler.set_aside().pinned_host, 31);
  scheduler.remove(1);
  expect(scheduler, room, Kind::resume, 2);
  EXPECT_EQ(scheduler.set_aside().pinned_host, 0);
}

TEST_F(Scheduling, WithoutHostMemoryAStateIsDroppedAndReadAgainBeforeNewOnes) {
  Scheduler scheduler = make();
  const Room room{.device = 100, .host = 10};
  for (const RequestId id : {1, 2, 3}) scheduler.add(id, size(30, 90));
  start(scheduler, 1, room);
  start(scheduler, 2, room);
  steps(scheduler, 1, 30, 60);
  expect(scheduler, room, Kind::drop, 2);
  scheduler.remove(1);
  start(scheduler, 2, room);
}

TEST_F(Scheduling, TheLowestThatGrowsGivesWayItself) {
  Scheduler scheduler = make();
  const Room room{.device = 80, .host = 100};
  for (const RequestId id : {1, 2}) scheduler.add(id, size(30, 90));
  start(scheduler, 1, room);
  start(scheduler, 2, room);
  steps(scheduler, 2, 30, 40);
  expect(scheduler, room, Kind::pause, 2);
}

TEST_F(Scheduling, AHigherPriorityTakesTheMemoryOfLowerOnesAlone) {
  Scheduler scheduler = make();
  const Room room{.device = 100, .host = 100};
  scheduler.add(1, size(40, 50, 1));
  scheduler.add(2, size(40, 50, 0));
  start(scheduler, 1, room);
  start(scheduler, 2, room);
  scheduler.add(3, size(40, 50, 1));
  expect(scheduler, room, Kind::pause, 2);
  start(scheduler, 3, room);
  scheduler.add(4, size(40, 50, 1));
  expect(scheduler, room, Kind::none);
  EXPECT_EQ(scheduler.counts().paused, 1) << "what is paused holds nothing that would help";
}

TEST_F(Scheduling, OfOnePriorityWhoWasServedLessGoesFirst) {
  Scheduler scheduler = make(1);
  const Room room{.device = 1000};
  for (const RequestId id : {1, 2}) scheduler.add(id, size(20, 30, 0, "a"));
  start(scheduler, 1, room);
  scheduler.add(3, size(20, 30, 0, "b"));
  steps(scheduler, 1, 20, 23);
  scheduler.remove(1);
  start(scheduler, 3, room);
}

TEST_F(Scheduling, WhatFitsNoLongerEvenAloneFails) {
  Scheduler scheduler = make();
  scheduler.add(1, size(50, 90));
  start(scheduler, 1, {.device = 60});
  steps(scheduler, 1, 50, 60);
  expect(scheduler, {.device = 60}, Kind::fail, 1);
}

TEST_F(Scheduling, WhenTheLedgerErredTheLowestGivesWayAndWaitsForADeparture) {
  Scheduler scheduler = make();
  const Room room{.device = 1000, .host = 1000};
  for (const RequestId id : {1, 2}) scheduler.add(id, size(30, 90));
  start(scheduler, 1, room);
  EXPECT_EQ(static_cast<int>(scheduler.give_way(room).kind), static_cast<int>(Kind::none));
  start(scheduler, 2, room);
  const SchedulerAction action = scheduler.give_way(room);
  EXPECT_EQ(static_cast<int>(action.kind), static_cast<int>(Kind::pause));
  EXPECT_EQ(action.id, 2);
  expect(scheduler, room, Kind::none);
  scheduler.remove(1);
  expect(scheduler, room, Kind::resume, 2);
}

TEST_F(Scheduling, AnswersToOnePromptShareItAndRunAndGiveWayTogether) {
  Scheduler scheduler = make();
  const Room room{.device = 100, .host = 100};
  RequestSize three = size(30, 90);
  three.answers = 3;
  scheduler.add(1, three);
  start(scheduler, 1, room);
  EXPECT_EQ(scheduler.set_aside().device, 60) << "30 in common, 10 for each";
  EXPECT_EQ(scheduler.counts().running, 3);
  steps(scheduler, 1, 30, 40);
  steps(scheduler, 1, 30, 35);  // another one of them
  expect(scheduler, room, Kind::none);
  EXPECT_EQ(scheduler.set_aside().device, 90);
  RequestSize above = size(40, 50, 1);
  scheduler.add(2, above);
  expect(scheduler, room, Kind::pause, 1);
  EXPECT_EQ(scheduler.set_aside().pinned_host, 63);
  EXPECT_EQ(scheduler.counts().paused, 3);
  scheduler.end_answer(1);
  EXPECT_EQ(scheduler.set_aside().pinned_host, 52);
  start(scheduler, 2, room);
  scheduler.remove(2);
  expect(scheduler, room, Kind::resume, 1);
  EXPECT_EQ(scheduler.set_aside().device, 70);
  scheduler.end_answer(1);
  EXPECT_EQ(scheduler.set_aside().device, 50);
  scheduler.remove(1);
  EXPECT_EQ(scheduler.set_aside().device, 0);
}

TEST_F(Scheduling, AllAnswersToAPromptFitIntoAStepOrWait) {
  Scheduler scheduler = make(4);
  const Room room{.device = 1000};
  RequestSize three = size(10, 20);
  three.answers = 3;
  scheduler.add(1, size(10, 20));
  scheduler.add(2, three);
  scheduler.add(3, three);
  start(scheduler, 1, room);
  start(scheduler, 2, room);
  expect(scheduler, room, Kind::none);
  scheduler.remove(1);
  expect(scheduler, room, Kind::none);
  scheduler.end_answer(2);
  scheduler.end_answer(2);
  start(scheduler, 3, room);
}

TEST_F(Scheduling, EverythingIsGivenBack) {
  Scheduler scheduler = make();
  const Room room{.device = 1000};
  for (const RequestId id : {1, 2, 3}) scheduler.add(id, size(30, 90));
  start(scheduler, 1, room);
  expect(scheduler, room, Kind::read, 2);
  for (const RequestId id : {1, 2, 3, 4}) scheduler.remove(id);
  EXPECT_EQ(scheduler.set_aside().device, 0);
  EXPECT_EQ(scheduler.counts().waiting, 0);
}

TEST(ReadingOrders, TheLeastWorkLeftGoesFirstOfThoseOfThePriority) {
  ReadingOrder order;
  EXPECT_FALSE(order.next());
  order.add(1, 0, 100);
  order.add(2, 0, 100);
  EXPECT_EQ(order.next(), 1);
  order.did(1, 10);
  order.add(3, 0, 95);
  EXPECT_EQ(order.next(), 1);
  order.add(4, 0, 20);
  EXPECT_EQ(order.next(), 4);
  order.add(5, 1, 1000);
  EXPECT_EQ(order.next(), 5);
  order.remove(5);
  order.remove(5);
  order.remove(4);
  EXPECT_EQ(order.next(), 1);
}

TEST(ReadingOrders, NobodyWaitsForMoreThanItsOwnWorkOfThoseThatCameLater) {
  ReadingOrder order;
  order.add(1, 0, 100);
  order.did(1, 10);
  const auto comes = [&](RequestId id) {
    order.add(id, 0, 30);
    return order.next();
  };
  for (const RequestId id : {2, 3, 4, 5}) {
    ASSERT_EQ(comes(id), id);
    order.did(id, 30);
    order.remove(id);
  }
  EXPECT_EQ(comes(6), 1) << "after 120 of its 100";
  order.add(99, 1, 10);
  EXPECT_EQ(order.next(), 99) << "a higher priority goes first nevertheless";
}

TEST(Pacing, SlicesTakeWhatTheGapAllows) {
  Pace pace(2.0, {.row = 100, .key = 1}, 16);
  EXPECT_EQ(pace.allowance(), 0);
  EXPECT_EQ(pace.rows_within(1.0, 0, 512), 16) << "nothing is known yet";
  pace.step_took(0.010);
  EXPECT_NEAR(pace.allowance(), 0.0075, 1e-12);
  pace.slice_took(0, 16, 16 * (100 + 8) * 1e-6);
  EXPECT_EQ(pace.rows_within(0.008, 0, 512), 48);  // 48 * (100 + 24) < 8000 < 64 * (100 + 32)
  EXPECT_EQ(pace.rows_within(0.008, 300, 512), 16);
  EXPECT_EQ(pace.rows_within(0.001, 300, 512), 2);  // 2 * (100 + 301) < 1000
  EXPECT_EQ(pace.rows_within(0.0003, 300, 512), 0);
  EXPECT_EQ(pace.rows_within(-1, 0, 512), 0);
  EXPECT_EQ(pace.rows_within(10, 0, 512), 512);
  EXPECT_EQ(pace.rows_within(10, 0, 7), 7);
  EXPECT_EQ(pace.closed_within(1.0, 64, 1000), 64) << "nothing is known yet";
  pace.closing_took(1000, 0.002);
  EXPECT_EQ(pace.closed_within(0.00101, 64, 1000), 448);
  EXPECT_EQ(pace.closed_within(0.0001, 64, 1000), 0);
  EXPECT_EQ(pace.closed_within(-1, 64, 1000), 0);
  EXPECT_EQ(pace.closed_within(1, 64, 1000), 1000);
  EXPECT_EQ(pace.closed_within(1, 1024, 1000), 1000) << "cut nowhere";
  EXPECT_EQ(pace.rows_of({0, 512, 0}, 0.008, false), 48);
  EXPECT_EQ(pace.rows_of({300, 512, 0}, 0.001, false), 0) << "too few to be worth it";
  EXPECT_EQ(pace.rows_of({300, 512, 0}, 0.001, true), 2);
  EXPECT_EQ(pace.rows_of({300, 512, 0}, -1, true), 1);
  EXPECT_EQ(pace.rows_of({0, 1000, 64}, 0.0001, false), 0);
  EXPECT_EQ(pace.rows_of({0, 1000, 64}, 0.0001, true), 64);
}

TEST(Pacing, WhatHappensOnceHardlyCounts) {
  Pace pace(2.0, {.row = 100, .key = 1}, 16);
  pace.step_took(0.010);
  pace.slice_took(0, 64, 64 * (100 + 32) * 1e-6);
  const int64_t rows = pace.rows_within(0.010, 0, 512);
  pace.slice_took(0, 64, 0.5);  // 60 times as long
  EXPECT_GE(pace.rows_within(0.010, 0, 512), rows / 2);
  pace.step_took(1.0);
  EXPECT_LE(pace.allowance(), 0.0075 * 1.31);
  for (int i = 0; i < 20; ++i) pace.step_took(0.020);
  EXPECT_NEAR(pace.allowance(), 0.015, 0.0005) << "what lasts counts in the end";
}

// What things take on a machine.
struct SimulatedMachine {
  double step_s, work_per_s, unit_s, closing_s;  // of a step, of slices, of any unit, of closing a token
  int64_t slice_tokens, closing_tokens;
};

// Reads a prompt between steps as the service does, where everything takes a tenth less or more in turn.
class SimulatedReading {
 public:
  SimulatedReading(SimulatedMachine machine, UnitWork work, double max_gap)
      : machine_(machine), work_(work), pace_(max_gap, work, 16) {}

  // Gaps between the tokens of a stream, each in what it would be without reading.
  std::vector<double> read(int64_t tokens, int64_t layers) {
    std::vector<double> gaps;
    for (layers_ = layers, tokens_ = tokens; layers_ > 0;) {
      const double step = swayed(machine_.step_s);
      pace_.step_took(step);
      gaps.push_back(1 + between_steps() / step);
    }
    return gaps;
  }

 private:
  double swayed(double seconds) {
    count_ = (count_ + 1) % 3;
    return seconds * (0.9 + 0.1 * count_);
  }
  double between_steps() {
    double left = pace_.allowance(), taken = 0;
    for (bool is_first = true; layers_ > 0; is_first = false) {
      const double seconds = unit(left - taken, is_first);
      if (seconds == 0) break;
      taken += seconds;
    }
    return taken;
  }
  double unit(double left, bool is_first) {
    const bool closes = first_ == tokens_;
    const int64_t most = closes ? tokens_ - closed_ : std::min(machine_.slice_tokens, tokens_ - first_);
    const int64_t rows = pace_.rows_of({first_, most, closes ? machine_.closing_tokens : 0}, left, is_first);
    if (rows == 0) return 0;
    const double work = closes ? machine_.closing_s * static_cast<double>(rows)
                               : work_.of(first_, rows) / machine_.work_per_s;
    const double seconds = machine_.unit_s + swayed(work);
    closes ? pace_.closing_took(rows, seconds) : pace_.slice_took(first_, rows, seconds);
    (closes ? closed_ : first_) += rows;
    if (closed_ == tokens_) {
      first_ = closed_ = 0;
      --layers_;
    }
    return seconds;
  }

  SimulatedMachine machine_;
  UnitWork work_;
  Pace pace_;
  int64_t tokens_ = 0, layers_ = 0, first_ = 0, closed_ = 0;
  int count_ = 0;
};

// What 8B and 135M parameters take of a GPU and of a CPU, about.
TEST(Pacing, GapsStayUnderTheirMultipleWhileAPromptOf128KTokensIsRead) {
  const UnitWork large{.row = 4.4e8, .key = 16384}, small{.row = 7e6, .key = 2304};
  const SimulatedMachine gpu{8e-3, 4e14, 5e-5, 2e-8, 8192, 4096};
  const SimulatedMachine cpu{30e-3, 5e10, 2e-5, 1e-6, 512, 4096};
  for (const double max_gap : {2.0, 1.5, 4.0}) {
    for (const auto& [machine, work] : {std::pair(gpu, large), std::pair(cpu, small)}) {
      SimulatedReading reading(machine, work, max_gap);
      const std::vector<double> gaps = reading.read(1 << 17, 4);
      const double longest = *std::max_element(gaps.begin() + 2, gaps.end());  // once both were measured
      EXPECT_LT(longest, max_gap) << "of a step of " << machine.step_s;
      const double mean = std::accumulate(gaps.begin(), gaps.end(), 0.0) / static_cast<double>(gaps.size());
      EXPECT_GT(mean, 1 + (max_gap - 1) / 2) << "much of what there is goes to the prompt";
    }
  }
}

}  // namespace
}  // namespace shadowkv::testing
