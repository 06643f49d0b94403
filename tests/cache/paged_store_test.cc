#include "cache/paged_store.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "shadowkv/error.h"

namespace shadowkv {
namespace {

constexpr int64_t kTokenBytes = 8;

// Every token's bytes say whose they are.
void write(const PagedView& view, int64_t row, int64_t list, int64_t token) {
  const std::array<int16_t, 4> mark = {static_cast<int16_t>(row), static_cast<int16_t>(list),
                                       static_cast<int16_t>(token), 77};
  std::memcpy(view.at(row, list, token), mark.data(), sizeof(mark));
}

::testing::AssertionResult holds(const PagedView& view, int64_t row, int64_t list, int64_t token) {
  std::array<int16_t, 4> mark{};
  std::memcpy(mark.data(), view.at(row, list, token), sizeof(mark));
  if (mark == std::array<int16_t, 4>{static_cast<int16_t>(row), static_cast<int16_t>(list),
                                     static_cast<int16_t>(token), 77}) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure()
         << "row " << row << ", list " << list << ", token " << token << " holds the mark of " << mark[0]
         << ", " << mark[1] << ", " << mark[2];
}

class Paged : public ::testing::Test {
 protected:
  PagedView view(PagedStore& store) {
    PagedView view = store.view(device_->compute(), 0, true);
    view.token_bytes = kTokenBytes;
    return view;
  }
  void fill(PagedStore& store, int64_t row, int64_t first, int64_t end) {
    const PagedView at = view(store);
    for (int64_t list = 0; list < store.config().lists; ++list) {
      for (int64_t t = first; t < end; ++t) write(at, row, list, t);
    }
  }
  void expect_kept(PagedStore& store, int64_t row, int64_t end) {
    const PagedView at = view(store);
    for (int64_t list = 0; list < store.config().lists; ++list) {
      for (int64_t t = 0; t < end; ++t) ASSERT_TRUE(holds(at, row, list, t));
    }
  }
  [[nodiscard]] int64_t held(const PagedStore& store, int64_t row) const {
    return store.held_bytes(row, Tier::device) + store.held_bytes(row, Tier::pinned_host);
  }

  std::unique_ptr<Device> device_ = make_cpu_device({.threads = 1});
};

TEST_F(Paged, GrowingToAnyLengthKeepsContents) {
  PagedStore store(*device_,
                   {.block_tokens = 16, .token_bytes = kTokenBytes, .lists = 3, .growth_tokens = 4});
  int64_t before = 0;
  for (const int64_t tokens : {1, 4, 5, 15, 16, 17, 40, 200}) {
    store.reserve(0, tokens);
    fill(store, 0, before, tokens);
    expect_kept(store, 0, tokens);
    before = tokens;
  }
}

TEST_F(Paged, TheLastRunIsShortAndBytesAreAsPromised) {
  PagedStore store(*device_,
                   {.block_tokens = 16, .token_bytes = kTokenBytes, .lists = 2, .growth_tokens = 4});
  for (int64_t tokens = 1; tokens < 70; ++tokens) {
    store.reserve(0, tokens);
    EXPECT_EQ(store.capacity_tokens(0), (tokens + 3) / 4 * 4);
    EXPECT_EQ(held(store, 0), store.bytes_for(tokens));
    EXPECT_EQ(store.bytes_for(tokens), (tokens + 3) / 4 * 4 * kTokenBytes * 2);
  }
}

TEST_F(Paged, AStepThatDoesNotDivideTheBlockStillEndsAtTheBlock) {
  PagedStore store(*device_, {.block_tokens = 15, .token_bytes = kTokenBytes, .growth_tokens = 4});
  store.reserve(0, 13);
  EXPECT_EQ(store.capacity_tokens(0), 15);
  store.reserve(0, 16);
  EXPECT_EQ(store.capacity_tokens(0), 19);
  EXPECT_EQ(held(store, 0), store.bytes_for(16));
  fill(store, 0, 0, 19);
  expect_kept(store, 0, 19);
}

TEST_F(Paged, WholeBlocksWithoutGrowthSteps) {
  PagedStore store(*device_, {.block_tokens = 16, .token_bytes = kTokenBytes});
  store.reserve(0, 1);
  EXPECT_EQ(store.capacity_tokens(0), 16);
  EXPECT_EQ(held(store, 0), 16 * kTokenBytes);
  store.reserve(0, 1);  // a smaller wish changes nothing
  EXPECT_EQ(held(store, 0), 16 * kTokenBytes);
  EXPECT_EQ(store.bytes_for(0), 0);
}

TEST_F(Paged, SeveralRowsKeepTheirContentsWhileTheTableGrows) {
  PagedStore store(*device_, {.block_tokens = 4, .token_bytes = kTokenBytes, .lists = 2});
  constexpr std::array<int64_t, 4> kLengths = {3, 30, 1, 130};
  for (int64_t row = 0; row < 4; ++row) {
    store.reserve(row, kLengths[static_cast<std::size_t>(row)]);
    fill(store, row, 0, kLengths[static_cast<std::size_t>(row)]);
    for (int64_t earlier = 0; earlier <= row; ++earlier) {
      expect_kept(store, earlier, kLengths[static_cast<std::size_t>(earlier)]);
    }
  }
  store.reserve(0, 500);  // the first outgrows all
  for (int64_t row = 0; row < 4; ++row) expect_kept(store, row, kLengths[static_cast<std::size_t>(row)]);
}

// A recorded step goes on reading tables by the strides of the day, as long as the device's addresses stay.
TEST_F(Paged, OtherStridesAreOtherAddresses) {
  PagedStore store(*device_, {.block_tokens = 4, .token_bytes = kTokenBytes, .lists = 2});
  store.reserve(0, 3);
  PagedView before = view(store);
  int64_t epoch = device_->address_epoch();
  int changes = 0;
  for (int64_t step = 0; step < 300; ++step) {
    store.reserve(step % 3, 4 + step);
    const PagedView now = view(store);
    const bool moved = device_->address_epoch() != epoch;
    const bool differs = now.seq_stride != before.seq_stride || now.head_stride != before.head_stride;
    EXPECT_TRUE(moved || !differs) << "step " << step;
    changes += differs ? 1 : 0;
    before = now;
    epoch = device_->address_epoch();
  }
  EXPECT_GE(changes, 5);
}

TEST_F(Paged, AReleasedRowGivesEverythingBackAndTheOthersStay) {
  PagedStore store(*device_, {.block_tokens = 4, .token_bytes = kTokenBytes, .purpose = Purpose::factors});
  for (const int64_t row : {0, 1, 2}) {
    store.reserve(row, 20);
    fill(store, row, 0, 20);
  }
  store.release(1);
  store.release(40);  // never seen: nothing happens
  EXPECT_EQ(held(store, 1), 0);
  EXPECT_EQ(store.capacity_tokens(1), 0);
  EXPECT_EQ(device_->memory().of(Tier::device, Purpose::factors), 40 * kTokenBytes);
  store.reserve(1, 50);
  fill(store, 1, 0, 50);
  for (const int64_t row : {0, 2}) expect_kept(store, row, 20);
  expect_kept(store, 1, 50);
}

PagedStoreConfig spilling(int64_t lists) {
  return {.block_tokens = 4,
          .token_bytes = kTokenBytes,
          .lists = lists,
          .purpose = Purpose::values,
          .prefer_device = true,
          .spill_to_host = true};
}

TEST_F(Paged, RunsSpillToTheHostWhenTheDeviceIsFull) {
  PagedStore store(*device_, spilling(1));
  (void)view(store);
  device_->set_budget(Tier::device, device_->memory().held(Tier::device) + 10 * kTokenBytes);
  store.reserve(0, 20);
  EXPECT_EQ(store.held_bytes(0, Tier::device), 8 * kTokenBytes);
  EXPECT_EQ(store.held_bytes(0, Tier::pinned_host), 12 * kTokenBytes);
  device_->set_budget(Tier::device, 1 << 20);
  fill(store, 0, 0, 20);
  expect_kept(store, 0, 20);
}

TEST_F(Paged, RunsGiveWayToOthersOnTheDeviceAndKeepTheirContents) {
  PagedStore store(*device_, spilling(2));
  for (const int64_t row : {0, 1}) {
    store.reserve(row, 20);
    fill(store, row, 0, 20);
  }
  ASSERT_EQ(store.held_bytes(0, Tier::pinned_host), 0);
  device_->set_budget(Tier::device, device_->memory().held(Tier::device) + 16);
  const Buffer other = device_->allocate(Tier::device, Purpose::index, 100);
  EXPECT_EQ(other.tier(), Tier::device);
  EXPECT_GT(store.held_bytes(0, Tier::pinned_host) + store.held_bytes(1, Tier::pinned_host), 0);
  for (const int64_t row : {0, 1}) {
    EXPECT_EQ(held(store, row), 2 * 20 * kTokenBytes);
    expect_kept(store, row, 20);
  }
}

// One that gives way does so whole before the next one does: never are two in both memories.
TEST_F(Paged, RunsOfOneRowGiveWayBeforeAnothers) {
  PagedStoreConfig config = spilling(2);
  config.least_spill_bytes = 1;
  PagedStore store(*device_, config);
  for (const int64_t row : {0, 1, 2}) store.reserve(row, row == 1 ? 24 : 20);
  device_->set_budget(Tier::device, device_->memory().held(Tier::device));
  std::vector<Buffer> others;
  for (int64_t bytes = 0; bytes < 3 * 40 * kTokenBytes; bytes += 64) {
    others.push_back(device_->allocate(Tier::device, Purpose::index, 64));
    int64_t in_both = 0;
    for (const int64_t row : {0, 1, 2}) {
      in_both +=
          store.held_bytes(row, Tier::device) > 0 && store.held_bytes(row, Tier::pinned_host) > 0 ? 1 : 0;
    }
    ASSERT_LE(in_both, 1) << bytes;
  }
  EXPECT_GT(store.held_bytes(1, Tier::pinned_host), 0) << "which held most at first";
}

// Content and bytes of rows that move at every step, in pieces, while room comes and goes.
TEST_F(Paged, RunsMoveDownAndUpInBoundedPiecesAndKeepTheirContents) {
  PagedStoreConfig config = spilling(3);
  config.most_moved_bytes = 5 * 4 * kTokenBytes;  // five blocks
  config.least_spill_bytes = 64;
  PagedStore store(*device_, config);
  const std::vector<int64_t> used = {0, 2};
  for (const int64_t row : {0, 1, 2}) {
    store.reserve(row, 23);
    fill(store, row, 0, 23);
  }
  (void)view(store);
  const int64_t all = store.movable_bytes(), others = device_->memory().held(Tier::device) - all;
  EXPECT_EQ(all, 3 * 3 * 24 * kTokenBytes);
  int64_t down = 0, up = 0;
  for (int step = 0; step < 120; ++step) {
    const int64_t before = store.movable_bytes();
    // A third of the room, then all of it and more, in turns.
    device_->set_budget(Tier::device, step / 20 % 2 == 0 ? others + all / 3 : 2 * (others + all));
    store.end_step(used);
    const int64_t moved = store.movable_bytes() - before;
    ASSERT_LE(std::abs(moved), config.most_moved_bytes);
    (moved > 0 ? up : down) += std::abs(moved);
    for (const int64_t row : {0, 1, 2}) {
      ASSERT_EQ(held(store, row), 3 * 24 * kTokenBytes);
      expect_kept(store, row, 23);
    }
    if (step == 19) {
      EXPECT_LE(store.movable_bytes(), all / 3);
      EXPECT_EQ(store.held_bytes(1, Tier::device), 0) << "which no step used";
    }
    if (step == 39) {
      EXPECT_EQ(store.movable_bytes(), all);
    }
  }
  EXPECT_GT(down, 0);
  EXPECT_GT(up, 0);
  for (const int64_t row : {0, 1, 2}) store.release(row);
  EXPECT_EQ(device_->memory().of(Tier::device, Purpose::values), 0);
  EXPECT_EQ(device_->memory().held(Tier::pinned_host), 0);
}

TEST_F(Paged, RoomIsMadeAheadOfANeed) {
  PagedStoreConfig config = spilling(2);
  config.most_moved_bytes = 4 * kTokenBytes;
  PagedStore store(*device_, config);
  store.reserve(0, 40);
  fill(store, 0, 0, 40);
  const std::vector<int64_t> used = {0};
  device_->set_budget(Tier::device, device_->memory().held(Tier::device));
  store.keep_free(20 * kTokenBytes);
  for (int step = 1; step <= 5; ++step) {
    store.end_step(used);
    EXPECT_EQ(device_->free_bytes(Tier::device), 4 * step * kTokenBytes);
  }
  store.end_step(used);
  EXPECT_EQ(device_->free_bytes(Tier::device), 20 * kTokenBytes) << "enough";
  EXPECT_EQ(store.release_device(30 * kTokenBytes), 12 * kTokenBytes) << "in whole blocks";
  EXPECT_EQ(store.release_device(30 * kTokenBytes), 0);
  expect_kept(store, 0, 40);
}

TEST_F(Paged, WhereTheHostIsFullNothingMovesAndNothingIsLost) {
  PagedStore store(*device_, spilling(2));
  store.reserve(0, 40);
  fill(store, 0, 0, 40);
  device_->set_budget(Tier::pinned_host, 10 * kTokenBytes);
  device_->set_budget(Tier::device, device_->memory().held(Tier::device));
  EXPECT_EQ(store.release_device(40 * kTokenBytes), 8 * kTokenBytes);
  EXPECT_THROW((void)device_->allocate(Tier::device, Purpose::index, 40 * kTokenBytes), OutOfMemory);
  expect_kept(store, 0, 40);
}

TEST_F(Paged, HostPlacementTakesNothingFromTheDevice) {
  PagedStore store(*device_, {.block_tokens = 4,
                              .token_bytes = kTokenBytes,
                              .purpose = Purpose::values,
                              .prefer_device = false,
                              .spill_to_host = true});
  store.reserve(0, 20);
  EXPECT_EQ(store.held_bytes(0, Tier::device), 0);
  EXPECT_EQ(store.held_bytes(0, Tier::pinned_host), 20 * kTokenBytes);
}

TEST_F(Paged, AReserveWithoutMemoryLeavesContentsAndBytesAsTheyWere) {
  PagedStore store(*device_,
                   {.block_tokens = 16, .token_bytes = kTokenBytes, .lists = 3, .growth_tokens = 4});
  store.reserve(0, 6);
  fill(store, 0, 0, 6);
  const int64_t before = device_->memory().held(Tier::device);
  for (const int64_t room : {0, 100, 200, 300, 400}) {
    device_->set_budget(Tier::device, before + room);
    EXPECT_THROW(store.reserve(0, 40), OutOfMemory) << room;
    EXPECT_EQ(device_->memory().held(Tier::device), before);
    EXPECT_EQ(store.capacity_tokens(0), 8);
    expect_kept(store, 0, 6);
  }
  device_->set_budget(Tier::device, 1 << 20);
  store.reserve(0, 40);
  expect_kept(store, 0, 6);
}

// ---- rows that share blocks

class Shared : public Paged {
 protected:
  // Tokens [0, end) of a row are those that were written as another's.
  void expect_of(PagedStore& store, int64_t row, int64_t writer, int64_t end) {
    const PagedView at = view(store);
    for (int64_t list = 0; list < store.config().lists; ++list) {
      for (int64_t t = 0; t < end; ++t) {
        ASSERT_EQ(std::memcmp(at.at(row, list, t), at.at(writer, list, t), kTokenBytes), 0)
            << row << " " << t;
      }
    }
    expect_kept(store, writer, end);
  }
  [[nodiscard]] int64_t of_values() const {
    const MemoryUse use = device_->memory();
    return use.of(Tier::device, Purpose::values) + use.of(Tier::pinned_host, Purpose::values);
  }
};

TEST_F(Shared, WholeBlocksAreTheSameAndTheOpenOneIsACopy) {
  for (const int64_t tokens : {1, 31, 32, 33, 64, 100}) {
    PagedStore store(*device_, {.block_tokens = 32,
                                .token_bytes = kTokenBytes,
                                .lists = 3,
                                .growth_tokens = 8,
                                .purpose = Purpose::values});
    store.reserve(0, 110);
    fill(store, 0, 0, 110);
    store.share(0, 2, tokens);
    expect_of(store, 2, 0, tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      EXPECT_EQ(view(store).at(0, 1, t) == view(store).at(2, 1, t), t / 32 < tokens / 32) << t;
    }
    EXPECT_EQ(held(store, 2), store.bytes_for(tokens));
    EXPECT_EQ(of_values(), store.bytes_for(110) + store.bytes_for(tokens) - store.shared_bytes(tokens));
    EXPECT_EQ(store.held_bytes(Tier::device), of_values());
    store.reserve(2, tokens + 40);  // each goes on by itself
    fill(store, 2, tokens, tokens + 40);
    expect_kept(store, 0, 110);
    store.release(0);
    EXPECT_EQ(of_values(), store.bytes_for(tokens + 40));
    store.release(2);
    EXPECT_EQ(of_values(), 0);
  }
}

TEST_F(Shared, WhatIsForkedAgainLivesAsLongAsAnyOfThem) {
  PagedStore store(*device_, {.block_tokens = 8, .token_bytes = kTokenBytes, .purpose = Purpose::values});
  store.reserve(0, 20);
  fill(store, 0, 0, 20);
  store.share(0, 1, 20);
  store.share(1, 2, 17);
  store.release(1);
  expect_of(store, 2, 0, 17);
  store.reserve(1, 9);  // a row used again is no relative any more
  fill(store, 1, 0, 9);
  expect_of(store, 2, 0, 17);
  store.release(0);
  EXPECT_EQ(of_values(), store.bytes_for(17) + store.bytes_for(9));
  store.release(2);
  store.release(1);
  EXPECT_EQ(of_values(), 0);
}

TEST_F(Shared, BlocksGoToTheHostWithTheLastThatLeavesAndComeBackWithTheFirst) {
  PagedStore store(*device_, {.block_tokens = 8, .token_bytes = kTokenBytes, .purpose = Purpose::values});
  store.reserve(0, 20);
  fill(store, 0, 0, 20);
  store.share(0, 1, 20);
  const int64_t all = of_values();
  store.move(0, Tier::pinned_host);
  EXPECT_EQ(store.held_bytes(0, Tier::device), store.shared_bytes(20)) << "the other needs it";
  store.move(1, Tier::pinned_host);
  EXPECT_EQ(store.held_bytes(Tier::device), 0);
  EXPECT_EQ(store.held_bytes(Tier::pinned_host), all);
  store.move(1, Tier::device);
  EXPECT_EQ(store.held_bytes(1, Tier::device), store.bytes_for(20));
  EXPECT_EQ(store.held_bytes(0, Tier::device), store.shared_bytes(20));
  store.move(0, Tier::device);
  EXPECT_EQ(store.held_bytes(Tier::device), all);
  EXPECT_EQ(of_values(), all);
  expect_of(store, 1, 0, 20);
}

TEST_F(Shared, ValuesMoveOnceForAllAndStayWithWhoeverUsesThem) {
  PagedStore store(*device_, {.block_tokens = 8,
                              .token_bytes = kTokenBytes,
                              .lists = 2,
                              .purpose = Purpose::values,
                              .spill_to_host = true,
                              .least_spill_bytes = 1,
                              .most_moved_bytes = 1 << 20});
  store.reserve(0, 16);
  fill(store, 0, 0, 16);
  store.share(0, 1, 16);
  store.reserve(2, 16);
  fill(store, 2, 0, 16);
  EXPECT_EQ(store.movable_bytes(), 2 * store.bytes_for(16)) << "counted once";
  const std::array<int64_t, 1> used = {1};
  store.end_step(used);
  store.keep_free(device_->free_bytes(Tier::device) + store.bytes_for(16));
  store.end_step(used);
  EXPECT_EQ(store.held_bytes(2, Tier::device), 0) << "the one that nobody uses goes first";
  EXPECT_EQ(store.held_bytes(0, Tier::device), store.bytes_for(16));
  store.keep_free(device_->free_bytes(Tier::device) + store.bytes_for(16));
  store.end_step(used);
  EXPECT_EQ(store.held_bytes(Tier::device), 0);
  EXPECT_EQ(store.held_bytes(1, Tier::pinned_host), store.bytes_for(16));
  expect_of(store, 1, 0, 16);
  store.keep_free(0);
  store.move(0, Tier::pinned_host);  // leaves for a while, what it has in common does not
  store.end_step(used);
  EXPECT_EQ(store.held_bytes(0, Tier::device), store.bytes_for(16));
  expect_of(store, 1, 0, 16);
}

TEST_F(Shared, WithoutMemoryForTheOpenBlockNothingIsShared) {
  PagedStore store(*device_, {.block_tokens = 8, .token_bytes = kTokenBytes, .purpose = Purpose::values});
  store.reserve(0, 20);
  fill(store, 0, 0, 20);
  const int64_t before = of_values();
  device_->set_budget(Tier::device, device_->memory().held(Tier::device));
  EXPECT_THROW(store.share(0, 1, 20), OutOfMemory);
  EXPECT_EQ(of_values(), before);
  EXPECT_EQ(store.held_bytes(1, Tier::device), 0);
  store.share(0, 1, 16);  // whole blocks need none
  EXPECT_EQ(of_values(), before);
}

TEST_F(Paged, SizesOfNothingAndSizesThatOverflowAreRefused) {
  EXPECT_THROW(PagedStore(*device_, {.block_tokens = 0, .token_bytes = 8}), InvalidInput);
  EXPECT_THROW(PagedStore(*device_, {.block_tokens = 8, .token_bytes = 0}), InvalidInput);
  EXPECT_THROW(PagedStore(*device_, {.block_tokens = 8, .token_bytes = 8, .lists = 0}), InvalidInput);
  const PagedStore store(*device_, {.block_tokens = 16, .token_bytes = int64_t{1} << 40});
  EXPECT_THROW((void)store.bytes_for(int64_t{1} << 40), InvalidInput);
}

TEST_F(Paged, EverythingComesBackWithTheStore) {
  {
    PagedStore store(*device_, {.block_tokens = 4, .token_bytes = kTokenBytes, .lists = 2});
    store.reserve(0, 100);
    fill(store, 0, 0, 100);
  }
  EXPECT_EQ(device_->memory().held(Tier::device), 0);
}

}  // namespace
}  // namespace shadowkv
