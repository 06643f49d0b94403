#include <set>

#include "kernels/fixtures.h"
#include "kernels/kernels.h"
#include "kernels/tolerances.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

class SlotOps : public ::testing::TestWithParam<TestDevice> {
 protected:
  std::unique_ptr<Device> device_ = GetParam().make();
  Queue& queue_ = device_->compute();
};

SlotView shape_of(int64_t kv_heads, int64_t chunk, int64_t head_dim, DType dtype) {
  return {.kv_heads = kv_heads, .chunk = chunk, .head_dim = head_dim, .dtype = dtype};
}

std::vector<int32_t> find(Device& device, const Slots& slots, const std::vector<int32_t>& rows,
                          const std::vector<int32_t>& chunks) {
  const auto count = static_cast<int64_t>(rows.size());
  const int64_t candidates = static_cast<int64_t>(chunks.size()) / (count * slots.host.kv_heads);
  const Array ids = upload(device, chunks, {count, slots.host.kv_heads, candidates});
  const Array found = allocate(device, DType::i32, {count, slots.host.kv_heads, candidates});
  const Array missing = allocate(device, DType::i32, {count, slots.host.kv_heads, candidates, 2});
  const Sequences sequences(device, rows, std::vector<int32_t>(at(count), 9));
  find_slots(device.compute(), {sequences.batch(), ids.view, slots.view, found.view, missing.view});
  const std::vector<int32_t> slots_of = download<int32_t>(device, found.view);
  EXPECT_EQ(download<int32_t>(device, missing.view), list_missing(chunks, slots_of, candidates));
  return slots_of;
}

TEST_P(SlotOps, AChunkIsFoundInTheSlotThatHoldsItAndNowhereElse) {
  Slots slots(*device_, shape_of(2, 4, 8, DType::f32), {3, 6});
  slots.write_ids(slots.host.chunks(1, 0), {70, -1, 3, 1'000'000, 4, 5});
  slots.write_ids(slots.host.chunks(1, 1), {-1, 3, -1, -1, -1, -1});
  EXPECT_EQ(find(*device_, slots, {0, 1}, {3, 70, -1, 5, 4, 3, -1, 0, 3, 1'000'000, 5, 71, 70, 3, -1, 3}),
            (std::vector<int32_t>{-1, -1, -1, -1, -1, -1, -1, -1, 2, 3, 5, -1, -1, 1, -1, 1}));
}

TEST_P(SlotOps, EveryHeldChunkOfManyIsFound) {
  constexpr int32_t kSlots = 2000;
  Slots slots(*device_, shape_of(1, 1, 8, DType::f32), {kSlots});
  std::vector<int32_t> ids, expected;
  for (int32_t i = 0; i < kSlots; ++i) ids.push_back(i * 65536 % 1'000'003);
  slots.write_ids(slots.host.chunks(0, 0), ids);
  for (int32_t i = 0; i < kSlots; ++i) expected.push_back(i);
  EXPECT_EQ(find(*device_, slots, {0}, ids), expected);
}

struct Assigned {
  std::vector<int32_t> slots, source;
};

// Assigns for one sequence; picked empty: all candidates.
Assigned assign(Device& device, const Slots& slots, int32_t row, int32_t tokens,
                const std::vector<int32_t>& chunks, const std::vector<int32_t>& picked,
                std::vector<int64_t>& counters) {
  const int64_t heads = slots.host.kv_heads, candidates = static_cast<int64_t>(chunks.size()) / heads;
  const int64_t entries = picked.empty() ? candidates : static_cast<int64_t>(picked.size()) / heads;
  const Array ids = upload(device, chunks, {1, heads, candidates});
  const Array found = upload(device, find(device, slots, {row}, chunks), {1, heads, candidates});
  const Array wanted = upload(device, picked, {1, heads, entries});
  const Array assigned = allocate(device, DType::i32, {1, heads, entries});
  const Array source = allocate(device, DType::i32, {1, heads, entries});
  const Array counts = upload(device, counters, {2});
  const Sequences sequences(device, {row}, {tokens});
  assign_slots(device.compute(),
               {sequences.batch(), ids.view, found.view, picked.empty() ? TensorView{} : wanted.view,
                slots.view, assigned.view, source.view, counts.view.as<int64_t>()});
  counters = download<int64_t>(device, counts.view);
  return {download<int32_t>(device, assigned.view), download<int32_t>(device, source.view)};
}

TEST_P(SlotOps, EmptySlotsGoFirstThenTheLeastRecentlyUsedThatThisStepDoesNotUse) {
  Slots slots(*device_, shape_of(1, 4, 8, DType::f32), {4});
  std::vector<int64_t> counters{0, 0};
  Assigned a = assign(*device_, slots, 0, 100, {10, 11, 12}, {}, counters);
  EXPECT_EQ(a.slots, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(a.source, (std::vector<int32_t>{0, 1, 2}));
  a = assign(*device_, slots, 0, 101, {11, -1, 13}, {}, counters);  // 13 takes the empty slot
  EXPECT_EQ(a.slots, (std::vector<int32_t>{1, -1, 3}));
  EXPECT_EQ(a.source, (std::vector<int32_t>{-1, -1, 2}));
  EXPECT_EQ(slots.stamps(0, 0), (std::vector<int32_t>{100, 101, 100, 101}));
  a = assign(*device_, slots, 0, 102, {14, 10, 15, 99}, {2, 0, 1, -1},
             counters);  // slot 0 is in use, 2 then 1 go
  EXPECT_EQ(a.slots, (std::vector<int32_t>{2, 1, 0, -1}));
  EXPECT_EQ(a.source, (std::vector<int32_t>{2, 0, -1, -1}));
  EXPECT_EQ(slots.ids(0, 0), (std::vector<int32_t>{10, 14, 15, 13}));
  EXPECT_EQ(counters, (std::vector<int64_t>{8, 2}));
}

TEST_P(SlotOps, ManyStepsKeepTheLawsOfTheLeastRecentlyUsed) {
  constexpr int32_t kSlots = 24, kPicked = 16, kCandidates = 30;
  Slots slots(*device_, shape_of(2, 4, 8, DType::f32), {7, kSlots});
  std::vector<int64_t> counters{5, 3};
  std::mt19937 random(3);
  int64_t hits = 3, picks = 5;
  for (int32_t step = 0; step < 60; ++step) {
    std::vector<int32_t> chunks, picked;
    for (int head = 0; head < 2; ++head) {
      std::set<int32_t> some, indices;
      while (some.size() < kCandidates) some.insert(static_cast<int32_t>(random() % 45));
      const std::size_t count = kPicked - random() % 4;
      while (indices.size() < count) indices.insert(static_cast<int32_t>(random() % kCandidates));
      chunks.insert(chunks.end(), some.begin(), some.end());
      picked.insert(picked.end(), indices.begin(), indices.end());
      picked.resize(at((head + 1) * kPicked), -1);
    }
    const std::vector<int32_t> ids_before[2] = {slots.ids(1, 0), slots.ids(1, 1)};
    const std::vector<int32_t> stamps_before[2] = {slots.stamps(1, 0), slots.stamps(1, 1)};
    const Assigned a = assign(*device_, slots, 1, 500 + step, chunks, picked, counters);
    for (int64_t g = 0; g < 2; ++g) {
      const std::vector<int32_t> ids = slots.ids(1, g), stamps = slots.stamps(1, g);
      std::set<int32_t> used;
      int32_t newest_victim = -1, oldest_kept = 1 << 30;
      for (int64_t i = g * kPicked; i < (g + 1) * kPicked; ++i) {
        const int32_t slot = a.slots[at(i)], index = picked[at(i)];
        ASSERT_EQ(slot < 0, index < 0);
        if (slot < 0) continue;
        ++picks;
        const int32_t chunk = chunks[at(g * kCandidates + index)];
        ASSERT_TRUE(used.insert(slot).second) << "a slot was given twice";
        ASSERT_EQ(ids[at(slot)], chunk);
        ASSERT_EQ(stamps[at(slot)], 500 + step);
        const bool hit = std::count(ids_before[g].begin(), ids_before[g].end(), chunk) == 1;
        hits += hit ? 1 : 0;
        ASSERT_EQ(a.source[at(i)], hit ? -1 : index);
        ASSERT_TRUE(!hit || ids_before[g][at(slot)] == chunk) << "a hit moved";
        const bool empty = ids_before[g][at(slot)] < 0;
        if (!hit) newest_victim = std::max(newest_victim, empty ? -1 : stamps_before[g][at(slot)]);
      }
      for (int32_t slot = 0; slot < kSlots; ++slot) {
        if (used.count(slot) != 0) continue;
        ASSERT_EQ(ids[at(slot)], ids_before[g][at(slot)]);
        ASSERT_EQ(stamps[at(slot)], stamps_before[g][at(slot)]);
        oldest_kept = std::min(oldest_kept, ids[at(slot)] < 0 ? -1 : stamps[at(slot)]);
      }
      ASSERT_LE(newest_victim, oldest_kept) << "a slot was given up for a longer unused one";
    }
    ASSERT_EQ(counters, (std::vector<int64_t>{picks, hits}));
  }
  EXPECT_EQ(slots.ids(0, 0), std::vector<int32_t>(7, -1)) << "another sequence's slots were touched";
}

TEST_P(SlotOps, MorePicksThanSlotsAreRefusedAndChangeNothing) {
  if (GetParam().name != "cpu") GTEST_SKIP() << "counts lie on the device";
  Slots slots(*device_, shape_of(1, 4, 8, DType::f32), {2});
  std::vector<int64_t> counters{0, 0};
  EXPECT_THROW(assign(*device_, slots, 0, 9, {1, 2, 3}, {}, counters), InvalidInput);
  EXPECT_EQ(slots.ids(0, 0), (std::vector<int32_t>{-1, -1}));
  EXPECT_EQ(counters, (std::vector<int64_t>{0, 0}));
}

TEST_P(SlotOps, KeysOfMissesAreCopiedAndThoseOfHitsStay) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    constexpr int64_t kChunk = 3, kHeadDim = 24, kNumbers = kChunk * kHeadDim;
    Slots slots(*device_, shape_of(2, kChunk, kHeadDim, dtype), {5, 4});
    const std::vector<float> numbers = random_numbers(2 * 6 * kNumbers, 4, dtype);
    const Array rebuilt = upload_as(*device_, dtype, numbers, {1, 2, 6, kNumbers});
    const Array assigned = upload(*device_, std::vector<int32_t>{2, 0, -1, 3, 1, 0}, {1, 2, 3});
    const Array source = upload(*device_, std::vector<int32_t>{5, -1, -1, 0, 4, -1}, {1, 2, 3});
    fill_keys(queue_,
              {Sequences(*device_, {1}, {50}).batch(), assigned.view, source.view, rebuilt.view, slots.view});
    const auto key = [&](int64_t g, int64_t slot) {
      return read_numbers(*device_, slots.host.keys(1, g, slot), dtype, kNumbers);
    };
    EXPECT_EQ(key(0, 2), slice(numbers, 5 * kNumbers, kNumbers));
    EXPECT_EQ(key(1, 3), slice(numbers, 6 * kNumbers, kNumbers));
    EXPECT_EQ(key(1, 1), slice(numbers, 10 * kNumbers, kNumbers));
    for (const auto& [g, slot] : {std::pair{0, 0}, {0, 1}, {0, 3}, {1, 0}, {1, 2}}) {
      EXPECT_EQ(key(g, slot), std::vector<float>(kNumbers)) << g << ", " << slot;
    }
  }
}

TEST_P(SlotOps, ValuesOfMissesComeFromTheirRunsWhateverTheStoredType) {
  for (const DType stored : {DType::f32, DType::bf16, DType::i8}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      constexpr int64_t kChunk = 4, kHeadDim = 80, kTokens = 48;
      Slots slots(*device_, shape_of(2, kChunk, kHeadDim, dtype), {5, 4});
      Quantized values(*device_, {2, 2, kTokens, 16, 0, false, true, stored}, kHeadDim);
      for (int64_t i = 0; i < 2 * kTokens; ++i) {
        values.write(1, i % 2, i / 2, random_numbers(kHeadDim, static_cast<uint32_t>(i), stored), 0.03125f);
      }
      const Array chunks = upload(*device_, std::vector<int32_t>{3, 9, 11, 7, 0, 4}, {1, 2, 3});
      const Array assigned = upload(*device_, std::vector<int32_t>{2, 0, 3, 1}, {1, 2, 2});
      const Array source = upload(*device_, std::vector<int32_t>{1, -1, 0, 2}, {1, 2, 2});
      gather_values(queue_, {Sequences(*device_, {1}, {kTokens}).batch(), chunks.view, assigned.view,
                             source.view, values.view, slots.view});
      struct Expected {
        int64_t g, slot, chunk;
      };
      for (const auto& e : {Expected{0, 2, 9}, Expected{1, 3, 7}, Expected{1, 1, 4}}) {
        for (int64_t t = 0; t < kChunk; ++t) {
          std::vector<float> expected = values.read(1, e.g, e.chunk * kChunk + t);
          for (float& x : expected) x = rounded(x, dtype);
          const std::byte* from = slots.host.values(1, e.g, e.slot) + t * kHeadDim * size_of(dtype);
          EXPECT_EQ(read_numbers(*device_, from, dtype, kHeadDim), expected);
        }
      }
      EXPECT_EQ(read_numbers(*device_, slots.host.values(1, 0, 0), dtype, kHeadDim),
                std::vector<float>(kHeadDim));
    }
  }
}

// More misses than a queue in front of the link holds, hits and absent entries between them.
TEST_P(SlotOps, ValuesOverTheLinkArriveAsThoseOfTheDevice) {
  constexpr int64_t kChunk = 8, kHeadDim = 64, kTokens = 1024, kHeads = 2, kEntries = 90;
  for (const DType stored : {DType::bf16, DType::i8}) {
    Quantized values(*device_, {2, kHeads, kTokens, 256, 0, false, true, stored}, kHeadDim);
    for (int64_t i = 0; i < 2 * kHeads * kTokens; ++i) {
      values.write(i % 2, i / 2 % kHeads, i / 2 / kHeads,
                   random_numbers(kHeadDim, static_cast<uint32_t>(i), stored), 0.03125f);
    }
    std::vector<int32_t> chunks, assigned, source;
    for (int32_t i = 0; i < 2 * kHeads * kEntries; ++i) {
      const auto entry = static_cast<int32_t>(i % kEntries);
      chunks.push_back(1 + (entry * 7 + static_cast<int32_t>(i / kEntries)) % 127);
      assigned.push_back(entry % 11 == 3 ? -1 : static_cast<int32_t>(kEntries) - 1 - entry);
      source.push_back(entry % 4 == 1 ? -1 : entry);
    }
    std::vector<std::vector<float>> held;
    for (const auto& [over_link, spares] : {std::pair{false, false}, {true, false}, {true, true}}) {
      Slots slots(*device_, shape_of(kHeads, kChunk, kHeadDim, DType::bf16), {kEntries, kEntries});
      const Array ids = upload(*device_, chunks, {2, kHeads, kEntries});
      const Array to = upload(*device_, assigned, {2, kHeads, kEntries});
      const Array from = upload(*device_, source, {2, kHeads, kEntries});
      gather_values(queue_, {Sequences(*device_, {0, 1}, {kTokens, kTokens}).batch(), ids.view, to.view,
                             from.view, values.view, slots.view, over_link, spares});
      for (int64_t b = 0; b < 2; ++b) {
        for (int64_t g = 0; g < kHeads; ++g) {
          held.push_back(
              read_numbers(*device_, slots.host.values(b, g, 0), DType::bf16, kEntries * kChunk * kHeadDim));
        }
      }
    }
    const std::size_t heads = held.size() / 3;
    for (std::size_t i = heads; i < held.size(); ++i) EXPECT_EQ(held[i], held[i % heads]);
    EXPECT_NE(held[0], std::vector<float>(held[0].size()));
  }
}

TEST_P(SlotOps, WrongShapesAreRefused) {
  Slots slots(*device_, shape_of(2, 4, 8, DType::f32), {5});
  const Sequences sequences(*device_, {0}, {50});
  const Array three = allocate(*device_, DType::i32, {1, 3, 4}),
              two = allocate(*device_, DType::i32, {1, 2, 4});
  const Array more = allocate(*device_, DType::i32, {1, 2, 5}),
              pairs = allocate(*device_, DType::i32, {1, 2, 4, 2}),
              keys = allocate(*device_, DType::bf16, {1, 2, 4, 32});
  EXPECT_THROW(fill_keys(queue_, {sequences.batch(), two.view, two.view, keys.view, slots.view}),
               InvalidInput);
  EXPECT_THROW(find_slots(queue_, {sequences.batch(), three.view, slots.view, three.view, pairs.view}),
               InvalidInput);
  EXPECT_THROW(find_slots(queue_, {sequences.batch(), two.view, slots.view, more.view, pairs.view}),
               InvalidInput);
  EXPECT_THROW(find_slots(queue_, {sequences.batch(), two.view, slots.view, two.view, two.view}),
               InvalidInput);
  EXPECT_THROW(
      assign_slots(queue_,
                   {sequences.batch(), two.view, two.view, {}, slots.view, two.view, two.view, nullptr}),
      InvalidInput);
  Quantized values(*device_, {1, 2, 48, 6, 0, false, true, DType::f32}, 8);
  EXPECT_THROW(
      gather_values(queue_, {sequences.batch(), two.view, two.view, two.view, values.view, slots.view}),
      InvalidInput)
      << "a block cuts a chunk";
}

INSTANTIATE_TEST_SUITE_P(Devices, SlotOps, kDevices, name_of_device);

}  // namespace
}  // namespace shadowkv::testing
