// The laws of attention on a GPU, which computes in bfloat16: to the bit where the same sums run in the same
// order, else up to rounding.
#include <gtest/gtest.h>

#include <cmath>

#include "attention/cases.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kPrompt = 600, kSteps = 12;
constexpr std::size_t kVocab = 96;

// Rounding of activations and of rebuilt keys, in shares of the logits (0.0608 was seen, with unit
// vectors as the basis of full rank), and where factors or values have 8 bits; a small budget
// changes more.
constexpr double kRounding = 0.08, kRoundingInt8 = 0.13, kAnotherResult = 0.15;

// Root mean square of the difference, as a share of the expected numbers'.
double deviation(std::span<const float> found, std::span<const float> expected) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    difference += std::pow(double{found[i]} - double{expected[i]}, 2);
    size += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(difference / size);
}

std::span<const float> row_of(const std::vector<float>& rows, std::size_t i) {
  return std::span(rows).subspan(i * kVocab, kVocab);
}

class GpuLaws : public ::testing::TestWithParam<AttentionCase> {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "No NVIDIA GPU was found.";
  }
  // A step of one sequence in one part, so that sums run in one order.
  std::vector<std::vector<float>> run(AttentionConfig config) {
    config.step_parts = config.micro_batches = 1;
    TinyModel model(GetParam().shape, make_cuda_device());
    return Methods(model, {config}).run(0, tiny_ids(kPrompt), tiny_ids(kSteps, 2));
  }
  static double rounding() {
    const AttentionConfig& config = GetParam().config;
    const bool has_int8 = config.factors == StorageType::int8 || config.values == StorageType::int8;
    return has_int8 ? kRoundingInt8 : kRounding;
  }
  static AttentionConfig everything() {
    AttentionConfig config = GetParam().config;
    config.sparse_budget = 1 << 20;
    config.sparse_budget_share = 0;
    config.rank = 1 << 20;
    return config;
  }
};

TEST_P(GpuLaws, RunningAgainAndSlotsAndPlacementChangeNothing) {
  AttentionConfig config = GetParam().config;
  const auto expected = run(config);
  EXPECT_EQ(run(config), expected) << "again";
  for (const double selections : {1.0, 8.0}) {
    config.slot_selections = selections;
    EXPECT_EQ(run(config), expected) << "slots for " << selections << " selections";
  }
  for (const Placement placement : {Placement::spill, Placement::host}) {
    config.placement = placement;
    EXPECT_EQ(run(config), expected);
  }
}

TEST_P(GpuLaws, ABudgetOfEverythingIsFullAttentionUpToRounding) {
  TinyModel model(GetParam().shape, make_cuda_device());
  AttentionConfig full;
  full.method = Method::full;
  Methods methods(model, {full, everything()});
  const SeqId id = 0;
  (void)methods.prefill(id, tiny_ids(kPrompt), kSteps);
  for (const int32_t token : tiny_ids(kSteps, 3)) {
    const std::vector<float> expected = methods.decode({&id, 1}, {&token, 1}, 0);
    EXPECT_LE(deviation(methods.decode({&id, 1}, {&token, 1}, 1), expected), rounding());
  }
}

TEST_P(GpuLaws, OthersInTheBatchChangeWhatIsRoundedAlone) {
  const std::vector<int64_t> lengths = {kPrompt, 37, 900};
  const std::vector<SeqId> ids = {5, 9, 2};
  const auto seed_of = [](std::size_t i) { return static_cast<uint32_t>(10 + i); };
  TinyModel model(GetParam().shape, make_cuda_device());
  std::vector<std::vector<std::vector<float>>> alone;
  Methods methods(model, {everything()}), together(model, {everything()});
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::vector<int32_t> prompt = tiny_ids(lengths[i], seed_of(i));
    alone.push_back(methods.run(ids[i], prompt, tiny_ids(kSteps, seed_of(i) + 10)));
    EXPECT_EQ(together.prefill(ids[i], prompt, kSteps), alone[i][0]);
  }
  for (std::size_t step = 0; step < kSteps; ++step) {
    std::vector<int32_t> tokens;
    for (std::size_t i = 0; i < ids.size(); ++i) tokens.push_back(tiny_ids(kSteps, seed_of(i) + 10)[step]);
    const std::vector<float> rows = together.decode(ids, tokens);
    for (std::size_t i = 0; i < ids.size(); ++i)
      EXPECT_LE(deviation(row_of(rows, i), alone[i][step + 1]), rounding()) << "sequence " << i;
  }
}

// Beside each other, one step each in turn, before and after the first reads on.
TEST_P(GpuLaws, ForksGoOnAsThoughEachWereAlone) {
  AttentionConfig config = GetParam().config;
  config.step_parts = config.micro_batches = 1;
  TinyModel model(GetParam().shape, make_cuda_device());
  Methods methods(model, {config});
  const SeqId first = 0, fork = 1, alone = 2;
  const auto step = [&](SeqId id, int32_t token) { return methods.decode({&id, 1}, {&token, 1}); };
  const auto begin = [&](SeqId id) {
    (void)methods.prefill(id, tiny_ids(kPrompt), 200);
    for (const int32_t token : tiny_ids(kSteps, 2)) (void)step(id, token);
  };
  std::vector<std::vector<float>> expected;
  begin(alone);
  for (const int32_t token : tiny_ids(kSteps, 3)) expected.push_back(step(alone, token));
  begin(first);
  methods.fork(first, fork, kPrompt + kSteps, 200);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (i == expected.size() / 2)
      (void)methods.append(first, kPrompt + kSteps + std::ssize(expected) / 2, tiny_ids(40, 5));
    (void)step(first, tiny_ids(kSteps, 4)[i]);
    EXPECT_EQ(step(fork, tiny_ids(kSteps, 3)[i]), expected[i]) << i;
  }
}

TEST_P(GpuLaws, AnswersHaveNoLimit) {
  TinyModel model(GetParam().shape, make_cuda_device());
  Methods methods(model, {GetParam().config});
  const SeqId id = 0;
  constexpr int64_t kTokens = 600;
  (void)methods.prefill(id, tiny_ids(40), kTokens);
  for (const int32_t token : tiny_ids(kTokens, 8)) {
    for (const float x : methods.decode({&id, 1}, {&token, 1})) ASSERT_TRUE(std::isfinite(x));
  }
}

INSTANTIATE_TEST_SUITE_P(Configurations, GpuLaws, ::testing::ValuesIn(lossy_cases()), name_of_case);

// A law that cannot fail says nothing.
TEST(GpuLaw, OfEverythingDoesNotHoldForASmallBudget) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "No NVIDIA GPU was found.";
  TinyModel model({}, make_cuda_device());
  AttentionConfig small = lossless(IndexKind::sketch, 4), full;
  small.sparse_budget = 8;
  full.method = Method::full;
  Methods methods(model, {full, small});
  const SeqId id = 0;
  const int32_t token = 5;
  (void)methods.prefill(id, tiny_ids(700), 1);
  const std::vector<float> expected = methods.decode({&id, 1}, {&token, 1}, 0);
  EXPECT_GT(deviation(methods.decode({&id, 1}, {&token, 1}, 1), expected), kAnotherResult);
}

}  // namespace
}  // namespace shadowkv::testing
