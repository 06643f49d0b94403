// Rows of logits changed and ranked: both twins against the rule, token by token.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/devices.h"
#include "kernels/kernels.h"
#include "kernels/logit_rows.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr int64_t kVocabularies[] = {2, 3, 63, 64, 65, 129, 1000, 5001, 32064};
constexpr int64_t kLargest = 151936;

// A row as a test thinks of it: its memory before and what is fresh.
struct Case {
  std::vector<MarkedToken> marked = {};
  int32_t fresh_place = -1;
  MarkedToken fresh = {};
  LogitPenalties penalties = {};
  std::vector<uint64_t> mask = {}, fresh_mask = {};  // empty: none
  bool keeps_raw = false;
  int32_t likeliest = -1;

  [[nodiscard]] std::vector<MarkedToken> marked_after() const {
    std::vector<MarkedToken> after = marked;
    if (fresh_place >= 0) after[static_cast<std::size_t>(fresh_place)] = fresh;
    return after;
  }
  [[nodiscard]] const std::vector<uint64_t>& mask_after() const {
    return fresh_mask.empty() ? mask : fresh_mask;
  }
};

std::vector<uint64_t> random_mask(std::mt19937& random, int64_t vocab) {
  std::vector<uint64_t> mask(static_cast<std::size_t>(mask_words(vocab)));
  const auto kind = random() % 5;
  for (uint64_t& word : mask) {
    const uint64_t bits = (uint64_t{random()} << 32) | random();
    word = kind == 0 ? ~uint64_t{0} : kind < 3 ? bits : 0;  // all, half, none, none but one
  }
  if (kind == 4) {
    const auto id = random() % static_cast<uint64_t>(vocab);
    mask[id / 64] |= uint64_t{1} << (id % 64);
  }
  return mask;
}

Case random_case(uint32_t seed, int64_t vocab) {
  std::mt19937 random(seed);
  const auto below = [&](int64_t bound) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(bound));
  };
  Case one;
  if (below(4) > 0) {
    const float repetitions[] = {1.0f, 1.3f, 0.5f}, others[] = {0.0f, 0.5f, -1.5f};
    one.penalties = {
        .repetition = repetitions[below(3)], .presence = others[below(3)], .frequency = others[below(3)]};
    std::vector<int32_t> ids(static_cast<std::size_t>(vocab));
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random);
    const int64_t most = below(3) == 0 ? vocab : std::min<int64_t>(vocab, 300);
    ids.resize(static_cast<std::size_t>(1 + below(most)));
    for (const int32_t id : ids) {
      one.marked.push_back({.id = id,
                            .seen = static_cast<int32_t>(below(4)),
                            .bias = below(3) == 0 ? static_cast<float>(below(200)) - 100.5f : 0.0f});
    }
    if (below(2) == 0) {  // of a token that was there, or of one that comes
      one.fresh_place = static_cast<int32_t>(below(std::ssize(one.marked)));
      MarkedToken& place = one.marked[static_cast<std::size_t>(one.fresh_place)];
      one.fresh = {.id = place.id, .seen = place.seen + 1, .bias = place.bias};
      if (below(2) == 0) place = {.id = -7, .seen = -7, .bias = 0};
    }
  }
  if (below(2) == 0) {
    one.mask = random_mask(random, vocab);
    if (below(2) == 0) one.fresh_mask = random_mask(random, vocab);
  }
  one.keeps_raw = (!one.marked.empty() || !one.mask.empty()) && below(2) == 0;
  one.likeliest = static_cast<int32_t>(below(std::min<int64_t>(kMostRanked, vocab) + 2) - 1);
  return one;
}

std::vector<float> expected_logits(std::vector<float> logits, const Case& one) {
  for (const MarkedToken& token : one.marked_after()) {
    float& logit = logits[static_cast<std::size_t>(token.id)];
    logit += token.bias;
    if (token.seen > 0) logit = penalized_logit(logit, one.penalties, token.seen - 1);
  }
  const std::vector<uint64_t>& mask = one.mask_after();
  for (std::size_t id = 0; id < logits.size() && !mask.empty(); ++id) {
    if (!is_allowed(mask.data(), static_cast<int64_t>(id))) logits[id] = kNever;
  }
  return logits;
}

// The likeliest by sorting all; the weight in floating point.
void expect_ranks(const TokenRanks& found, const std::vector<float>& logits, int32_t id, int32_t likeliest) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  const float largest = logits[static_cast<std::size_t>(order[0])];
  ASSERT_EQ(found.largest, largest);
  ASSERT_EQ(found.own, logits[static_cast<std::size_t>(id)]);
  for (int32_t i = 0; i < likeliest; ++i) {
    ASSERT_EQ(found.ids[i], order[static_cast<std::size_t>(i)]) << i;
    ASSERT_EQ(found.logits[i], logits[static_cast<std::size_t>(found.ids[i])]) << i;
  }
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - largest);
  const double whole = std::ldexp(static_cast<double>(found.weight), -40);
  ASSERT_NEAR(std::log(whole), std::log(sum), 5e-7);
}

class Logits : public ::testing::TestWithParam<TestDevice> {
 protected:
  struct Held {
    Array marked, mask, fresh_mask, raw;
  };
  struct Found {
    std::vector<float> logits;
    std::vector<int32_t> ids;
    std::vector<TokenRanks> ranks;
  };

  template <typename T>
  Array upload_all(const std::vector<T>& from) {
    return upload_bytes(*device_, from.data(), DType::u8,
                        {std::ssize(from) * static_cast<int64_t>(sizeof(T))});
  }
  template <typename T>
  std::vector<T> download_all(const Array& from) {
    const auto bytes = download<uint8_t>(*device_, from.view);
    std::vector<T> out(bytes.size() / sizeof(T));
    if (!out.empty()) std::memcpy(static_cast<void*>(out.data()), bytes.data(), bytes.size());
    return out;
  }
  template <typename T>
  static T* pointer(const Array& array) {
    return reinterpret_cast<T*>(array.view.data);
  }

  LogitRow row_of(const Case& one, int64_t vocab, Held& held) {
    LogitRow row{.marked_count = static_cast<int32_t>(one.marked.size()),
                 .fresh_place = one.fresh_place,
                 .fresh = one.fresh,
                 .penalties = one.penalties,
                 .likeliest = one.likeliest};
    held = {upload_all(one.marked), upload_all(one.mask), upload_all(one.fresh_mask),
            allocate(*device_, DType::f32, {one.keeps_raw ? vocab : 0})};
    if (!one.marked.empty()) row.marked = pointer<MarkedToken>(held.marked);
    if (!one.mask.empty()) row.mask = pointer<uint64_t>(held.mask);
    if (!one.fresh_mask.empty()) row.fresh_mask = pointer<const uint64_t>(held.fresh_mask);
    if (one.keeps_raw) row.raw = pointer<float>(held.raw);
    return row;
  }

  // A step's three ops over the rows; afterwards the rows' memory must hold what was fresh.
  Found run(const std::vector<float>& logits, const std::vector<Case>& cases,
            const std::vector<SamplingRow>& how) {
    const auto count = std::ssize(cases);
    const int64_t vocab = std::ssize(logits) / count;
    std::vector<Held> held(cases.size());
    std::vector<LogitRow> rows;
    bool keeps_raw = false;
    for (std::size_t i = 0; i < cases.size(); ++i) {
      rows.push_back(row_of(cases[i], vocab, held[i]));
      keeps_raw |= cases[i].keeps_raw;
    }
    const Array from = upload(*device_, logits, {count, vocab}),
                ids = allocate(*device_, DType::i32, {count});
    const Array row_array = upload_all(rows), how_array = upload_all(how);
    const Array ranks = upload_all(std::vector<TokenRanks>(cases.size()));
    const auto* on_device = pointer<const LogitRow>(row_array);
    Queue& queue = device_->compute();
    change_logits(queue, {.logits = from.view, .rows = on_device, .keeps_raw = keeps_raw});
    sample_tokens(queue,
                  {.logits = from.view, .rows = pointer<const SamplingRow>(how_array), .ids = ids.view});
    rank_tokens(
        queue,
        {.logits = from.view, .rows = on_device, .ids = ids.view, .ranks = pointer<TokenRanks>(ranks)});
    for (std::size_t i = 0; i < cases.size(); ++i) expect_held(held[i], cases[i], logits, i);
    return {download<float>(*device_, from.view), download<int32_t>(*device_, ids.view),
            download_all<TokenRanks>(ranks)};
  }

  void expect_held(const Held& held, const Case& one, const std::vector<float>& logits, std::size_t row) {
    EXPECT_EQ(download_all<uint64_t>(held.mask), one.mask_after());
    const auto marked = download_all<MarkedToken>(held.marked), expected = one.marked_after();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(marked[i].id, expected[i].id);
      ASSERT_EQ(marked[i].seen, expected[i].seen);
      ASSERT_EQ(marked[i].bias, expected[i].bias);
    }
    const auto raw = download<float>(*device_, held.raw.view);
    const auto first = logits.begin() + static_cast<std::ptrdiff_t>(row * raw.size());
    EXPECT_TRUE(std::equal(raw.begin(), raw.end(), first));
  }

  // Rows that keep nothing are ranked after they have changed.
  void expect_rule(const std::vector<float>& logits, const std::vector<Case>& cases,
                   const std::vector<SamplingRow>& how) {
    const Found found = run(logits, cases, how);
    const std::size_t vocab = logits.size() / cases.size();
    for (std::size_t i = 0; i < cases.size(); ++i) {
      SCOPED_TRACE(fmt::format("row {} of {} tokens", i, vocab));
      const auto row = [&](const std::vector<float>& from) {
        const auto first = from.begin() + static_cast<std::ptrdiff_t>(i * vocab);
        return std::vector<float>(first, first + static_cast<std::ptrdiff_t>(vocab));
      };
      const std::vector<float> raw = row(logits), expected = expected_logits(raw, cases[i]);
      ASSERT_EQ(row(found.logits), expected);
      ASSERT_EQ(found.ids[i], draw_token(expected.data(), static_cast<int64_t>(vocab), how[i]));
      const int32_t likeliest = cases[i].likeliest;
      if (likeliest < 0) continue;
      const std::vector<float>& ranked = cases[i].keeps_raw ? raw : expected;
      if (*std::max_element(ranked.begin(), ranked.end()) == kNever) continue;  // nothing to rank
      ASSERT_NO_FATAL_FAILURE(expect_ranks(found.ranks[i], ranked, found.ids[i], likeliest));
      const TokenRanks twin = rank_row(ranked.data(), static_cast<int64_t>(vocab), found.ids[i], likeliest);
      ASSERT_EQ(found.ranks[i].weight, twin.weight);
    }
  }

  std::unique_ptr<Device> device_ = GetParam().make();
};
INSTANTIATE_TEST_SUITE_P(Devices, Logits, ::testing::ValuesIn(test_devices()), name_of_device);

std::vector<SamplingRow> ways(std::size_t count) {
  std::vector<SamplingRow> how;
  for (std::size_t i = 0; i < count; ++i) {
    how.push_back({.seed = i, .drawn = i % 5, .top_k = i % 3 == 0 ? 40 : 0});
    how.back().steepness = i % 4 == 0 ? 0.0f : 1.2f;
    if (i % 5 == 2) how.back().gap = 1.5f;
  }
  return how;
}

std::vector<Case> many_cases(int64_t count, int64_t vocab) {
  std::vector<Case> cases(1);  // the first changes nothing
  for (int64_t i = 1; i < count; ++i) {
    cases.push_back(random_case(static_cast<uint32_t>(1000 * vocab + i), vocab));
  }
  return cases;
}

TEST_P(Logits, EveryRowChangesAndRanksAsTheRuleSays) {
  for (const int64_t vocab : kVocabularies) {
    const int64_t count = vocab > 10'000 ? 24 : 60;
    const auto logits = random_numbers(count * vocab, static_cast<uint32_t>(vocab), DType::f32, 3.0f);
    expect_rule(logits, many_cases(count, vocab), ways(static_cast<std::size_t>(count)));
  }
}

TEST_P(Logits, OneRowOfALargeVocabularyAsWell) {
  const auto logits = random_numbers(kLargest, 3, DType::f32, 3.0f);
  for (uint32_t seed = 0; seed < 6; ++seed) {
    Case one = random_case(seed, kLargest);
    one.likeliest = kMostRanked;
    expect_rule(logits, {one}, {{.seed = seed, .steepness = 1.0f}});
  }
}

// Few different logits, some of them impossible: places among equals go by ids.
TEST_P(Logits, OfEqualTokensTheLowestAreTheLikeliest) {
  for (const int64_t vocab : {64, 700, 9000}) {
    auto logits = random_numbers(40 * vocab, 5);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits[i] = i % 11 == 3 ? kNever : i % 7 == 2 ? -0.0f : std::nearbyint(logits[i]);
    }
    expect_rule(logits, many_cases(40, vocab), ways(40));
    std::vector<float> alike(static_cast<std::size_t>(vocab), 2.5f);
    const Found found = run(alike, {Case{.likeliest = kMostRanked}}, {{}});
    for (int32_t i = 0; i < kMostRanked; ++i) EXPECT_EQ(found.ranks[0].ids[i], i);
    alike.assign(alike.size(), kNever);
    alike[static_cast<std::size_t>(vocab - 1)] = 0.0f;
    const Found one = run(alike, {Case{.likeliest = kMostRanked}}, {{}});
    EXPECT_EQ(one.ranks[0].ids[0], vocab - 1);
    EXPECT_EQ(one.ranks[0].weight, uint64_t{1} << 40);
    for (int32_t i = 1; i < kMostRanked; ++i) EXPECT_EQ(one.ranks[0].ids[i], i - 1);
  }
}

// The likeliest all in one thread's tokens, or in one warp's.
TEST_P(Logits, NeighboursAreRankedLikeAnyOthers) {
  for (const int64_t vocab : {5000, 40'000}) {
    for (const int64_t apart : {1, 4, 128, 512}) {
      std::vector<float> logits = random_numbers(vocab, 8);
      for (int64_t i = 0; i < 30; ++i) {
        const int64_t id = 130 + i * apart;
        if (id < vocab) logits[static_cast<std::size_t>(id)] = 20.0f + static_cast<float>(i * 7 % 30);
      }
      expect_rule(logits, {Case{.likeliest = kMostRanked}}, {{}});
    }
  }
}

TEST_P(Logits, ARowDependsOnNothingElseInTheBatch) {
  constexpr int64_t kVocab = 3000, kRows = 30;
  const auto cases = many_cases(kRows, kVocab);
  const auto how = ways(kRows);
  const auto logits = random_numbers(kRows * kVocab, 9, DType::f32, 2.0f);
  const Found together = run(logits, cases, how);
  for (std::size_t i = 0; i < cases.size(); i += 3) {
    const auto first = logits.begin() + static_cast<int64_t>(i) * kVocab;
    const Found alone = run({first, first + kVocab}, {cases[i]}, {how[i]});
    EXPECT_EQ(alone.ids[0], together.ids[i]);
    const auto there = together.logits.begin() + static_cast<int64_t>(i) * kVocab;
    EXPECT_TRUE(std::equal(alone.logits.begin(), alone.logits.end(), there));
    if (cases[i].likeliest < 0) continue;
    EXPECT_EQ(alone.ranks[0].weight, together.ranks[i].weight);
    for (int32_t n = 0; n < cases[i].likeliest; ++n) {
      EXPECT_EQ(alone.ranks[0].ids[n], together.ranks[i].ids[n]);
    }
  }
}

TEST_P(Logits, WrongShapesAreRefused) {
  Queue& queue = device_->compute();
  const Array half = allocate(*device_, DType::bf16, {2, 8}), none = allocate(*device_, DType::f32, {2, 0});
  const Array logits = allocate(*device_, DType::f32, {2, 8}), ids = allocate(*device_, DType::i32, {3});
  EXPECT_THROW(change_logits(queue, {.logits = half.view, .rows = nullptr}), InvalidInput);
  EXPECT_THROW(change_logits(queue, {.logits = none.view, .rows = nullptr}), InvalidInput);
  EXPECT_THROW(
      rank_tokens(queue, {.logits = logits.view, .rows = nullptr, .ids = ids.view, .ranks = nullptr}),
      InvalidInput);
  EXPECT_THROW(rank_tokens(queue, {.logits = half.view, .rows = nullptr, .ids = ids.view, .ranks = nullptr}),
               InvalidInput);
}

}  // namespace
}  // namespace shadowkv::testing
