#include "kernels/fixtures.h"
#include "kernels/kernels.h"
#include "kernels/tolerances.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

class Bounds : public ::testing::TestWithParam<TestDevice> {
 protected:
  std::unique_ptr<Device> device_ = GetParam().make();
  Queue& queue_ = device_->compute();
  DType type_ = GetParam().activations;
};

struct Shape {
  int64_t kv_heads, group, head_dim, chunk;
  DType dtype;
  int64_t block = 5;  // chunks
};

const Shape kShapes[] = {{1, 1, 8, 1, DType::f32},     {3, 3, 64, 4, DType::bf16},
                         {2, 4, 24, 3, DType::f32},    {1, 7, 80, 8, DType::bf16},
                         {2, 4, 128, 16, DType::bf16}, {1, 20, 32, 16, DType::bf16, 64},
                         {2, 3, 256, 4, DType::f32}};

Paged bounds_of(Device& device, const Shape& s, int64_t chunks) {
  const int64_t bytes = 2 * s.head_dim * size_of(s.dtype);
  return {device, {2, s.kv_heads, chunks, s.block, bytes, false, true, s.dtype}};
}

// Least, then largest numbers of keys [first, last) of KV head g, as they are stored; keys [tokens, kv_heads,
// head_dim].
std::vector<float> expected_bounds(const Shape& s, const std::vector<float>& k, int64_t g, int64_t first,
                                   int64_t last) {
  std::vector<float> bounds(at(2 * s.head_dim));
  for (int64_t d = 0; d < s.head_dim; ++d) {
    float least = -kNone, largest = kNone;
    for (int64_t t = first; t < last; ++t) {
      const float x = k[at((t * s.kv_heads + g) * s.head_dim + d)];
      least = std::min(least, x);
      largest = std::max(largest, x);
    }
    bounds[at(d)] = rounded(least, s.dtype);
    bounds[at(s.head_dim + d)] = rounded(largest, s.dtype);
  }
  return bounds;
}

TEST_P(Bounds, AreTheLeastAndLargestNumbersOfEachWholeChunk) {
  for (const Shape& s : kShapes) {
    const int64_t tokens = 11 * s.chunk + s.chunk - 1, first = 3, chunks = tokens / s.chunk;
    const Paged bounds = bounds_of(*device_, s, 20);
    const std::vector<float> k = random_numbers(tokens * s.kv_heads * s.head_dim, 7, type_);
    const Array keys = upload_activation(*device_, k, {tokens, s.kv_heads, s.head_dim});
    chunk_bounds(queue_, {keys.view, s.chunk, 1, first, bounds.view});
    for (int64_t i = 0; i < s.kv_heads * chunks; ++i) {
      const int64_t g = i / chunks, c = i % chunks;
      EXPECT_EQ(bounds.read(1, g, first + c, 2 * s.head_dim),
                expected_bounds(s, k, g, c * s.chunk, (c + 1) * s.chunk));
    }
    const std::vector<float> zeros(at(2 * s.head_dim));
    EXPECT_EQ(bounds.read(1, 0, first + chunks, 2 * s.head_dim), zeros) << "nothing behind";
    EXPECT_EQ(bounds.read(0, 0, first, 2 * s.head_dim), zeros) << "no other row";
  }
}

TEST_P(Bounds, OfTheLatestChunkAreThoseOfItsTokensSoFar) {
  for (const Shape& s : kShapes) {
    const int64_t ring = 3 * s.chunk + 5, width = s.kv_heads * s.head_dim, tokens = 4 * s.chunk + 1;
    ResidentView shape{.kv_heads = s.kv_heads,
                       .chunk = s.chunk,
                       .local_window = 2 * s.chunk,
                       .ring_tokens = ring,
                       .head_dim = s.head_dim,
                       .dtype = s.dtype};
    Resident resident(*device_, shape, {0, 2});
    const Paged bounds = bounds_of(*device_, s, 20);
    const std::vector<float> k = random_numbers(tokens * width, 5, narrower(s.dtype, type_));
    for (int32_t t = 0; t < tokens; ++t) {
      const Array key = upload_activation(*device_, slice(k, t * width, width), {1, s.kv_heads, s.head_dim});
      const Sequences token(*device_, {1}, {t}), sequence(*device_, {1}, {t + 1});
      store_resident(queue_, {key.view, key.view, token.token_batch(), resident.view});
      update_bounds(queue_, {sequence.batch(), resident.view, bounds.view});
      const int64_t chunk = t / s.chunk;
      for (int64_t g = 0; g < s.kv_heads; ++g) {
        ASSERT_EQ(bounds.read(1, g, chunk, 2 * s.head_dim), expected_bounds(s, k, g, chunk * s.chunk, t + 1));
      }
    }
  }
}

std::vector<float> scores_of(Device& device, const Shape& s, const Paged& bounds, const std::vector<float>& q,
                             const std::vector<int32_t>& rows, const std::vector<int32_t>& tokens,
                             int64_t all) {
  const auto count = static_cast<int64_t>(rows.size());
  const Array query = upload_activation(device, q, {count, s.kv_heads * s.group, s.head_dim});
  const Array scores = allocate(device, DType::f32, {count, s.kv_heads * s.group, all});
  const Array spans =
      allocate(device, DType::f32, {count, s.kv_heads * s.group, ceil_div(all, kSpanScores), 2});
  const Sequences sequences(device, rows, tokens);
  bound_scores(device.compute(), {query.view, sequences.batch(), bounds.view, s.kv_heads, s.chunk, s.chunk,
                                  0.25f, scores.view, spans.view});
  std::vector<float> found = download<float>(device, scores.view);
  expect_near(download<float>(device, spans.view), reference_spans(found, all), kSpans);
  return found;
}

// Of query head h against the bounds of a chunk, as Quest writes it.
double expected_score(const float* q, const std::vector<float>& bounds, int64_t n) {
  double sum = 0.0;
  for (int64_t d = 0; d < n; ++d) {
    sum += std::max(double{q[d]} * double{bounds[at(d)]}, double{q[d]} * double{bounds[at(n + d)]});
  }
  return 0.25 * sum;
}

TEST_P(Bounds, ScoresAreTheMostThatAKeyOfAnOpenChunkCanHaveInAnyBatch) {
  constexpr int64_t kChunks = 300;
  for (const Shape& s : kShapes) {
    const Paged bounds = bounds_of(*device_, s, kChunks);
    const DType stored = narrower(s.dtype, type_);  // so that bounds are not rounded
    const std::vector<float> k = random_numbers(kChunks * s.chunk * s.kv_heads * s.head_dim, 9, stored);
    const Array keys = upload_activation(*device_, k, {kChunks * s.chunk, s.kv_heads, s.head_dim});
    for (int64_t row = 0; row < 2; ++row) chunk_bounds(queue_, {keys.view, s.chunk, row, 0, bounds.view});
    const int64_t heads = s.kv_heads * s.group;
    const std::vector<float> q = random_numbers(2 * heads * s.head_dim, 2, type_);
    const std::vector<int32_t> tokens{static_cast<int32_t>(kChunks * s.chunk),
                                      static_cast<int32_t>(170 * s.chunk)};
    const std::vector<float> found = scores_of(*device_, s, bounds, q, {0, 1}, tokens, kChunks);
    for (int64_t i = 0; i < 2 * heads; ++i) {
      const int64_t b = i / heads, g = i % heads / s.group, sealed = tokens[at(b)] / s.chunk - 1;
      const float* query = q.data() + i * s.head_dim;
      std::vector<double> expected(at(kChunks), -std::numeric_limits<double>::infinity());
      for (int64_t c = 1; c < sealed; ++c) {
        expected[at(c)] = expected_score(query, bounds.read(b, g, c, 2 * s.head_dim), s.head_dim);
        for (int64_t t = c * s.chunk; t < (c + 1) * s.chunk; ++t) {
          const float* key = k.data() + (t * s.kv_heads + g) * s.head_dim;
          ASSERT_LE(0.25 * reference_dot(query, key, s.head_dim), expected[at(c)] + 1e-6);
        }
      }
      expect_near(slice(found, i * kChunks, kChunks), expected, kScores.of(type_));
    }
    const std::vector<float> alone = scores_of(
        *device_, s, bounds, slice(q, heads * s.head_dim, heads * s.head_dim), {1}, {tokens[1]}, kChunks);
    EXPECT_EQ(alone, slice(found, heads * kChunks, heads * kChunks));
  }
}

TEST_P(Bounds, ListedChunksKeysAreCopiedAndOthersLeftAlone) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    constexpr int64_t kHeads = 2, kDim = 24, kChunk = 3, kTokens = 31, kCandidates = 5;
    const int64_t bytes = kDim * size_of(dtype);
    Paged keys(*device_, {2, kHeads, kTokens, 7, bytes, false, true, dtype});
    const std::vector<float> k = random_numbers(2 * kHeads * kTokens * kDim, 4, dtype);
    for (int64_t i = 0; i < 2 * kHeads * kTokens; ++i) {
      keys.write(i / kTokens / kHeads, i / kTokens % kHeads, i % kTokens, slice(k, i * kDim, kDim));
    }
    const std::vector<int32_t> chunks{1, 4, 9, -1, -1, 2, 3, 5, 8, 9, 0, 7, 8, 9, -1, 6, -1, -1, -1, -1};
    std::vector<int32_t> slots(chunks.size(), -1);
    slots[1] = slots[6] = slots[15] = 2;
    const Array missing =
        upload(*device_, list_missing(chunks, slots, kCandidates), {2, kHeads, kCandidates, 2});
    const std::vector<float> before(at(2 * kHeads * kCandidates * kChunk * kDim), 7.0f);
    const Array out = upload_as(*device_, dtype, before, {2, kHeads, kCandidates, kChunk * kDim});
    const Sequences sequences(*device_, {1, 0}, {31, 31});
    gather_keys(queue_, {sequences.batch(), missing.view, keys.view, out.view, kChunk, kDim});
    const std::vector<float> found = download_floats(*device_, out.view);
    for (int64_t i = 0; i < 2 * kHeads * kCandidates; ++i) {
      const int64_t row = 1 - i / kCandidates / kHeads, g = i / kCandidates % kHeads;
      const bool listed = chunks[at(i)] >= 0 && slots[at(i)] < 0;
      const int64_t first = ((row * kHeads + g) * kTokens + chunks[at(i)] * kChunk) * kDim;
      EXPECT_EQ(slice(found, i * kChunk * kDim, kChunk * kDim),
                slice(listed ? k : before, listed ? first : 0, kChunk * kDim))
          << i;
    }
  }
}

TEST_P(Bounds, WrongShapesAreRefused) {
  const Shape s = kShapes[1];
  const Paged bounds = bounds_of(*device_, s, 20);
  PagedView codes = bounds.view;
  codes.dtype = DType::i8;
  const Array k = allocate(*device_, DType::f32, {16, 3, 64});
  EXPECT_THROW(chunk_bounds(queue_, {k.view, 0, 0, 0, bounds.view}), InvalidInput);
  EXPECT_THROW(chunk_bounds(queue_, {k.view, 4, 0, 0, codes}), InvalidInput);
  const Array query = upload_activation(*device_, random_numbers(9 * 64, 3), {1, 9, 64}),
              scores = allocate(*device_, DType::f32, {1, 9, 20});
  const Sequences sequence(*device_, {0}, {80});
  EXPECT_THROW(
      bound_scores(queue_, {query.view, sequence.batch(), bounds.view, 2, 4, 4, 1.0f, scores.view, {}}),
      InvalidInput);
  const Array missing = allocate(*device_, DType::i32, {1, 3, 2, 2}),
              out = allocate(*device_, DType::f32, {1, 3, 2, 4 * 64});
  EXPECT_THROW(gather_keys(queue_, {sequence.batch(), missing.view, bounds.view, out.view, 4, 64}),
               InvalidInput)
      << "keys of another type than out";
}

INSTANTIATE_TEST_SUITE_P(Devices, Bounds, kDevices, name_of_device);

}  // namespace
}  // namespace shadowkv::testing
