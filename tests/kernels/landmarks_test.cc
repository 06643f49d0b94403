#include "kernels/fixtures.h"
#include "kernels/kernels.h"
#include "kernels/tolerances.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

class Landmarks : public ::testing::TestWithParam<TestDevice> {
 protected:
  std::unique_ptr<Device> device_ = GetParam().make();
  Queue& queue_ = device_->compute();
  DType type_ = GetParam().activations;
};

struct Shape {
  int64_t kv_heads, group, head_dim, chunk;
  DType dtype;
  int64_t block = 5;  // chunks

  // Of a stored mean. int8: half a step of 127 that reach the largest number, the scale rounded up by 2^-7.
  [[nodiscard]] Tolerance tolerance(const std::vector<double>& mean) const {
    if (dtype == DType::f32) return {2e-6, 2e-6};
    if (dtype == DType::bf16) return {1e-5, 4e-3};
    double most = 0.0;
    for (const double x : mean) most = std::max(most, std::abs(x));
    return {1e-6 + most * 0.504 / 127, 0};
  }
  [[nodiscard]] DType ring_dtype() const { return dtype == DType::i8 ? DType::bf16 : dtype; }
};

const Shape kShapes[] = {
    {1, 1, 8, 1, DType::f32},      {3, 3, 64, 4, DType::bf16},  {2, 4, 24, 3, DType::f32},
    {1, 7, 80, 8, DType::bf16},    {2, 8, 96, 8, DType::f32},   {2, 4, 128, 16, DType::bf16},
    {1, 20, 32, 2, DType::bf16},   {2, 3, 256, 4, DType::bf16}, {2, 4, 128, 8, DType::bf16, 64},
    {2, 4, 128, 8, DType::i8, 64}, {1, 7, 80, 8, DType::i8},    {2, 8, 96, 3, DType::i8, 21},
    {3, 3, 64, 4, DType::i8, 128}, {1, 20, 256, 2, DType::i8},  {1, 2, 24, 1, DType::i8},
    {2, 1, 112, 4, DType::i8, 16}};

Quantized means_of(Device& device, const Shape& s, int64_t chunks) {
  return {device, {2, s.kv_heads, chunks, s.block, 0, false, true, s.dtype}, s.head_dim};
}

// Average of keys [first, last) of KV head g; keys [tokens, kv_heads, head_dim].
std::vector<double> expected_mean(const Shape& s, const std::vector<float>& k, int64_t g, int64_t first,
                                  int64_t last) {
  std::vector<double> mean(at(s.head_dim));
  for (int64_t t = first; t < last; ++t) {
    for (int64_t d = 0; d < s.head_dim; ++d) {
      mean[at(d)] += static_cast<double>(k[at((t * s.kv_heads + g) * s.head_dim + d)]) /
                     static_cast<double>(last - first);
    }
  }
  return mean;
}

TEST_P(Landmarks, MeansAreOfEachWholeChunkAndCosinesOfItsWorstKey) {
  for (const Shape& s : kShapes) {
    const int64_t tokens = 11 * s.chunk + s.chunk - 1, first = 3;
    Quantized means = means_of(*device_, s, 20);
    const std::vector<float> k = random_numbers(tokens * s.kv_heads * s.head_dim, 7, type_);
    const Array keys = upload_activation(*device_, k, {tokens, s.kv_heads, s.head_dim});
    const int64_t chunks = tokens / s.chunk;
    const Array cosines = allocate(*device_, DType::f32, {s.kv_heads, chunks});
    chunk_means(queue_, {keys.view, s.chunk, 1, first, means.view, cosines.view});
    const std::vector<float> found = download<float>(*device_, cosines.view);
    for (int64_t i = 0; i < s.kv_heads * chunks; ++i) {
      const int64_t g = i / chunks, c = i % chunks;
      const std::vector<double> mean = expected_mean(s, k, g, c * s.chunk, (c + 1) * s.chunk);
      expect_near(means.read(1, g, first + c), mean, s.tolerance(mean));
      double least = 1.0, mean_squares = 0.0;
      for (const double x : mean) mean_squares += x * x;
      for (int64_t t = c * s.chunk; t < (c + 1) * s.chunk; ++t) {
        const float* key = k.data() + (t * s.kv_heads + g) * s.head_dim;
        double along = 0.0;
        for (int64_t d = 0; d < s.head_dim; ++d) along += static_cast<double>(key[d]) * mean[at(d)];
        least = std::min(least, along / std::sqrt(mean_squares * reference_dot(key, key, s.head_dim)));
      }
      ASSERT_NEAR(found[at(i)], least, 1e-5);
    }
    EXPECT_EQ(means.read(1, 0, first + chunks), std::vector<float>(at(s.head_dim))) << "nothing behind";
    EXPECT_EQ(means.read(0, 0, first), std::vector<float>(at(s.head_dim))) << "no other row";
  }
}

TEST_P(Landmarks, TheLatestChunksMeanIsThatOfItsTokensSoFar) {
  for (const Shape& s : kShapes) {
    const int64_t ring = 3 * s.chunk + 5, width = s.kv_heads * s.head_dim, tokens = 4 * s.chunk + 1;
    ResidentView shape{.kv_heads = s.kv_heads,
                       .chunk = s.chunk,
                       .local_window = 2 * s.chunk,
                       .ring_tokens = ring,
                       .head_dim = s.head_dim,
                       .dtype = s.ring_dtype()};
    Resident resident(*device_, shape, {0, 2});
    Quantized means = means_of(*device_, s, 20);
    const std::vector<float> k = random_numbers(tokens * width, 5, narrower(s.ring_dtype(), type_));
    for (int32_t t = 0; t < tokens; ++t) {
      const Array key = upload_activation(*device_, slice(k, t * width, width), {1, s.kv_heads, s.head_dim});
      const Sequences token(*device_, {1}, {t}), sequence(*device_, {1}, {t + 1});
      store_resident(queue_, {key.view, key.view, token.token_batch(), resident.view});
      update_means(queue_, {sequence.batch(), resident.view, means.view});
      const int64_t chunk = t / s.chunk;
      for (int64_t g = 0; g < s.kv_heads; ++g) {
        const std::vector<double> mean = expected_mean(s, k, g, chunk * s.chunk, t + 1);
        expect_near(means.read(1, g, chunk), mean, s.tolerance(mean));
      }
    }
  }
}

std::vector<float> scores_of(Device& device, const Shape& s, const Quantized& means,
                             const std::vector<float>& q, const std::vector<int32_t>& rows,
                             const std::vector<int32_t>& tokens, int64_t all) {
  const auto count = static_cast<int64_t>(rows.size());
  const Array query = upload_activation(device, q, {count, s.kv_heads * s.group, s.head_dim});
  const Array scores = allocate(device, DType::f32, {count, s.kv_heads * s.group, all});
  const Array spans =
      allocate(device, DType::f32, {count, s.kv_heads * s.group, ceil_div(all, kSpanScores), 2});
  const Sequences sequences(device, rows, tokens);
  landmark_scores(device.compute(), {query.view, sequences.batch(), means.view, s.kv_heads, s.chunk, s.chunk,
                                     0.25f, scores.view, spans.view});
  std::vector<float> found = download<float>(device, scores.view);
  expect_near(download<float>(device, spans.view), reference_spans(found, all), kSpans);
  return found;
}

TEST_P(Landmarks, ScoresAreQueriesAgainstTheMeansOfOpenChunksInAnyBatch) {
  for (const Shape& s : kShapes) {
    constexpr int64_t kChunks = 600;
    Quantized means = means_of(*device_, s, kChunks);
    const std::vector<float> k = random_numbers(kChunks * s.chunk * s.kv_heads * s.head_dim, 9, type_);
    const Array keys = upload_activation(*device_, k, {kChunks * s.chunk, s.kv_heads, s.head_dim});
    for (int64_t row = 0; row < 2; ++row) chunk_means(queue_, {keys.view, s.chunk, row, 0, means.view, {}});
    const int64_t heads = s.kv_heads * s.group;
    const std::vector<float> q = random_numbers(2 * heads * s.head_dim, 2, type_);
    const std::vector<int32_t> tokens{static_cast<int32_t>(kChunks * s.chunk),
                                      static_cast<int32_t>(300 * s.chunk)};
    const std::vector<float> found = scores_of(*device_, s, means, q, {0, 1}, tokens, kChunks);
    for (int64_t i = 0; i < 2 * heads; ++i) {
      const int64_t b = i / heads, g = i % heads / s.group, sealed = tokens[at(b)] / s.chunk - 1;
      std::vector<double> expected(at(kChunks), -std::numeric_limits<double>::infinity());
      for (int64_t c = 1; c < sealed; ++c) {
        const std::vector<float> mean = means.read(b, g, c);
        expected[at(c)] = 0.25 * reference_dot(q.data() + i * s.head_dim, mean.data(), s.head_dim);
      }
      expect_near(slice(found, i * kChunks, kChunks), expected, kScores.of(type_));
    }
    const std::vector<float> alone = scores_of(
        *device_, s, means, slice(q, heads * s.head_dim, heads * s.head_dim), {1}, {tokens[1]}, kChunks);
    EXPECT_EQ(alone, slice(found, heads * kChunks, heads * kChunks));
  }
}

TEST_P(Landmarks, OutliersOfAHeadAreMaskedForItsQueryHeadsAlone) {
  ResidentView shape{
      .kv_heads = 2, .chunk = 4, .local_window = 4, .ring_tokens = 8, .head_dim = 8, .dtype = DType::f32};
  Resident resident(*device_, shape, {3, 0});
  const std::vector<int32_t> first{2, -1, 5}, second{-1, 6, 40};
  copy(*device_, resident.host.outlier_chunks(0, 0), first.data(), 12);
  copy(*device_, resident.host.outlier_chunks(0, 1), second.data(), 12);
  const Array scores = upload(*device_, std::vector<float>(2 * 4 * 8, 1.0f), {2, 4, 8});
  const Sequences sequences(*device_, {0, 1}, {40, 40});
  const Array spans = allocate(*device_, DType::f32, {2, 4, 1, 2});
  mask_outliers(queue_, {sequences.batch(), resident.view, scores.view, spans.view});
  const std::vector<float> found = download<float>(*device_, scores.view);
  for (int64_t i = 0; i < 64; ++i) {
    const int64_t h = i / 8, c = i % 8;
    const bool masked = h < 2 ? c == 2 || c == 5 : h < 4 && c == 6;
    EXPECT_EQ(found[at(i)], masked ? kNone : 1.0f) << i;
  }
  // The other sequence has none: its spans stay as they were.
  expect_near(slice(download<float>(*device_, spans.view), 0, 8), slice(reference_spans(found, 8), 0, 8),
              kSpans);
}

TEST_P(Landmarks, WrongShapesAreRefused) {
  const Shape s = kShapes[1];
  Quantized means = means_of(*device_, s, 20);
  const Array k = allocate(*device_, DType::f32, {16, 3, 64}), few = allocate(*device_, DType::f32, {3, 3});
  EXPECT_THROW(chunk_means(queue_, {k.view, 4, 0, 0, means.view, few.view}), InvalidInput);
  EXPECT_THROW(chunk_means(queue_, {k.view, 0, 0, 0, means.view, {}}), InvalidInput);
  const std::vector<float> q = random_numbers(9 * 64, 3);
  if (GetParam().name == "cpu") {  // a GPU reads lengths when it runs, and scores what there is room for
    EXPECT_THROW(scores_of(*device_, s, means, q, {0}, {80}, 18), InvalidInput) << "no room for all scores";
  }
  const Array query = upload_activation(*device_, q, {1, 9, 64}),
              scores = allocate(*device_, DType::f32, {1, 9, 20});
  const Sequences sequence(*device_, {0}, {80});
  EXPECT_THROW(
      landmark_scores(queue_, {query.view, sequence.batch(), means.view, 2, 4, 4, 1.0f, scores.view, {}}),
      InvalidInput);
}

INSTANTIATE_TEST_SUITE_P(Devices, Landmarks, kDevices, name_of_device);

}  // namespace
}  // namespace shadowkv::testing
