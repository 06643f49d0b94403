#include "base/slab_heap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

namespace shadowkv {
namespace {

// A system with so many bytes to map.
struct System {
  explicit System(int64_t bytes) : left(bytes) {}
  SlabSource source() {
    return {[this](int64_t bytes) -> std::byte* {
              if (bytes > left) return nullptr;
              left -= bytes;
              ++slabs;
              return static_cast<std::byte*>(std::aligned_alloc(256, static_cast<std::size_t>(bytes)));
            },
            [this](std::byte* data, int64_t bytes) {
              left += bytes;
              --slabs;
              std::free(data);
            }};
  }
  int64_t left;
  int slabs = 0;
};

constexpr SlabHeapConfig kSmall{
    .alignment = 256, .granularity = 4096, .first_slab = 16384, .largest_slab = 65536};

TEST(SlabHeap, AllocationsNeverOverlapAndKeepTheirContent) {
  System system(int64_t{64} << 20);
  SlabHeap heap(kSmall, system.source());
  struct Piece {
    std::byte* data;
    int64_t bytes;
    int mark;
  };
  std::vector<Piece> pieces;
  std::mt19937 random(7);
  for (int i = 0; i < 5000; ++i) {
    if (pieces.empty() || random() % 5 < 3) {
      const int64_t bytes = 1 + random() % (random() % 8 == 0 ? 50000 : 3000);
      pieces.push_back({heap.allocate(bytes), bytes, i % 251});
      ASSERT_NE(pieces.back().data, nullptr);
      ASSERT_EQ(reinterpret_cast<uintptr_t>(pieces.back().data) % 256, 0U);
      std::memset(pieces.back().data, i % 251, static_cast<std::size_t>(bytes));
    } else {
      std::swap(pieces[random() % pieces.size()], pieces.back());
      const Piece piece = pieces.back();
      pieces.pop_back();
      for (int64_t b = 0; b < piece.bytes; ++b) ASSERT_EQ(static_cast<int>(piece.data[b]), piece.mark);
      heap.free(piece.data, piece.bytes);
    }
  }
  for (const Piece& piece : pieces) heap.free(piece.data, piece.bytes);
}

TEST(SlabHeap, ManySmallAllocationsShareFewSlabs) {
  System system(int64_t{64} << 20);
  SlabHeap heap(kSmall, system.source());
  for (int i = 0; i < 1000; ++i) ASSERT_NE(heap.allocate(256), nullptr);
  EXPECT_LE(heap.mapped_bytes(), 1000 * 256 + 65536);
  EXPECT_LE(system.slabs, 8);
}

TEST(SlabHeap, SlabsAreAWholeNumberOfTheBlocksTheyAreCutInto) {
  System system(int64_t{64} << 20);
  SlabHeap heap(kSmall, system.source());
  constexpr int64_t kBlock = 5 * 4096;  // three fit into the largest slab, and a fifth of one
  for (int i = 0; i < 300; ++i) ASSERT_NE(heap.allocate(kBlock), nullptr);
  EXPECT_LE(heap.mapped_bytes(), (300 + 2) * kBlock);
}

TEST(SlabHeap, FreedNeighboursServeALargerAllocation) {
  System system(16384);
  SlabHeap heap(kSmall, system.source());
  std::vector<std::byte*> quarters;
  for (int i = 0; i < 4; ++i) quarters.push_back(heap.allocate(4096));
  EXPECT_EQ(heap.allocate(256), nullptr);
  for (const int i : {0, 2, 1, 3}) heap.free(quarters[static_cast<std::size_t>(i)], 4096);
  EXPECT_NE(heap.allocate(16384), nullptr);
}

TEST(SlabHeap, LargeAllocationsAreUnmappedWhenFreedAndEmptySlabsWhenMemoryRunsOut) {
  System system(100 * 4096);
  SlabHeap heap(kSmall, system.source());
  std::byte* small = heap.allocate(1000);
  std::byte* large = heap.allocate(50 * 4096);
  EXPECT_EQ(heap.mapped_bytes(), 16384 + 50 * 4096);
  heap.free(large, 50 * 4096);
  EXPECT_EQ(heap.mapped_bytes(), 16384);
  EXPECT_EQ(heap.allocate(100 * 4096), nullptr);
  heap.free(small, 1000);
  EXPECT_NE(heap.allocate(100 * 4096), nullptr);
  EXPECT_EQ(system.left, 0);
}

TEST(SlabHeap, ASlabShrinksToWhatIsLeftOfTheSystem) {
  System system(8192);
  SlabHeap heap(kSmall, system.source());
  EXPECT_NE(heap.allocate(5000), nullptr);
  EXPECT_EQ(heap.allocate(5000), nullptr);
}

TEST(SlabHeap, EverythingIsUnmappedAtTheEnd) {
  System system(int64_t{1} << 20);
  {
    SlabHeap heap(kSmall, system.source());
    for (int i = 0; i < 50; ++i) ASSERT_NE(heap.allocate(1000), nullptr);
    ASSERT_NE(heap.allocate(100000), nullptr);
  }
  EXPECT_EQ(system.left, int64_t{1} << 20);
}

}  // namespace
}  // namespace shadowkv
