#include <algorithm>
#include <array>
#include <set>

#include "kernels/fixtures.h"
#include "kernels/kernels.h"
#include "kernels/step_choice.h"
#include "kernels/tolerances.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

class Selection : public ::testing::TestWithParam<TestDevice> {
 protected:
  std::unique_ptr<Device> device_ = GetParam().make();
  Queue& queue_ = device_->compute();
};

constexpr double kNever = -std::numeric_limits<double>::infinity();

std::vector<float> ranking_of(Device& device, const std::vector<float>& scores, int64_t sequences,
                              int64_t heads, int64_t kv_heads) {
  const int64_t n = static_cast<int64_t>(scores.size()) / (sequences * heads);
  const Array from = upload(device, scores, {sequences, heads, n});
  const Array to = allocate(device, DType::f32, {sequences, kv_heads, n});
  rank_groups(device.compute(), {from.view, to.view});
  return download<float>(device, to.view);
}

TEST_P(Selection, RankingIsTheLargestLogShareAmongTheHeadsOfAGroup) {
  for (const int64_t group : {1, 3, 4, 7, 8}) {
    for (const int64_t n : {1, 2, 17, 1850}) {
      std::vector<float> scores = random_numbers(2 * 2 * group * n, 3, DType::f32, 6.0f);
      for (std::size_t i = 0; i < scores.size(); i += 3) scores[i] = kNone;
      const std::vector<float> found = ranking_of(*device_, scores, 2, 2 * group, 2);
      std::vector<double> expected(at(4 * n), kNever);
      for (int64_t h = 0; h < 4 * group; ++h) {
        const std::vector<float> head = slice(scores, h * n, n);
        std::vector<double> exact;
        for (const float x : head) exact.push_back(static_cast<double>(x));
        const double lse = reference_log_sum_exp(exact);
        for (int64_t i = 0; i < n; ++i) {
          if (head[at(i)] == kNone) continue;
          double& best = expected[at(h / group * n + i)];
          best = std::max(best, static_cast<double>(head[at(i)]) - lse);
        }
      }
      expect_near(found, expected, {5e-6, 1e-6});
    }
  }
}

TEST_P(Selection, ARowWithoutOpenEntriesStaysClosedAndHeadsWithoutAnyAreNoneOfIt) {
  const std::vector<float> none(20, kNone);
  EXPECT_EQ(ranking_of(*device_, none, 1, 2, 2), none);
  std::vector<float> half = none;
  half[3] = 2.0f;
  EXPECT_EQ(ranking_of(*device_, half, 1, 2, 1)[3], 0.0f);
  EXPECT_EQ(ranking_of(*device_, half, 1, 2, 1)[4], kNone);
}

std::vector<int32_t> chosen_of(Device& device, const std::vector<float>& ranking,
                               const std::vector<int32_t>& limits, int64_t room) {
  const auto sequences = static_cast<int64_t>(limits.size());
  const int64_t n = static_cast<int64_t>(ranking.size()) / sequences;
  const Array from = upload(device, ranking, {sequences, 1, n}), most = upload(device, limits, {sequences});
  const Array to = allocate(device, DType::i32, {sequences, 1, room});
  top_k(device.compute(), {from.view, most.view.as<int32_t>(), to.view});
  return download<int32_t>(device, to.view);
}

std::vector<int32_t> expected_choice(const std::vector<float>& ranking, int64_t limit, int64_t room) {
  std::vector<int32_t> order;
  for (std::size_t i = 0; i < ranking.size(); ++i) {
    if (ranking[i] > kNone) order.push_back(static_cast<int32_t>(i));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return ranking[at(a)] > ranking[at(b)]; });
  order.resize(std::min(order.size(), at(limit)));
  std::sort(order.begin(), order.end());
  order.resize(at(room), -1);
  return order;
}

TEST_P(Selection, TheBestEntriesAreChosenInAscendingOrderAndTiesGoToTheLowerIndex) {
  for (const int64_t n : {1, 7, 64, 1850, 50'000}) {
    for (const int64_t distinct : {1, 3, 40, 1'000'000}) {
      std::vector<float> ranking = random_numbers(n, 6);
      for (std::size_t i = 0; i < ranking.size(); ++i) {
        ranking[i] = std::round(ranking[i] * static_cast<float>(distinct)) / static_cast<float>(distinct);
        if (i % 5 == 1) ranking[i] = kNone;  // -0 and 0 are among the rest, and are equal
      }
      for (const int64_t limit : {int64_t{0}, int64_t{1}, n / 3, n - 1, n, n + 9}) {
        const auto most = static_cast<int32_t>(std::max<int64_t>(0, limit));
        EXPECT_EQ(chosen_of(*device_, ranking, {most}, n + 9), expected_choice(ranking, most, n + 9))
            << n << " entries, limit " << most;
      }
    }
  }
}

TEST_P(Selection, AQuarterMillionEntriesAreChosenFromExactly) {
  const std::vector<float> ranking = random_numbers(250'000, 8, DType::bf16, 3.0f);
  EXPECT_EQ(chosen_of(*device_, ranking, {4096}, 4096), expected_choice(ranking, 4096, 4096));
}

TEST_P(Selection, EverySequenceHasItsOwnLimit) {
  const std::vector<float> ranking = random_numbers(3 * 50, 8);
  const std::vector<int32_t> together = chosen_of(*device_, ranking, {2, 0, 30}, 30);
  for (int64_t b = 0; b < 3; ++b) {
    const int64_t limit = b == 0 ? 2 : b == 1 ? 0 : 30;
    EXPECT_EQ(slice(together, b * 30, 30), expected_choice(slice(ranking, b * 50, 50), limit, 30));
  }
}

TEST_P(Selection, NumbersThatAreNoneAreNeverChosen) {
  const std::vector<float> ranking{1.0f, std::nanf(""), kNone, -5.0f, -std::nanf("")};
  EXPECT_EQ(chosen_of(*device_, ranking, {4}, 4), (std::vector<int32_t>{0, 3, -1, -1}));
}

// Scores as they come, and as they might: many equal ones, closed ones, heads without any open entry, values
// in ever smaller distances of each other.
std::vector<float> scores_for_choice(int64_t count, int64_t kind, int64_t n) {
  std::vector<float> scores = random_numbers(count, 11 + static_cast<uint32_t>(kind), DType::f32, 4.0f);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (kind == 1) scores[i] = std::round(scores[i]);
    if (kind == 2) scores[i] = 3.0f + 1e-6f * scores[i];
    if (kind == 3) scores[i] = i % 2 == 0 ? 1.0f : 2.0f;
    const bool closed = static_cast<int64_t>(i) % n >= n - n / 8 || (kind == 1 && i % 5 == 1);
    if (closed || (kind == 2 && static_cast<int64_t>(i) / n == 1)) scores[i] = kNone;
  }
  return scores;
}

struct Chosen {
  std::vector<float> lse;
  std::vector<int32_t> entries;
};

Chosen choose_from(Device& device, const std::vector<float>& scores, const std::vector<int32_t>& limits,
                   const std::array<int64_t, 3>& heads_kv_heads_n, int64_t room, bool with_spans) {
  const auto [heads, kv_heads, n] = heads_kv_heads_n;
  const auto sequences = static_cast<int64_t>(limits.size());
  const Array from = upload(device, scores, {sequences, heads, n}),
              most = upload(device, limits, {sequences});
  const std::vector<double> exact = reference_spans(scores, n);
  const Array spans = upload(device, std::vector<float>(exact.begin(), exact.end()),
                             {sequences, heads, ceil_div(n, kSpanScores), 2});
  const Array lse = allocate(device, DType::f32, {sequences, heads});
  const Array chosen = allocate(device, DType::i32, {sequences, kv_heads, room});
  choose_groups(device.compute(), {from.view, with_spans ? spans.view : TensorView(), most.view.as<int32_t>(),
                                   lse.view, chosen.view});
  return {download<float>(device, lse.view), download<int32_t>(device, chosen.view)};
}

// What a group's heads rank its entries by, in float32, as the ops do.
std::vector<float> ranking_under(const std::vector<float>& scores, const std::vector<float>& lse,
                                 int64_t group, int64_t n) {
  std::vector<float> ranking(lse.size() / at(group) * at(n), kNone);
  for (std::size_t h = 0; h < lse.size(); ++h) {
    for (int64_t i = 0; i < n && lse[h] > kNone; ++i) {
      float& best = ranking[h / at(group) * at(n) + at(i)];
      best = std::max(best, scores[h * at(n) + at(i)] - lse[h]);
    }
  }
  return ranking;
}

// Chooses from the scores, with and without spans, and compares with ranking and then taking the best.
void expect_choices(Device& device, const std::vector<float>& scores, const std::vector<int32_t>& limits,
                    const std::array<int64_t, 3>& heads_kv_heads_n, int64_t room) {
  const auto [heads, kv_heads, n] = heads_kv_heads_n;
  std::vector<double> lses;
  for (int64_t h = 0; h < static_cast<int64_t>(limits.size()) * heads; ++h) {
    const std::vector<float> head = slice(scores, h * n, n);
    lses.push_back(reference_log_sum_exp(std::vector<double>(head.begin(), head.end())));
  }
  for (const bool with_spans : {false, true}) {
    const Chosen found = choose_from(device, scores, limits, heads_kv_heads_n, room, with_spans);
    expect_near(found.lse, lses, kLogSumExp.f32);
    const std::vector<float> ranking = ranking_under(scores, found.lse, heads / kv_heads, n);
    for (int64_t row = 0; row < static_cast<int64_t>(limits.size()) * kv_heads; ++row) {
      const int64_t limit = std::max<int32_t>(0, limits[at(row / kv_heads)]);
      ASSERT_EQ(slice(found.entries, row * room, room),
                expected_choice(slice(ranking, row * n, n), limit, room))
          << "row " << row << ", " << n << " entries, limit " << limit << (with_spans ? ", spans" : "");
    }
  }
}

// Rows of up to 512 entries take other kernels on a GPU than longer ones, and so do many alike or many
// wanted.
TEST_P(Selection, ChoosingInOneStepIsRankingAndThenTakingTheBest) {
  for (const auto& [sequences, heads, kv_heads, n] : {std::array<int64_t, 4>{1, 8, 2, 6000},
                                                      {34, 8, 2, 6000},
                                                      {2, 7, 1, 40'000},
                                                      {70, 5, 1, 2304},
                                                      {33, 8, 2, 515},
                                                      {3, 8, 2, 300},
                                                      {40, 4, 4, 64},
                                                      {2, 66, 2, 128}}) {
    for (const int64_t kind : {0, 1, 2, 3}) {
      SCOPED_TRACE(fmt::format("{} sequences, kind {}", sequences, kind));
      const std::vector<float> scores = scores_for_choice(sequences * heads * n, kind, n);
      for (const int64_t room : {n / 50 + 1, n / 4, int64_t{64}}) {
        std::vector<int32_t> limits;
        for (int64_t b = 0; b < sequences; ++b)
          limits.push_back(static_cast<int32_t>(b == 2 ? 0 : room - b % 3));
        expect_choices(*device_, scores, limits, {heads, kv_heads, n}, room);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Slots of every head that hold some chunks below n, each once.
Slots slots_with_some(Device& device, const StepChoice::Shape& s, int64_t count) {
  Slots slots(device, {.kv_heads = s.kv_heads, .chunk = 4, .head_dim = 8, .dtype = DType::f32},
              std::vector<int32_t>(at(s.sequences), static_cast<int32_t>(count)));
  for (int64_t i = 0; i < s.sequences * s.kv_heads; ++i) {
    std::vector<int32_t> ids;
    std::set<int32_t> seen;
    for (int64_t k = 0; k < count; ++k) {
      const auto id = static_cast<int32_t>((k * 11 + i) % s.chunks);
      ids.push_back(k % 5 != 1 && seen.insert(id).second ? id : -1);
    }
    slots.write_ids(slots.host.chunks(i / s.kv_heads, i % s.kv_heads), ids);
  }
  return slots;
}

// All that a step's choice leaves, by one op each or by their parts.
std::vector<std::vector<int32_t>> choose_and_pick(Device& device, const StepChoice::Shape& s,
                                                  int64_t slot_count, bool in_one) {
  const auto room = static_cast<int32_t>(s.candidates), picks = static_cast<int32_t>(s.picks);
  const int64_t heads = s.sequences * s.kv_heads * s.group;
  const StepChoice choice(device, s, {{room, room - 3, 0}, {picks, picks - 2, picks}},
                          random_numbers(heads * s.chunks, 5, DType::f32, 8.0f),
                          random_numbers(heads * s.candidates, 6, DType::f32, 8.0f));
  const Slots slots = slots_with_some(device, s, slot_count);
  const Sequences sequences(device, {2, 0, 1}, {900, 901, 902});
  const ChooseCandidatesParams choose = choice.choose(sequences.batch(), slots.view);
  const PickCandidatesParams pick = choice.pick(sequences.batch(), slots.view);
  Queue& queue = device.compute();
  if (in_one) {
    choose_candidates(queue, choose);
    pick_candidates(queue, pick);
  } else {
    choose_groups(queue, choose.choose());
    find_slots(queue, choose.find());
    choose_groups(queue, pick.choose());
    assign_slots(queue, pick.assign);
  }
  std::vector<std::vector<int32_t>> left;
  for (const Array* array :
       {&choice.found, &choice.chosen, &choice.missing, &choice.picked, &choice.assigned, &choice.source}) {
    left.push_back(download<int32_t>(device, array->view));
  }
  for (int64_t i = 0; i < s.sequences * s.kv_heads; ++i) {
    left.push_back(slots.ids(i / s.kv_heads, i % s.kv_heads));
    left.push_back(slots.stamps(i / s.kv_heads, i % s.kv_heads));
  }
  return left;
}

// Few and many slots, candidates and chunks take other ways on a GPU.
TEST_P(Selection, ChoosingWithItsSlotsIsChoosingAndThenFindingOrAssigning) {
  for (const auto& [chunks, candidates, picks, slot_count] : {std::array<int64_t, 4>{6000, 100, 40, 60},
                                                              {300, 90, 90, 200},
                                                              {2000, 700, 300, 300},
                                                              {40, 64, 9, 9}}) {
    const StepChoice::Shape shape{3, 2, 4, chunks, candidates, picks};
    const auto in_one = choose_and_pick(*device_, shape, slot_count, true);
    EXPECT_EQ(in_one, choose_and_pick(*device_, shape, slot_count, false)) << chunks << " chunks";
    EXPECT_GT(*std::max_element(in_one[0].begin(), in_one[0].end()), -1) << "nothing is found in a slot";
  }
}

// Scores that a histogram of the shares tells apart badly, or not at all.
enum class Spread { wide, two_levels, close, equal, steps, one_above, closed, one_open };

float score_of(Spread spread, int64_t i, float x) {
  switch (spread) {
    case Spread::wide:
      return 2500.0f * x;
    case Spread::two_levels:
      return i % 31 == 0 ? 2000.0f + x : x;
    case Spread::close:  // a few hundred best ones, all within 1e-3
      return i % 29 == 0 ? 20.0f + 1e-4f * x : x;
    case Spread::equal:
      return i % 29 == 0 ? 20.0f : 1.0f;
    case Spread::steps:
      return std::round(8.0f * x) / 8.0f;
    case Spread::one_above:
      return i % 1000 == 77 ? 300.0f : x;
    case Spread::closed:
      return kNone;
    case Spread::one_open:
      return i % 1000 == 77 ? x : kNone;
  }
  return x;
}

TEST_P(Selection, ChoosingTakesTheSameHoweverTheScoresAreSpread) {
  for (const auto& [group, n] : {std::array<int64_t, 2>{1, 6000},
                                 {4, 15'616},
                                 {7, 2501},
                                 {32, 1300},
                                 {1, 20'000},
                                 {4, 513},
                                 {4, 512},
                                 {7, 130},
                                 {32, 31}}) {
    for (const Spread spread : {Spread::wide, Spread::two_levels, Spread::close, Spread::equal, Spread::steps,
                                Spread::one_above, Spread::closed, Spread::one_open}) {
      SCOPED_TRACE(fmt::format("group {}, spread {}", group, static_cast<int>(spread)));
      std::vector<float> scores = random_numbers(4 * group * n, 21, DType::f32, 4.0f);
      for (int64_t i = 0; i < 4 * group * n; ++i) scores[at(i)] = score_of(spread, i % n, scores[at(i)]);
      for (const int64_t room : {int64_t{1}, int64_t{64}, int64_t{200}}) {
        const auto most = static_cast<int32_t>(room);
        expect_choices(*device_, scores, {most, 0, most / 2, most}, {group, 1, n}, room);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(Selection, ChoosingFromAMillionEntries) {
  constexpr int64_t kEntries = 1'000'000;
  std::vector<float> scores = random_numbers(2 * kEntries, 5, DType::f32, 4.0f);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] -= i % 100 == 7 ? 0.0f : 20.0f;
  expect_choices(*device_, scores, {100}, {2, 1, kEntries}, 100);
}

// Candidates of which some lie in slots and others were rebuilt.
struct Candidates {
  static constexpr int64_t kCount = 37;

  Candidates(Device& d, int64_t kv_heads_, int64_t group_, int64_t head_dim_, int64_t chunk_, DType dtype_)
      : device(d),
        kv_heads(kv_heads_),
        group(group_),
        head_dim(head_dim_),
        chunk(chunk_),
        dtype(dtype_),
        slots(d, {.kv_heads = kv_heads, .chunk = chunk, .head_dim = head_dim, .dtype = dtype}, {9, 5}),
        numbers(random_numbers(2 * kv_heads * kCount * chunk * head_dim, 4, dtype)),
        rebuilt(upload_as(d, dtype, numbers, {2, kv_heads, kCount, chunk * head_dim})) {
    for (int64_t i = 0; i < 2 * kv_heads * kCount; ++i) {
      ids.push_back(i % 6 == 5 ? -1 : static_cast<int32_t>(i));
      const int64_t slot = i / 4, b = i / kCount / kv_heads;
      found.push_back(i % 4 == 0 ? static_cast<int32_t>(slot % (b == 0 ? 5 : 9)) : -1);
    }
    for (int64_t row = 0; row < 2; ++row) {
      for (int64_t i = 0; i < kv_heads * (row == 0 ? 9 : 5); ++i) {
        const int64_t n = row == 0 ? 9 : 5;
        write_numbers(d, slots.host.keys(row, i / n, i % n), dtype,
                      random_numbers(chunk * head_dim, static_cast<uint32_t>(50 + row * 99 + i), dtype));
      }
    }
  }

  // Keys of candidate i of all.
  [[nodiscard]] std::vector<float> keys(int64_t i) const {
    const int64_t b = i / kCount / kv_heads, g = i / kCount % kv_heads, size = chunk * head_dim;
    if (found[at(i)] < 0) return slice(numbers, i * size, size);
    return read_numbers(device, slots.host.keys(1 - b, g, found[at(i)]), dtype, size);
  }

  // Scores of the sequences [first, first + count); sequence b has row 1 - b.
  [[nodiscard]] std::vector<float> scores(const std::vector<float>& q, int64_t first, int64_t count) const {
    const int64_t each = kv_heads * kCount;
    const Array query = upload_activation(
        device, slice(q, first * kv_heads * group * head_dim, count * kv_heads * group * head_dim),
        {count, kv_heads * group, head_dim});
    const Array chunks = upload(device, slice(ids, first * each, count * each), {count, kv_heads, kCount});
    const Array held = upload(device, slice(found, first * each, count * each), {count, kv_heads, kCount});
    const Array out = allocate(device, DType::f32, {count, kv_heads * group, kCount});
    const std::vector<int32_t> rows{1, 0};
    const Sequences sequences(device, slice(rows, first, count), std::vector<int32_t>(at(count), 1000));
    candidate_scores(device.compute(), {query.view, sequences.batch(), chunks.view, held.view,
                                        rebuilt.view.rows(first, count), slots.view, 0.2f, out.view});
    return download<float>(device, out.view);
  }

  Device& device;
  int64_t kv_heads, group, head_dim, chunk;
  DType dtype;
  Slots slots;
  std::vector<float> numbers;
  Array rebuilt;
  std::vector<int32_t> ids, found;
};

TEST_P(Selection, CandidateScoresAreTheLogSumExpOfExactProductsWhereverTheKeysLie) {
  struct Case {
    int64_t kv_heads, group, head_dim, chunk;
    DType dtype;
  };
  for (const Case& s :
       {Case{1, 1, 8, 1, DType::f32}, Case{3, 3, 64, 4, DType::bf16}, Case{2, 4, 24, 3, DType::bf16},
        Case{2, 7, 80, 8, DType::f32}, Case{2, 8, 128, 16, DType::bf16}, Case{1, 4, 128, 8, DType::bf16},
        Case{2, 18, 96, 4, DType::bf16}, Case{1, 3, 256, 2, DType::bf16}, Case{2, 4, 32, 1, DType::bf16}}) {
    Candidates c(*device_, s.kv_heads, s.group, s.head_dim, s.chunk, s.dtype);
    const int64_t heads = s.kv_heads * s.group;
    const std::vector<float> q = random_numbers(2 * heads * s.head_dim, 77, GetParam().activations);
    std::vector<double> expected;
    for (int64_t i = 0; i < 2 * heads * Candidates::kCount; ++i) {
      const int64_t head = i / Candidates::kCount, kv = head / s.group;
      const int64_t candidate = kv * Candidates::kCount + i % Candidates::kCount;
      const std::vector<float> keys = c.keys(candidate);
      std::vector<double> dots;
      for (int64_t t = 0; t < s.chunk; ++t) {
        dots.push_back(static_cast<double>(0.2f) *
                       reference_dot(q.data() + head * s.head_dim, keys.data() + t * s.head_dim, s.head_dim));
      }
      expected.push_back(c.ids[at(candidate)] < 0 ? kNever : reference_log_sum_exp(dots));
    }
    const std::vector<float> found = c.scores(q, 0, 2);
    expect_near(found, expected, kScores.of(GetParam().activations));
    EXPECT_EQ(c.scores(q, 1, 1), slice(found, heads * Candidates::kCount, heads * Candidates::kCount));
  }
}

TEST_P(Selection, WrongShapesAreRefused) {
  const Array scores = allocate(*device_, DType::f32, {1, 6, 10}),
              ranking = allocate(*device_, DType::f32, {1, 4, 10});
  const Array wide = allocate(*device_, DType::f32, {1, 2, 11}),
              ids = allocate(*device_, DType::i32, {1, 2, 5});
  EXPECT_THROW(rank_groups(queue_, {scores.view, ranking.view}), InvalidInput);
  EXPECT_THROW(rank_groups(queue_, {scores.view, wide.view}), InvalidInput);
  EXPECT_THROW(top_k(queue_, {ranking.view, nullptr, ids.view}), InvalidInput);
  EXPECT_THROW(top_k(queue_, {scores.view, nullptr, scores.view}), InvalidInput);
  const Array lse = allocate(*device_, DType::f32, {1, 6}), few = allocate(*device_, DType::f32, {1, 6, 1});
  EXPECT_THROW(choose_groups(queue_, {scores.view, {}, nullptr, few.view, ids.view}), InvalidInput);
  EXPECT_THROW(choose_groups(queue_, {scores.view, few.view, nullptr, lse.view, ids.view}), InvalidInput);
}

INSTANTIATE_TEST_SUITE_P(Devices, Selection, kDevices, name_of_device);

}  // namespace
}  // namespace shadowkv::testing
