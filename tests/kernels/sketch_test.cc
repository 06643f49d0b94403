#include <bit>

#include "kernels/fixtures.h"
#include "kernels/kernels.h"
#include "kernels/sketch_math.h"
#include "kernels/tolerances.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

class Sketch : public ::testing::TestWithParam<TestDevice> {
 protected:
  std::unique_ptr<Device> device_ = GetParam().make();
  Queue& queue_ = device_->compute();
  DType type_ = GetParam().activations;
};

struct Shape {
  int64_t kv_heads, group, head_dim, bits, chunk, block, segment;  // block and segment in tokens
};

const Shape kShapes[] = {
    {1, 1, 8, 1, 1, 4, 8},         {3, 3, 64, 2, 4, 32, 64},     {2, 4, 24, 1, 3, 6, 12},
    {1, 7, 80, 2, 8, 16, 32},      {2, 8, 96, 1, 8, 32, 96},     {2, 4, 128, 1, 8, 64, 128},
    {1, 3, 256, 2, 16, 32, 1024},  {1, 4, 128, 2, 4, 128, 4096}, {1, 1, 40, 1, 8, 8, 8},
    {2, 4, 128, 1, 8, 512, 16384}, {1, 7, 128, 1, 4, 128, 128},  {2, 5, 256, 1, 16, 128, 256},
    {1, 17, 256, 2, 8, 256, 1024}, {1, 2, 128, 1, 2, 128, 256},  {2, 1, 96, 2, 8, 128, 256},
    {1, 7, 80, 2, 4, 256, 1024},   {3, 2, 64, 2, 16, 128, 128},  {1, 9, 64, 1, 8, 512, 512},
    {2, 3, 96, 2, 16, 512, 512},   {1, 2, 96, 1, 8, 128, 128},   {1, 1, 32, 2, 8, 128, 128},
    {1, 5, 72, 2, 8, 128, 256},
};

// Sketches of two sequences, centres by segment.
struct Stored {
  Stored(Device& d, const Shape& s, int64_t tokens)
      : device(d),
        shape(s),
        words(d, {2, s.kv_heads, tokens, s.block, sketch_token_bytes(s.head_dim, s.bits), false, false,
                  DType::u8}),
        scales(d, {2, s.kv_heads, tokens, s.block, 2, false, true, DType::bf16}),
        centre(d, {2, s.kv_heads, tokens, s.segment, s.head_dim * 4, true, false, DType::f32}) {
    for (int64_t i = 0; i < 2 * s.kv_heads; ++i) {
      for (int64_t t = 0; t < tokens; t += s.segment) {
        centre.write(i / s.kv_heads, i % s.kv_heads, t,
                     random_numbers(s.head_dim, static_cast<uint32_t>(99 + i + t), d.activation_dtype()));
      }
    }
    view = {words.view, scales.view, centre.view, s.bits};
  }

  // Encodes keys of positions first .. of one row.
  void encode(int32_t row, int32_t first, const std::vector<float>& k) {
    const auto count = static_cast<int64_t>(k.size()) / (shape.kv_heads * shape.head_dim);
    std::vector<int32_t> positions(at(count));
    std::iota(positions.begin(), positions.end(), first);
    const Sequences tokens(device, std::vector<int32_t>(at(count), row), positions);
    const Array keys = upload_activation(device, k, {count, shape.kv_heads, shape.head_dim});
    sketch_encode(device.compute(), {keys.view, tokens.token_batch(), view});
  }

  [[nodiscard]] std::vector<uint32_t> packed(int64_t row, int64_t g, int64_t token) const {
    const int64_t count = sketch_token_bytes(shape.head_dim, shape.bits) / 4;
    std::vector<uint32_t> bits(at(count));
    const bool tiled =
        device.kind() == DeviceKind::cuda && count % 2 == 0 && shape.block % kSketchTileTokens == 0;
    if (!tiled) {
      copy(device, bits.data(), words.host.at(row, g, token), count * 4);
      return bits;
    }
    const int64_t first = token / kSketchTileTokens * kSketchTileTokens;
    std::vector<uint32_t> tile(at(kSketchTileTokens * count));
    copy(device, tile.data(), words.host.at(row, g, first), static_cast<int64_t>(tile.size()) * 4);
    for (int64_t w = 0; w < count; ++w) bits[at(w)] = tile[at(sketch_tile_word(token - first, w, count))];
    return bits;
  }

  // Levels of one token's numbers, read off the bit planes.
  [[nodiscard]] std::vector<int32_t> levels(int64_t row, int64_t g, int64_t token) const {
    const std::vector<uint32_t> bits = packed(row, g, token);
    std::vector<int32_t> result;
    for (int64_t i = 0; i < shape.head_dim; ++i) {
      int32_t code = 0;
      for (int64_t p = 0; p < shape.bits; ++p) {
        const uint32_t word = bits[at(p * sketch_plane_words(shape.head_dim) + i / 32)];
        code |= static_cast<int32_t>((word >> (i % 32)) & 1u) << p;
      }
      result.push_back(2 * code - ((1 << shape.bits) - 1));
    }
    return result;
  }

  Device& device;
  Shape shape;
  Paged words, scales, centre;
  SketchView view;
};

// H S x straight from the definition: entry (i, j) of a Hadamard block is (-1)^popcount(i & j) / sqrt(size).
std::vector<double> turned(const std::vector<double>& x) {
  const auto n = static_cast<int64_t>(x.size());
  std::vector<double> y(x.size());
  for (int64_t first = 0; first < n;) {
    const int64_t size = hadamard_block(first, n);
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = 0; j < size; ++j) {
        const double entry = std::popcount(static_cast<uint64_t>(i & j)) % 2 == 0 ? 1.0 : -1.0;
        y[at(first + i)] += entry * static_cast<double>(sketch_sign(first + j)) * x[at(first + j)];
      }
      y[at(first + i)] /= std::sqrt(static_cast<double>(size));
    }
    first += size;
  }
  return y;
}

std::vector<double> difference(const float* a, const std::vector<float>& b) {
  std::vector<double> x;
  for (std::size_t i = 0; i < b.size(); ++i)
    x.push_back(static_cast<double>(a[i]) - static_cast<double>(b[i]));
  return x;
}

TEST_P(Sketch, CodesAreTheLevelsOfTheTurnedCentredKeyAndScalesMakeTheKeysOwnEstimateExact) {
  for (const Shape& s : kShapes) {
    const int64_t tokens = 2 * s.segment > 100 ? 100 : 2 * s.segment, width = s.kv_heads * s.head_dim;
    Stored stored(*device_, s, tokens);
    const std::vector<float> k = random_numbers(tokens * width, 11, type_);
    stored.encode(1, 0, k);
    for (int64_t i = 0; i < tokens * s.kv_heads; ++i) {
      const int64_t t = i / s.kv_heads, g = i % s.kv_heads;
      const std::vector<double> y =
          turned(difference(k.data() + i * s.head_dim, stored.centre.read(1, g, t, s.head_dim)));
      const std::vector<int32_t> levels = stored.levels(1, g, t);
      double squares = 0.0, along = 0.0;
      for (const double v : y) squares += v * v;
      const double inner = std::sqrt(squares / static_cast<double>(s.head_dim));
      for (int64_t d = 0; d < s.head_dim; ++d) {
        const double v = y[at(d)];
        const int32_t level = (v < 0 ? -1 : 1) * (s.bits == 2 && std::abs(v) >= inner ? 3 : 1);
        const bool close = std::abs(v) < 1e-5 || std::abs(std::abs(v) - inner) < 1e-5;  // rounding may decide
        ASSERT_TRUE(close || levels[at(d)] == level) << "number " << d << " of token " << t;
        along += v * levels[at(d)];
      }
      ASSERT_NEAR(stored.scales.read(1, g, t, 1)[0] * along, squares, 4e-3 * squares);
    }
  }
}

TEST_P(Sketch, BitsBeyondTheHeadAreZeroAndAKeyAtTheCentreHasScaleZero) {
  const Shape s{1, 1, 40, 2, 8, 8, 8};
  Stored stored(*device_, s, 8);
  std::vector<float> k = random_numbers(2 * 40, 3, type_);
  const std::vector<float> centre = stored.centre.read(0, 0, 0, 40);
  std::copy(centre.begin(), centre.end(), k.begin());
  stored.encode(0, 0, k);
  EXPECT_EQ(stored.scales.read(0, 0, 0, 1)[0], 0.0f);
  for (int64_t t = 0; t < 2; ++t) {
    const std::vector<uint32_t> bits = stored.packed(0, 0, t);
    EXPECT_EQ(bits[1] >> 8, 0u);
    EXPECT_EQ(bits[3] >> 8, 0u);
  }
}

// Scores of the open chunks of one query head from what is stored, and -infinity for the rest.
std::vector<double> expected_scores(const Stored& stored, const float* q, int64_t row, int64_t g,
                                    int64_t sealed, int64_t all, double scale) {
  const Shape& s = stored.shape;
  std::vector<double> query = turned(std::vector<double>(q, q + s.head_dim));
  double largest = 0.0;
  for (const double x : query) largest = std::max(largest, std::abs(x));
  const double delta = largest / static_cast<double>(kQueryMax);
  for (double& x : query) x = delta > 0 ? std::nearbyint(x / delta) * delta : 0.0;
  std::vector<double> scores(at(all), -std::numeric_limits<double>::infinity());
  for (int64_t c = 1; c < sealed; ++c) {
    std::vector<double> estimates;
    for (int64_t t = c * s.chunk; t < (c + 1) * s.chunk; ++t) {
      const std::vector<int32_t> levels = stored.levels(row, g, t);
      double along = 0.0;
      for (int64_t d = 0; d < s.head_dim; ++d) along += query[at(d)] * levels[at(d)];
      const std::vector<float> centre = stored.centre.read(row, g, t, s.head_dim);
      estimates.push_back(scale * (reference_dot(q, centre.data(), s.head_dim) +
                                   static_cast<double>(stored.scales.read(row, g, t, 1)[0]) * along));
    }
    scores[at(c)] = reference_log_sum_exp(estimates);
  }
  return scores;
}

std::vector<float> scores_of(Device& device, const Stored& stored, const std::vector<float>& q,
                             const std::vector<int32_t>& rows, const std::vector<int32_t>& tokens,
                             int64_t window, int64_t all) {
  const Shape& s = stored.shape;
  const auto count = static_cast<int64_t>(rows.size());
  const Array query = upload_activation(device, q, {count, s.kv_heads * s.group, s.head_dim});
  const Array scores = allocate(device, DType::f32, {count, s.kv_heads * s.group, all});
  const Array spans =
      allocate(device, DType::f32, {count, s.kv_heads * s.group, ceil_div(all, kSpanScores), 2});
  const Sequences sequences(device, rows, tokens);
  sketch_scores(device.compute(), {query.view, sequences.batch(), stored.view, s.kv_heads, s.chunk, window,
                                   0.125f, scores.view, spans.view});
  std::vector<float> found = download<float>(device, scores.view);
  expect_near(download<float>(device, spans.view), reference_spans(found, all), kSpans);
  return found;
}

void fill(Stored& stored, int64_t tokens) {
  const int64_t width = stored.shape.kv_heads * stored.shape.head_dim;
  for (int32_t row = 0; row < 2; ++row) {
    stored.encode(row, 0, random_numbers(tokens * width, static_cast<uint32_t>(row + 1)));
  }
}

TEST_P(Sketch, ScoresAreTheLogSumExpOfEachOpenChunksEstimatesAndNothingElse) {
  for (const Shape& s : kShapes) {
    const int64_t tokens = round_up(150, s.block), window = 2 * s.chunk + 1, all = tokens / s.chunk + 1;
    Stored stored(*device_, s, tokens);
    fill(stored, tokens);
    const std::vector<int32_t> lengths{static_cast<int32_t>(tokens), static_cast<int32_t>(tokens / 2 + 1)};
    const int64_t heads = s.kv_heads * s.group;
    const std::vector<float> q = random_numbers(2 * heads * s.head_dim, 21, type_);
    const std::vector<float> found = scores_of(*device_, stored, q, {1, 0}, lengths, window, all);
    for (int64_t i = 0; i < 2 * heads; ++i) {
      const int64_t b = i / heads, g = i % heads / s.group;
      const int64_t sealed = sealed_chunks(lengths[at(b)], s.chunk, window);
      expect_near(slice(found, i * all, all),
                  expected_scores(stored, q.data() + i * s.head_dim, 1 - b, g, sealed, all, 0.125),
                  kEstimates.of(type_));
    }
  }
}

TEST_P(Sketch, ScoresOfASequenceAreTheSameInAnyBatchAndWithAnyThreads) {
  for (const Shape& s : {kShapes[1], kShapes[6], kShapes[9]}) {
    constexpr int64_t kTokens = 4096;
    const int64_t all = kTokens / s.chunk, numbers = s.kv_heads * s.group * s.head_dim;
    Stored stored(*device_, s, kTokens);
    fill(stored, kTokens);
    const std::vector<float> q = random_numbers(3 * numbers, 2, type_);
    const std::vector<int32_t> rows{1, 0, 1}, tokens{3000, 4096, 1999};
    const std::vector<float> together = scores_of(*device_, stored, q, rows, tokens, 32, all);
    const auto one_thread = make_cpu_device({.threads = 1});
    for (int64_t b = 0; b < 3; ++b) {
      Device& device = GetParam().name == "cpu" && b == 1 ? *one_thread : *device_;
      const std::vector<float> alone =
          scores_of(device, stored, slice(q, b * numbers, numbers), {rows[at(b)]}, {tokens[at(b)]}, 32, all);
      EXPECT_EQ(slice(together, b * s.kv_heads * s.group * all, s.kv_heads * s.group * all), alone);
    }
  }
}

TEST_P(Sketch, AZeroQueryScoresEveryOpenChunkWithTheLogOfItsSize) {
  const Shape s = kShapes[1];
  Stored stored(*device_, s, 64);
  fill(stored, 64);
  const std::vector<float> q(at(9 * 64));
  const std::vector<float> scores = scores_of(*device_, stored, q, {0}, {64}, 0, 16);
  std::vector<double> expected(9 * 16, std::log(4.0));
  for (int64_t h = 0; h < 9; ++h) expected[at(h * 16)] = -std::numeric_limits<double>::infinity();
  expect_near(scores, expected, {1e-6, 0});
}

TEST_P(Sketch, ShortSequencesHaveNoOpenChunk) {
  const Shape s = kShapes[1];
  Stored stored(*device_, s, 64);
  for (const int32_t tokens : {1, 3, 4, 5, 39}) {
    const std::vector<float> q = random_numbers(9 * 64, 3);
    EXPECT_EQ(scores_of(*device_, stored, q, {0}, {tokens}, 32, 3), std::vector<float>(27, kNone)) << tokens;
  }
}

TEST_P(Sketch, WrongShapesAreRefused) {
  Shape s = kShapes[1];
  Stored stored(*device_, s, 64);
  const std::vector<float> q = random_numbers(9 * 64, 3);
  if (GetParam().name == "cpu") {  // a GPU reads lengths when it runs, and scores what there is room for
    EXPECT_THROW(scores_of(*device_, stored, q, {0}, {64}, 0, 15), InvalidInput) << "no room for all scores";
  }
  stored.view.bits = 3;
  EXPECT_THROW(scores_of(*device_, stored, q, {0}, {64}, 0, 16), InvalidInput);
  EXPECT_THROW(stored.encode(0, 0, random_numbers(3 * 64, 1)), InvalidInput);
  stored.view.bits = 2;
  stored.shape.chunk = 5;
  EXPECT_THROW(scores_of(*device_, stored, q, {0}, {64}, 0, 16), InvalidInput) << "a block cuts a chunk";
  const Array k = allocate(*device_, DType::f32, {2, 3, 64});
  EXPECT_THROW(sketch_encode(queue_, {k.view, {}, stored.view}), InvalidInput);
}

INSTANTIATE_TEST_SUITE_P(Devices, Sketch, kDevices, name_of_device);

}  // namespace
}  // namespace shadowkv::testing
