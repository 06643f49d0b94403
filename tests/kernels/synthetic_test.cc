#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "kernels/fixtures.h"
#include "kernels/kernels.h"
#include "kernels/step_choice.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

class Synthetic : public ::testing::TestWithParam<TestDevice> {
 protected:
  std::unique_ptr<Device> device_ = GetParam().make();
  Queue& queue_ = device_->compute();
};

TEST_P(Synthetic, RowsOfOtherSequencesAreLeftAlone) {
  constexpr int64_t kTokens = 8, kHeads = 2, kNumbers = 3, kRows = 2;
  const std::vector<float> marked(kRows * kHeads * kTokens * kNumbers, 9.0f);
  const Array storage = upload(*device_, marked, {kRows, kHeads, kTokens, kNumbers});
  const int64_t row_bytes = kHeads * kTokens * kNumbers * 4;
  const std::vector<int64_t> addresses = {reinterpret_cast<int64_t>(storage.view.data),
                                          reinterpret_cast<int64_t>(storage.view.data) + row_bytes};
  const Array table = upload(*device_, addresses, {kRows});
  PagedView view;
  view.table = reinterpret_cast<std::byte* const*>(table.view.data);
  view.seq_stride = 1;
  view.block_tokens = kTokens;
  view.head_offset = kTokens * kNumbers * 4;
  view.token_bytes = kNumbers * 4;
  randomize_rows(queue_, {.to = view,
                          .row = 1,
                          .tokens = 5,
                          .heads = kHeads,
                          .elements = kNumbers,
                          .low = -1.0f,
                          .high = 1.0f,
                          .seed = 3});
  const std::vector<float> found = download<float>(*device_, storage.view);
  std::set<float> distinct;
  for (size_t i = 0; i < found.size(); ++i) {
    const auto n = static_cast<int64_t>(i);
    const bool written = n >= kHeads * kTokens * kNumbers && n / kNumbers % kTokens < 5;
    EXPECT_EQ(found[i] == 9.0f, !written) << i;
    if (written) {
      EXPECT_GE(found[i], -1.0f);
      EXPECT_LE(found[i], 1.0f);
      distinct.insert(found[i]);
    }
  }
  EXPECT_EQ(distinct.size(), static_cast<size_t>(kHeads * 5 * kNumbers));
}

// Chunks of one step's picks, by KV head, as both ops leave them.
std::vector<std::vector<int32_t>> forced(Device& device, int32_t tokens, double share, int64_t candidates,
                                         int64_t picks) {
  constexpr int64_t kHeads = 2, kChunks = 600;
  const StepChoice choice(device, {1, kHeads, 1, kChunks, candidates, picks},
                          {{static_cast<int32_t>(candidates)}, {static_cast<int32_t>(picks)}},
                          std::vector<float>(kHeads * kChunks), std::vector<float>(at(kHeads * candidates)));
  const Slots slots(device, {.kv_heads = kHeads, .chunk = 8, .head_dim = 8, .dtype = DType::f32},
                    {static_cast<int32_t>(picks)});
  const Sequences sequences(device, {0}, {tokens});
  const ForcedHits hits{.share = share, .picks = picks, .local_window = 32};
  choose_candidates(device.compute(), choice.choose(sequences.batch(), slots.view, hits));
  pick_candidates(device.compute(), choice.pick(sequences.batch(), slots.view, hits));
  const std::vector<int32_t> ids = download<int32_t>(device, choice.chosen.view);
  const std::vector<int32_t> indices = download<int32_t>(device, choice.picked.view);
  std::vector<std::vector<int32_t>> chosen(kHeads);
  for (int64_t head = 0; head < kHeads; ++head) {
    std::vector<int32_t>& own = chosen[at(head)];
    for (int64_t i = 0; i < picks; ++i)
      own.push_back(ids[at(head * candidates + indices[at(head * picks + i)])]);
    const std::vector<int32_t> held = slots.ids(0, head);
    EXPECT_EQ(std::set<int32_t>(held.begin(), held.end()), std::set<int32_t>(own.begin(), own.end()))
        << "what is picked gets the slots";
  }
  return chosen;
}

TEST_P(Synthetic, AForcedChoiceKeepsItsShareFromStepToStepAndIsDistinctAndOpen) {
  constexpr int64_t kPicks = 50, kCandidates = 100;
  constexpr int32_t kTokens = 40'000;
  const int64_t sealed = sealed_chunks(kTokens, 8, 32);
  for (const double share : {0.0, 0.6, 1.0}) {
    int64_t kept = 0;
    for (int32_t step = 0; step < 20; ++step) {
      const auto before = forced(*device_, kTokens + step, share, kCandidates, kPicks);
      const auto after = forced(*device_, kTokens + step + 1, share, kCandidates, kPicks);
      for (size_t head = 0; head < before.size(); ++head) {
        const std::set<int32_t> set(after[head].begin(), after[head].end());
        ASSERT_EQ(set.size(), static_cast<size_t>(kPicks));
        ASSERT_GE(*set.begin(), 1);
        ASSERT_LT(*set.rbegin(), sealed + 8);
        for (const int32_t chunk : before[head]) kept += set.contains(chunk) ? 1 : 0;
      }
    }
    EXPECT_NEAR(static_cast<double>(kept) / (20 * 2 * kPicks), share, 0.02);
  }
}

TEST_P(Synthetic, AShareOutsideItsRangeAndOddCandidatesAreRefused) {
  EXPECT_THROW(forced(*device_, 4000, 1.5, 100, 50), InvalidInput);
  EXPECT_THROW(forced(*device_, 4000, 0.5, 99, 50), InvalidInput);
}

INSTANTIATE_TEST_SUITE_P(Devices, Synthetic, ::testing::ValuesIn(test_devices()), name_of_device);

}  // namespace
}  // namespace shadowkv::testing
