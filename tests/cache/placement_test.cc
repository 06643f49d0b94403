// Which row moves between the memories, when and how far: policy alone. paged_store_test.cc has the moves.
#include "cache/placement.h"

#include <gtest/gtest.h>

#include <vector>

namespace shadowkv {
namespace {

using Rows = std::vector<PlacedRow>;

TEST(Placement, TheLeastRecentlyUsedRowGoesDownFirst) {
  EXPECT_EQ(next_down(Rows{{50, 0, 7}, {10, 0, 3}, {90, 0, 9}}), 1);
  EXPECT_EQ(next_down(Rows{{50, 0, 7}, {0, 10, 3}, {90, 0, 9}}), 0) << "one that has nothing there cannot";
}

TEST(Placement, OfRowsUsedAlikeOneThatHasBegunThenTheLargestGoesDown) {
  EXPECT_EQ(next_down(Rows{{50, 0, 4}, {90, 0, 4}, {60, 0, 4}}), 1);
  EXPECT_EQ(next_down(Rows{{50, 0, 4}, {90, 0, 4}, {20, 40, 4}}), 2);
}

TEST(Placement, TheMostRecentlyUsedRowComesUpFirstAndOfThoseTheOneThatIsSoonestWhole) {
  EXPECT_EQ(next_up(Rows{{0, 50, 7}, {0, 10, 3}, {90, 0, 9}}), 0);
  EXPECT_EQ(next_up(Rows{{0, 50, 4}, {40, 10, 4}, {0, 60, 4}}), 1);
}

TEST(Placement, NothingMovesWhereNothingIs) {
  EXPECT_EQ(next_down(Rows{}), std::nullopt);
  EXPECT_EQ(next_up(Rows{{80, 0, 1}}), std::nullopt);
  EXPECT_EQ(next_down(Rows{{0, 80, 1}}), std::nullopt);
  EXPECT_FALSE(next_move(Rows{}, {.free = 100, .most = 10}));
}

TEST(Placement, RoomThatOthersWantIsMadeInBoundedPieces) {
  const Rows rows = {{500, 0, 1}, {500, 0, 2}};
  const auto move = next_move(rows, {.free = 10, .keep_free = 100, .slack = 5, .most = 40, .now = 2});
  ASSERT_TRUE(move);
  EXPECT_EQ(move->row, 0);
  EXPECT_EQ(move->to, Tier::pinned_host);
  EXPECT_EQ(move->bytes, 40);
  EXPECT_EQ(next_move(rows, {.free = 90, .keep_free = 100, .slack = 5, .most = 40, .now = 2})->bytes, 10);
  EXPECT_FALSE(next_move(rows, {.free = 100, .keep_free = 100, .slack = 5, .most = 40, .now = 2}));
}

TEST(Placement, RoomBeyondTheSlackIsUsedInBoundedPieces) {
  const Rows rows = {{0, 500, 1}, {100, 300, 2}};
  const auto at = [&](int64_t free) {
    return next_move(rows, {.free = free, .keep_free = 100, .slack = 50, .most = 40, .now = 2});
  };
  EXPECT_FALSE(at(150));
  ASSERT_TRUE(at(151));
  EXPECT_EQ(at(151)->row, 1);
  EXPECT_EQ(at(151)->to, Tier::device);
  EXPECT_EQ(at(151)->bytes, 1);
  EXPECT_EQ(at(1000)->bytes, 40);
  EXPECT_FALSE(next_move(rows, {.free = 1000, .most = 40, .now = 5000})) << "of rows that nobody uses";
}

// What went down for want of room does not come up again into the little that was freed beyond it.
TEST(Placement, MovesComeToRest) {
  for (const int64_t keep_free : {0, 70, 300}) {
    PlacedRow row{400, 400, 1};
    PlacementRoom room{.free = 200, .keep_free = keep_free, .slack = 60, .most = 50, .now = 1};
    int moves = 0;
    while (const auto move = next_move({&row, 1}, room)) {
      ASSERT_LT(++moves, 100) << keep_free;
      const int64_t sign = move->to == Tier::device ? 1 : -1;
      row.device_bytes += sign * move->bytes;
      row.host_bytes -= sign * move->bytes;
      room.free -= sign * move->bytes;
    }
    EXPECT_GE(room.free, keep_free);
    EXPECT_LE(room.free, keep_free + room.slack);
  }
}

TEST(Placement, ARowThatNobodyUsesMakesRoomForOneInUse) {
  const Rows rows = {{500, 0, 1}, {0, 500, 100}};
  const auto at = [&](int64_t now) {
    return next_move(rows, {.free = 0, .slack = 50, .most = 40, .now = now});
  };
  ASSERT_TRUE(at(100));
  EXPECT_EQ(at(100)->row, 0);
  EXPECT_EQ(at(100)->to, Tier::pinned_host);
  const Rows in_turns = {{500, 0, 98}, {0, 500, 100}};
  EXPECT_FALSE(next_move(in_turns, {.free = 0, .slack = 50, .most = 40, .now = 100}));
  EXPECT_FALSE(at(1000)) << "nobody uses the other any more";
}

}  // namespace
}  // namespace shadowkv
