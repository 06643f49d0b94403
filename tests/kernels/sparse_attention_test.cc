#include "kernels/fixtures.h"
#include "kernels/kernels.h"
#include "kernels/tolerances.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

class SparseAttention : public ::testing::TestWithParam<TestDevice> {
 protected:
  std::unique_ptr<Device> device_ = GetParam().make();
  Queue& queue_ = device_->compute();
  DType type_ = GetParam().activations;
};

struct Shape {
  int64_t kv_heads, group, head_dim, chunk, window;
  DType dtype;
  [[nodiscard]] int64_t heads() const { return kv_heads * group; }
  [[nodiscard]] int64_t width() const { return kv_heads * head_dim; }
};

const Shape kShapes[] = {
    {1, 1, 8, 1, 3, DType::f32},    {3, 3, 64, 4, 16, DType::bf16},  {2, 4, 24, 3, 7, DType::f32},
    {1, 7, 80, 8, 32, DType::bf16}, {2, 8, 96, 8, 9, DType::f32},    {2, 4, 128, 16, 20, DType::bf16},
    {1, 3, 256, 4, 8, DType::f32},  {1, 20, 256, 8, 9, DType::bf16}, {2, 12, 96, 5, 11, DType::bf16},
    {3, 2, 32, 2, 8, DType::bf16},  {2, 1, 16, 1, 4, DType::bf16}};

struct Result {
  std::vector<float> out, lse;
};

// Attention of one query over some keys and values in float64.
struct Reference {
  std::vector<double> scores;
  std::vector<const float*> values;

  void add(const float* q, const float* k, const float* v, int64_t n, double scale) {
    scores.push_back(scale * reference_dot(q, k, n));
    values.push_back(v);
  }
  [[nodiscard]] double lse() const { return reference_log_sum_exp(scores); }
  [[nodiscard]] std::vector<double> out(int64_t n) const {
    std::vector<double> sum(at(n));
    const double all = lse();
    for (std::size_t i = 0; i < scores.size(); ++i) {
      for (int64_t d = 0; d < n; ++d)
        sum[at(d)] += std::exp(scores[i] - all) * static_cast<double>(values[i][d]);
    }
    return sum;
  }
};

// Two sequences' keys and values, [2][tokens, kv_heads, head_dim], and the storage they are written to.
struct Held {
  static constexpr int64_t kTokens = 150;

  Held(Device& d, const Shape& s, const std::vector<int32_t>& outliers)
      : device(d),
        shape(s),
        resident(d,
                 {.kv_heads = s.kv_heads,
                  .chunk = s.chunk,
                  .local_window = s.window,
                  .ring_tokens = s.window + s.chunk + 2,
                  .head_dim = s.head_dim,
                  .dtype = s.dtype},
                 outliers) {
    for (uint32_t row = 0; row < 2; ++row) {
      const DType type = narrower(s.dtype, d.activation_dtype());
      k[row] = random_numbers(kTokens * s.width(), 31 + row, type);
      v[row] = random_numbers(kTokens * s.width(), 41 + row, type);
    }
  }

  // Stores positions [first, last) of a row as one call.
  void store(int32_t row, int32_t first, int32_t last) {
    const int64_t count = last - first, w = shape.width();
    std::vector<int32_t> positions(at(count));
    std::iota(positions.begin(), positions.end(), first);
    const Array keys = upload_activation(device, slice(k[row], first * w, count * w),
                                         {count, shape.kv_heads, shape.head_dim});
    const Array values = upload_activation(device, slice(v[row], first * w, count * w),
                                           {count, shape.kv_heads, shape.head_dim});
    const Sequences tokens(device, std::vector<int32_t>(at(count), row), positions);
    store_resident(device.compute(), {keys.view, values.view, tokens.token_batch(), resident.view});
  }

  void store_chunks(int64_t row, const std::vector<int32_t>& ids, int64_t first_entry) {
    const Array keys = upload_activation(device, k[row], {kTokens, shape.kv_heads, shape.head_dim});
    const Array values = upload_activation(device, v[row], {kTokens, shape.kv_heads, shape.head_dim});
    const Array chunks =
        upload(device, ids, {1, shape.kv_heads, static_cast<int64_t>(ids.size()) / shape.kv_heads});
    store_outliers(device.compute(), {keys.view, values.view, chunks.view, row, first_entry, resident.view});
  }

  [[nodiscard]] Result attend(const std::vector<float>& q, const std::vector<int32_t>& rows,
                              const std::vector<int32_t>& tokens) const {
    const auto count = static_cast<int64_t>(rows.size());
    const Array query = upload_activation(device, q, {count, shape.heads(), shape.head_dim});
    const Array out = allocate(device, device.activation_dtype(), {count, shape.heads(), shape.head_dim});
    const Array lse = allocate(device, DType::f32, {count, shape.heads()});
    const Sequences sequences(device, rows, tokens);
    resident_attention(device.compute(),
                       {query.view, sequences.batch(), resident.view, 0.3f, out.view, lse.view});
    return {download_floats(device, out.view), download<float>(device, lse.view)};
  }

  // Expects attention of row `row` over exactly the positions for which wanted(kv head, position) holds.
  template <typename Wanted>
  void expect(const Result& found, int64_t b, const std::vector<float>& q, int64_t row,
              const Wanted& wanted) const {
    const int64_t n = shape.head_dim;
    for (int64_t h = 0; h < shape.heads(); ++h) {
      const int64_t g = h / shape.group, entry = b * shape.heads() + h;
      Reference reference;
      for (int64_t t = 0; t < kTokens; ++t) {
        const int64_t from = (t * shape.kv_heads + g) * n;
        if (wanted(g, t)) reference.add(q.data() + entry * n, &k[row][at(from)], &v[row][at(from)], n, 0.3);
      }
      const DType type = device.activation_dtype();
      expect_near(slice(found.out, entry * n, n), reference.out(n), kAttention.of(type));
      expect_near({found.lse[at(entry)]}, {reference.lse()}, kLogSumExp.of(type));
    }
  }

  Device& device;
  Shape shape;
  Resident resident;
  std::vector<float> k[2], v[2];
};

TEST_P(SparseAttention, ResidentTokensAreTheFirstChunkAndAllThatIsNotSealedAtEveryLength) {
  for (const Shape& s : kShapes) {
    Held held(*device_, s, {0, 0});
    const std::vector<float> q = random_numbers(s.heads() * s.head_dim, 9, type_);
    for (int32_t t = 0; t < 120; ++t) {
      held.store(1, t, t + 1);
      const int32_t tokens = t + 1;
      const int64_t sealed = sealed_chunks(tokens, s.chunk, s.window);
      const bool edge = tokens <= 2 * s.chunk || tokens % 13 == 0 || tokens % s.chunk <= 1;
      if (!edge) continue;
      held.expect(held.attend(q, {1}, {tokens}), 0, q, 1,
                  [&](int64_t, int64_t p) { return p < tokens && (p < s.chunk || p >= sealed * s.chunk); });
    }
  }
}

TEST_P(SparseAttention, OutlierChunksAreAttendedByTheirOwnHeads) {
  for (const Shape& s : kShapes) {
    Held held(*device_, s, {5, 3});
    const auto chunks = static_cast<int32_t>((100 - s.window) / s.chunk);  // sealed at 100 tokens
    const int32_t most = std::max(2, chunks - 1);
    if (most < 3) continue;
    std::vector<int32_t> ids;
    for (int64_t g = 0; g < s.kv_heads; ++g) {
      ids.push_back(1 + static_cast<int32_t>(g));
      ids.push_back(g == 1 ? -1 : most - 1);
    }
    held.store_chunks(1, ids, 1);  // entry 0 stays without a chunk
    const auto ring = static_cast<int32_t>(s.window + s.chunk);
    held.store(1, 100 - ring, 100);
    held.store(1, 0, static_cast<int32_t>(s.chunk));
    const std::vector<float> q = random_numbers(s.heads() * s.head_dim, 9, type_);
    const int64_t sealed = sealed_chunks(100, s.chunk, s.window);
    held.expect(held.attend(q, {1}, {100}), 0, q, 1, [&](int64_t g, int64_t p) {
      const auto chunk = static_cast<int32_t>(p / s.chunk);
      const bool outlier = chunk == ids[at(2 * g)] || chunk == ids[at(2 * g + 1)];
      return p < 100 && (chunk == 0 || outlier || p >= sealed * s.chunk);
    });
    std::vector<int32_t> kept(3);
    copy(*device_, kept.data(), held.resident.host.outlier_chunks(1, 0), 12);
    EXPECT_EQ(kept, (std::vector<int32_t>{-1, ids[0], ids[1]}));
  }
}

TEST_P(SparseAttention, ResidentResultsAreTheSameInAnyBatchAndWithAnyThreads) {
  for (const Shape& s : kShapes) {
    Held held(*device_, s, {1, 0});
    for (int32_t row = 0; row < 2; ++row) {
      held.store(row, 0, static_cast<int32_t>(s.chunk));
      held.store(row, 90, 90 + static_cast<int32_t>(s.window + s.chunk));
    }
    const int64_t each = s.heads() * s.head_dim;
    const std::vector<float> q = random_numbers(2 * each, 9, type_);
    const auto tokens = static_cast<int32_t>(90 + s.window + s.chunk);
    const Result together = held.attend(q, {1, 0}, {tokens, tokens});
    for (int32_t b = 0; b < 2; ++b) {
      const Result alone = held.attend(slice(q, b * each, each), {1 - b}, {tokens});
      EXPECT_EQ(alone.out, slice(together.out, b * each, each));
      EXPECT_EQ(alone.lse, slice(together.lse, b * s.heads(), s.heads()));
    }
  }
}

// Slots of two rows full of random keys and values.
struct Full {
  Full(Device& d, const Shape& s, int32_t count_)
      : device(d),
        shape(s),
        count(count_),
        slots(d, {.kv_heads = s.kv_heads, .chunk = s.chunk, .head_dim = s.head_dim, .dtype = s.dtype},
              {count, count}) {
    for (int64_t i = 0; i < 2 * s.kv_heads * count; ++i) {
      const int64_t row = i / count / s.kv_heads, g = i / count % s.kv_heads, slot = i % count;
      k.push_back(random_numbers(s.chunk * s.head_dim, static_cast<uint32_t>(i), s.dtype));
      v.push_back(random_numbers(s.chunk * s.head_dim, static_cast<uint32_t>(i + 7777), s.dtype));
      write_numbers(d, slots.host.keys(row, g, slot), s.dtype, k.back());
      write_numbers(d, slots.host.values(row, g, slot), s.dtype, v.back());
    }
  }

  // kept: attention over other tokens; empty: over none.
  [[nodiscard]] Result attend(const std::vector<float>& q, const std::vector<int32_t>& rows,
                              const std::vector<int32_t>& assigned, Result kept = {}) const {
    const auto sequences = static_cast<int64_t>(rows.size());
    const int64_t entries = static_cast<int64_t>(assigned.size()) / (sequences * shape.kv_heads);
    if (kept.lse.empty()) kept = nothing(sequences);
    const Array query = upload_activation(device, q, {sequences, shape.heads(), shape.head_dim});
    const Array ids = upload(device, assigned, {sequences, shape.kv_heads, entries});
    const Array out = upload_activation(device, kept.out, {sequences, shape.heads(), shape.head_dim});
    const Array lse = upload(device, kept.lse, {sequences, shape.heads()});
    const Sequences batch(device, rows, std::vector<int32_t>(rows.size(), 1000));
    slot_attention(device.compute(),
                   {query.view, batch.batch(), ids.view, slots.view, 0.3f, out.view, lse.view});
    return {download_floats(device, out.view), download<float>(device, lse.view)};
  }
  // Attention over no token; what it holds as numbers must not matter.
  [[nodiscard]] Result nothing(int64_t sequences) const {
    return {std::vector<float>(at(sequences * shape.heads() * shape.head_dim), std::nanf("")),
            std::vector<float>(at(sequences * shape.heads()), kNone)};
  }
  Device& device;
  Shape shape;
  int32_t count;
  Slots slots;
  std::vector<std::vector<float>> k, v;
};

TEST_P(SparseAttention, SlotAttentionIsOverTheAssignedSlotsAlone) {
  for (const Shape& s : kShapes) {
    constexpr int64_t kEntries = 40;
    Full full(*device_, s, 50);
    std::vector<int32_t> assigned;
    for (int64_t i = 0; i < 2 * s.kv_heads * kEntries; ++i) {
      assigned.push_back(i % 9 == 4 ? -1 : static_cast<int32_t>((i * 7) % 50));
    }
    const int64_t n = s.head_dim, each = s.heads() * n;
    const std::vector<float> q = random_numbers(2 * each, 12, type_);
    const Result found = full.attend(q, {1, 0}, assigned);
    for (int64_t i = 0; i < 2 * s.heads(); ++i) {
      const int64_t b = i / s.heads(), g = i % s.heads() / s.group;
      Reference reference;
      for (int64_t e = 0; e < kEntries; ++e) {
        const int32_t slot = assigned[at((b * s.kv_heads + g) * kEntries + e)];
        const int64_t entry = ((1 - b) * s.kv_heads + g) * 50 + slot;
        for (int64_t t = 0; slot >= 0 && t < s.chunk; ++t) {
          reference.add(q.data() + i * n, &full.k[at(entry)][at(t * n)], &full.v[at(entry)][at(t * n)], n,
                        0.3);
        }
      }
      expect_near(slice(found.out, i * n, n), reference.out(n), kAttention.of(type_));
      expect_near({found.lse[at(i)]}, {reference.lse()}, kLogSumExp.of(type_));
    }
    const std::vector<int32_t> second(assigned.begin() + s.kv_heads * kEntries, assigned.end());
    const Result alone = full.attend(slice(q, each, each), {0}, second);
    EXPECT_EQ(alone.out, slice(found.out, each, each));
    EXPECT_EQ(alone.lse, slice(found.lse, s.heads(), s.heads()));
  }
}

TEST_P(SparseAttention, TheSetOfSlotsDecidesNotTheirOrder) {
  for (const Shape& s : kShapes) {
    Full full(*device_, s, 40);
    const std::vector<float> q = random_numbers(s.heads() * s.head_dim, 12, type_);
    std::vector<int32_t> forward, backward;
    for (int64_t g = 0; g < s.kv_heads; ++g) {
      for (int32_t i = 0; i < 40; ++i) {
        forward.push_back(i);
        backward.push_back(39 - i);
      }
    }
    const Result one = full.attend(q, {0}, forward), other = full.attend(q, {0}, backward);
    expect_near(other.out, std::vector<double>(one.out.begin(), one.out.end()), kAttention.of(type_));
    expect_near(other.lse, std::vector<double>(one.lse.begin(), one.lse.end()), kLogSumExp.of(type_));
  }
}

TEST_P(SparseAttention, WithoutAnySlotWhatIsKeptStaysAsItIsToTheBit) {
  const Shape s = kShapes[1];
  Full full(*device_, s, 4);
  const std::vector<float> q = random_numbers(s.heads() * s.head_dim, 12, type_);
  const Result kept{random_numbers(s.heads() * s.head_dim, 1, type_), random_numbers(s.heads(), 2)};
  const Result merged = full.attend(q, {0}, std::vector<int32_t>(6, -1), kept);
  EXPECT_EQ(merged.out, kept.out);
  EXPECT_EQ(merged.lse, kept.lse);
}

TEST_P(SparseAttention, MergedPartsAreTheAttentionOverBoth) {
  for (const Shape& s : kShapes) {
    Full full(*device_, s, 12);
    const std::vector<float> q = random_numbers(s.heads() * s.head_dim, 12, type_, 2.0f);
    std::vector<int32_t> first, second, both;
    for (int64_t g = 0; g < s.kv_heads; ++g) {
      for (int32_t i = 0; i < 12; ++i) {
        (i < 5 ? first : second).push_back(i);
        both.push_back(i);
      }
    }
    const Result all = full.attend(q, {0}, both);
    const Result merged = full.attend(q, {0}, second, full.attend(q, {0}, first));
    expect_near(merged.out, std::vector<double>(all.out.begin(), all.out.end()), kMerge.of(type_));
    expect_near(merged.lse, std::vector<double>(all.lse.begin(), all.lse.end()), kLogSumExp.of(type_));
  }
}

TEST_P(SparseAttention, PartsOfVeryDifferentWeightMergeWithoutOverflow) {
  const Shape s = kShapes[3];
  Full full(*device_, s, 4);
  const std::vector<float> q = random_numbers(s.heads() * s.head_dim, 12, type_);
  const Result own = full.attend(q, {0}, {2, 0, 3});
  Result kept{random_numbers(s.heads() * s.head_dim, 1, type_), std::vector<float>(at(s.heads()), 1000.0f)};
  EXPECT_EQ(full.attend(q, {0}, {2, 0, 3}, kept).out, kept.out);
  kept.lse.assign(kept.lse.size(), -1000.0f);
  EXPECT_EQ(full.attend(q, {0}, {2, 0, 3}, kept).out, own.out);
}

TEST_P(SparseAttention, WrongShapesAreRefused) {
  const Shape s = kShapes[1];
  Held held(*device_, s, {1, 1});
  const std::vector<float> q = random_numbers(s.heads() * s.head_dim, 12, type_);
  held.shape.head_dim = 32;
  EXPECT_THROW(held.attend(random_numbers(9 * 32, 1), {0}, {50}), InvalidInput);
  held.shape = s;
  held.resident.view.ring_tokens = s.window + s.chunk - 1;
  EXPECT_THROW(held.attend(q, {0}, {50}), InvalidInput);
  held.resident.view.ring_tokens = s.window + s.chunk + 2;
  if (GetParam().name == "cpu") {  // a GPU reads ids and room when it runs, and leaves out what does not fit
    EXPECT_THROW(held.store_chunks(0, {1, 2, 3, 1, 2, 3}, 0), InvalidInput) << "two entries, room for one";
    EXPECT_THROW(held.store_chunks(0, {1, 2, 40}, 0), InvalidInput)
        << "a chunk that the prompt does not have";
  }
  Full full(*device_, s, 4);
  full.shape.head_dim = 32;
  EXPECT_THROW(full.attend(random_numbers(9 * 32, 1), {0}, std::vector<int32_t>(6, 0)), InvalidInput);
}

INSTANTIATE_TEST_SUITE_P(Devices, SparseAttention, kDevices, name_of_device);

}  // namespace
}  // namespace shadowkv::testing
