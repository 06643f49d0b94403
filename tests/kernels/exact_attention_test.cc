#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/devices.h"
#include "kernels/kernels.h"
#include "kernels/tolerances.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Heads {
  int64_t kv, group, dim;
  [[nodiscard]] int64_t query() const { return kv * group; }
};

constexpr Heads kHeads[] = {{1, 1, 8},   {2, 3, 24},  {3, 3, 64}, {1, 7, 80},  {2, 4, 96}, {1, 8, 128},
                            {1, 12, 64}, {1, 4, 256}, {2, 1, 80}, {1, 12, 80}, {1, 12, 96}};

// Attention of one query [dim] over n keys and values, `stride` numbers apart, in float64.
struct Reference {
  std::vector<double> out;
  double lse;
};

Reference attend(const float* q, const float* k, const float* v, int64_t n, int64_t stride, int64_t dim,
                 double scale) {
  std::vector<double> scores(static_cast<size_t>(n));
  double most = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < n; ++i) {
    double dot = 0;
    for (int64_t d = 0; d < dim; ++d) dot += static_cast<double>(q[d]) * k[i * stride + d];
    scores[i] = scale * dot;
    most = std::max(most, scores[i]);
  }
  double sum = 0;
  std::vector<double> out(static_cast<size_t>(dim));
  for (int64_t i = 0; i < n; ++i) {
    const double weight = std::exp(scores[i] - most);
    sum += weight;
    for (int64_t d = 0; d < dim; ++d) out[d] += weight * v[i * stride + d];
  }
  for (double& x : out) x /= sum;
  return {out, most + std::log(sum)};
}

// ---- prefill ----------------------------------------------------------------------------------------------

class PrefillAttention : public ::testing::TestWithParam<TestDevice> {};
INSTANTIATE_TEST_SUITE_P(Devices, PrefillAttention, ::testing::ValuesIn(test_devices()), name_of_device);

struct Prompt {
  Heads heads;
  int64_t tokens;
  std::vector<float> q, k, v;

  Prompt(Heads shape, int64_t count, DType dtype, float deviation = 1.0f)
      : heads(shape),
        tokens(count),
        q(random_numbers(count * shape.query() * shape.dim, 1, dtype, deviation)),
        k(random_numbers(count * shape.kv * shape.dim, 2, dtype)),
        v(random_numbers(count * shape.kv * shape.dim, 3, dtype)) {}

  // Queries [first, first + count) over the first `keys` positions.
  [[nodiscard]] std::vector<float> slice(Device& device, DType dtype, int64_t first, int64_t count,
                                         int64_t keys) const {
    const Array all_q = upload_as(device, dtype, q, {tokens, heads.query(), heads.dim});
    const Array all_k = upload_as(device, dtype, k, {tokens, heads.kv, heads.dim});
    const Array all_v = upload_as(device, dtype, v, {tokens, heads.kv, heads.dim});
    const Array out = allocate(device, dtype, {count, heads.query(), heads.dim});
    prefill_attention(device.compute(),
                      {all_q.view.rows(first, count), all_k.view.rows(0, keys), all_v.view.rows(0, keys),
                       first, 1.0f / std::sqrt(static_cast<float>(heads.dim)), out.view});
    return download_floats(device, out.view);
  }

  [[nodiscard]] std::vector<double> expected(int64_t first, int64_t count) const {
    std::vector<double> all;
    for (int64_t t = first; t < first + count; ++t) {
      for (int64_t h = 0; h < heads.query(); ++h) {
        const int64_t kv = h / heads.group * heads.dim;
        const auto one =
            attend(q.data() + (t * heads.query() + h) * heads.dim, k.data() + kv, v.data() + kv, t + 1,
                   heads.kv * heads.dim, heads.dim, 1 / std::sqrt(static_cast<double>(heads.dim)));
        all.insert(all.end(), one.out.begin(), one.out.end());
      }
    }
    return all;
  }
};

TEST_P(PrefillAttention, EqualsSoftmaxOverEarlierPositions) {
  const auto device = GetParam().make();
  const DType dtype = GetParam().activations;
  for (const Heads& heads : kHeads) {
    for (const int64_t tokens : {1, 127, 128, 129, 300}) {
      SCOPED_TRACE(::testing::Message()
                   << heads.kv << " x " << heads.group << " x " << heads.dim << ", " << tokens);
      const Prompt prompt(heads, tokens, dtype);
      expect_near(prompt.slice(*device, dtype, 0, tokens, tokens), prompt.expected(0, tokens),
                  kAttention.of(dtype));
    }
  }
}

// On a GPU enough queries and keys for the library that it may have, all at once and from the middle of the
// prompt on.
TEST_P(PrefillAttention, LongPromptsEqualSoftmaxOverEarlierPositionsInAnySlices) {
  const auto device = GetParam().make();
  const DType dtype = GetParam().activations;
  const int64_t tokens = dtype == DType::f32 ? 700 : 10000;
  for (const Heads& heads : {Heads{1, 2, 64}, {2, 1, 80}, {1, 1, 96}, {2, 2, 128}, {1, 1, 256}}) {
    SCOPED_TRACE(::testing::Message() << heads.kv << " x " << heads.group << " x " << heads.dim);
    const Prompt prompt(heads, tokens, dtype);
    const int64_t width = heads.query() * heads.dim;
    for (const int64_t first : {int64_t{0}, tokens / 4 + 1, tokens - 100}) {
      const int64_t count = tokens - first;
      const std::vector<float> out = prompt.slice(*device, dtype, first, count, tokens);
      for (const int64_t at : {int64_t{0}, count / 3, count - 1}) {
        const std::vector<float> row(out.begin() + at * width, out.begin() + (at + 1) * width);
        expect_near(row, prompt.expected(first + at, 1), kAttention.of(dtype));
      }
    }
  }
}

// Of slices in the middle, on a GPU by its own kernel, by a plan for all lengths and by one for whole slices:
// what lies behind their keys may hold anything, and what lies behind their rows stays as it was.
TEST_P(PrefillAttention, NeitherReadsNorWritesBehindASlice) {
  const auto device = GetParam().make();
  const DType dtype = GetParam().activations;
  const Heads heads{2, 2, 64};
  struct Slice {
    int64_t first, count;
  };
  const std::vector<Slice> slices = dtype == DType::f32
                                        ? std::vector<Slice>{{0, 65}, {100, 37}}
                                        : std::vector<Slice>{{10, 90}, {2000, 3001}, {4096, 4096}};
  for (const auto [first, count] : slices) {
    SCOPED_TRACE(::testing::Message() << count << " queries from " << first);
    constexpr int64_t kBehind = 200;
    const int64_t keys = first + count;
    Prompt prompt(heads, keys + kBehind, dtype);
    const std::vector<double> expected = prompt.expected(keys - 1, 1);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::fill(prompt.k.begin() + keys * heads.kv * heads.dim, prompt.k.end(), nan);
    std::fill(prompt.v.begin() + keys * heads.kv * heads.dim, prompt.v.end(), nan);
    const Array q = upload_as(*device, dtype, prompt.q, {keys + kBehind, heads.query(), heads.dim});
    const Array k = upload_as(*device, dtype, prompt.k, {keys + kBehind, heads.kv, heads.dim});
    const Array v = upload_as(*device, dtype, prompt.v, {keys + kBehind, heads.kv, heads.dim});
    const int64_t width = heads.query() * heads.dim;
    const std::vector<float> before(static_cast<size_t>((count + kBehind) * width), 7.0f);
    const Array out = upload_as(*device, dtype, before, {count + kBehind, heads.query(), heads.dim});
    prefill_attention(device->compute(), {q.view.rows(first, count), k.view.rows(0, keys),
                                          v.view.rows(0, keys), first, 0.125f, out.view.rows(0, count)});
    const std::vector<float> after = download_floats(*device, out.view);
    for (int64_t i = 0; i < count * width; ++i) ASSERT_TRUE(std::isfinite(after[i])) << i;
    for (int64_t i = count * width; i < std::ssize(after); ++i) ASSERT_EQ(after[i], 7.0f) << i;
    const auto last = after.begin() + (count - 1) * width;
    expect_near(std::vector<float>(last, last + width), expected, kAttention.of(dtype));
  }
}

TEST_P(PrefillAttention, LargeScoresStayFinite) {
  const auto device = GetParam().make();
  const DType dtype = GetParam().activations;
  const Prompt prompt({1, 2, 64}, 140, dtype, 60.0f);
  for (const float x : prompt.slice(*device, dtype, 0, 140, 140)) ASSERT_TRUE(std::isfinite(x));
}

TEST_P(PrefillAttention, QueriesThatDoNotFitTheKeysAreRefused) {
  const auto device = GetParam().make();
  const DType dtype = GetParam().activations;
  const Array q = allocate(*device, dtype, {4, 6, 8});
  const Array k = allocate(*device, dtype, {5, 2, 8});
  const Array wide = allocate(*device, dtype, {5, 4, 8});
  Queue& queue = device->compute();
  EXPECT_THAT(
      [&] {
        prefill_attention(queue, {q.view, k.view, k.view, 2, 1.0f, q.view});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("4 queries from position 2 need as many keys, found 5")));
  EXPECT_THAT(
      [&] {
        prefill_attention(queue, {q.view, wide.view, wide.view, 0, 1.0f, q.view});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("6 query heads do not share 4 KV heads")));
  EXPECT_THAT(
      [&] {
        prefill_attention(queue, {q.view, k.view, wide.view, 0, 1.0f, q.view});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("prefill_attention: v")));
}

TEST(PrefillAttentionOnCpu, SlicesThreadsAndLaterKeysChangeNoBit) {
  const Heads heads{2, 3, 24};
  const int64_t tokens = 400;
  Prompt prompt(heads, tokens, DType::f32);
  // A number no earlier query may see, not even times zero.
  prompt.v.back() = std::numeric_limits<float>::infinity();
  const auto device = make_cpu_device({.threads = 2});
  const auto whole = prompt.slice(*device, DType::f32, 0, tokens, tokens);
  const int64_t width = heads.query() * heads.dim;
  for (const int threads : {1, 3}) {
    const auto other = make_cpu_device({.threads = threads});
    for (const int64_t slice : {1, 7, 64, 129, 399}) {
      for (int64_t first = 0; first < tokens - 1; first += slice * (slice < 8 ? 13 : 1)) {
        const int64_t count = std::min(slice, tokens - 1 - first);
        const auto part = prompt.slice(*other, DType::f32, first, count, first + count);
        const std::vector<float> same(whole.begin() + first * width, whole.begin() + (first + count) * width);
        ASSERT_EQ(part, same) << count << " queries from " << first << ", " << threads << " threads";
      }
    }
  }
}

// ---- paged storage ----------------------------------------------------------------------------------------

// Blocks of one component for `rows` sequences; odd rows of blocks lie in the host tier.
class Storage {
 public:
  static constexpr int64_t kBlockTokens = 96;

  Storage(Device& device, DType dtype, int64_t rows, int64_t tokens, int64_t heads, int64_t n)
      : device_(device) {
    const int64_t blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
    const int64_t data_bytes = n * size_of(dtype);
    const int64_t head_bytes = kBlockTokens * (data_bytes + 2);
    std::vector<int64_t> addresses;
    for (int64_t i = 0; i < rows * blocks; ++i) {
      blocks_.push_back(device.allocate(i % 2 == 0 ? Tier::device : Tier::pinned_host, Purpose::keys_values,
                                        kOffset + heads * head_bytes));
      addresses.push_back(reinterpret_cast<int64_t>(blocks_.back().data()));
    }
    table_ = upload(device, addresses, {rows * blocks});
    const auto table = reinterpret_cast<std::byte* const*>(table_.buffer.data());
    view_.data = {table, blocks, 0, kBlockTokens, kOffset, head_bytes, data_bytes, dtype};
    view_.scales = {table,      blocks, 0,          kBlockTokens, kOffset + kBlockTokens * data_bytes,
                    head_bytes, 2,      DType::bf16};
  }

  [[nodiscard]] const QuantizedView& view() const { return view_; }

  // Stores x [tokens, heads, n] as one sequence row from position 0 and returns what can be read back.
  std::vector<float> fill(const Array& x, int64_t row) {
    const int64_t tokens = x.view.shape[0];
    std::vector<int32_t> rows(static_cast<size_t>(tokens), static_cast<int32_t>(row)), positions;
    for (int32_t t = 0; t < tokens; ++t) positions.push_back(t);
    const Array row_array = upload(device_, rows, {tokens});
    const Array position_array = upload(device_, positions, {tokens});
    store_rows(device_.compute(),
               {x.view, {tokens, row_array.view.as<int32_t>(), position_array.view.as<int32_t>()}, view_});
    return read(row, 0, x.view);
  }

  std::vector<float> read(int64_t row, int64_t first, const TensorView& like) {
    const Array out = allocate(device_, like.dtype, {like.shape[0], like.shape[1], like.shape[2]});
    load_rows(device_.compute(), {view_, row, first, out.view});
    return download_floats(device_, out.view);
  }

 private:
  static constexpr int64_t kOffset = 64;
  Device& device_;
  std::vector<Buffer> blocks_;
  Array table_;
  QuantizedView view_;
};

class PagedRows : public ::testing::TestWithParam<TestDevice> {};
INSTANTIATE_TEST_SUITE_P(Devices, PagedRows, ::testing::ValuesIn(test_devices()), name_of_device);

TEST_P(PagedRows, FloatsComeBackRoundedToTheirType) {
  const auto device = GetParam().make();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto numbers =
        random_numbers(200 * 2 * 24, 4, dtype == DType::bf16 ? DType::f32 : GetParam().activations);
    const Array x = upload_as(*device, GetParam().activations, numbers, {200, 2, 24});
    Storage storage(*device, dtype, 2, 200, 2, 24);
    const auto found = storage.fill(x, 1);
    for (size_t i = 0; i < found.size(); ++i) {
      ASSERT_EQ(found[i], dtype == DType::bf16 ? static_cast<float>(bf16(numbers[i])) : numbers[i]);
    }
  }
}

TEST_P(PagedRows, Int8IsWithinOneStepOfItsRowsLargestNumber) {
  const auto device = GetParam().make();
  const int64_t n = 40;
  auto numbers = random_numbers(150 * n, 5, GetParam().activations, 3.0f);
  for (int64_t i = 0; i < n; ++i) numbers[7 * n + i] = 0.0f;
  for (int64_t i = 0; i < n; ++i) numbers[8 * n + i] = 1e-39f;  // no scale is this small
  const Array x = upload_as(*device, GetParam().activations, numbers, {150, 1, n});
  Storage storage(*device, DType::i8, 1, 150, 1, n);
  const auto found = storage.fill(x, 0);
  for (int64_t t = 0; t < 150; ++t) {
    float most = 0.0f;
    for (int64_t i = 0; i < n; ++i) most = std::max(most, std::abs(numbers[t * n + i]));
    for (int64_t i = 0; i < n; ++i) {
      // Half a step of the scale, which is at most 2^-7 above max / 127, and one rounding of what is read
      // back.
      const float step = most / 127.0f * (1.0f + 1.0f / 128);
      const float rounding = GetParam().activations == DType::bf16 ? std::abs(found[t * n + i]) / 256 : 0.0f;
      ASSERT_LE(std::abs(found[t * n + i] - numbers[t * n + i]), 0.5f * step * 1.0001f + rounding + 2e-39f)
          << t << ", " << i;
    }
  }
}

TEST_P(PagedRows, AnyRangeReadsBackAlone) {
  const auto device = GetParam().make();
  const Array x = upload_as(*device, GetParam().activations, random_numbers(200 * 16, 6), {200, 1, 16});
  Storage storage(*device, DType::i8, 1, 200, 1, 16);
  const auto all = storage.fill(x, 0);
  for (const auto& [first, count] : {std::pair{0, 1}, {95, 2}, {96, 96}, {191, 9}}) {
    const auto part = storage.read(0, first, x.view.rows(0, count));
    EXPECT_EQ(part, std::vector<float>(all.begin() + first * 16, all.begin() + (first + count) * 16));
  }
}

TEST_P(PagedRows, StorageOfOtherTypesIsRefused) {
  const auto device = GetParam().make();
  const Array x = allocate(*device, GetParam().activations, {0, 1, 16});
  QuantizedView view;
  view.data.dtype = DType::f16;
  EXPECT_THAT(
      [&] {
        store_rows(device->compute(), {x.view, {}, view});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("to holds float16")));
  EXPECT_THAT(
      [&] {
        load_rows(device->compute(), {view, 0, 0, x.view});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("from holds float16")));
}

// ---- paged attention --------------------------------------------------------------------------------------

class PagedAttention : public ::testing::TestWithParam<TestDevice> {};
INSTANTIATE_TEST_SUITE_P(Devices, PagedAttention, ::testing::ValuesIn(test_devices()), name_of_device);

// A batch of sequences with their stored keys and values.
class Context {
 public:
  Context(Device& device, DType activations, DType stored, Heads heads, std::vector<int32_t> tokens)
      : device_(device),
        activations_(activations),
        heads_(heads),
        tokens_(std::move(tokens)),
        keys_(device, stored, std::ssize(tokens_), largest(), heads.kv, heads.dim),
        values_(device, stored, std::ssize(tokens_), largest(), heads.kv, heads.dim),
        q_(random_numbers(std::ssize(tokens_) * heads.query() * heads.dim, 7, activations)) {
    for (size_t b = 0; b < tokens_.size(); ++b) {
      const std::vector<int64_t> shape = {tokens_[b], heads.kv, heads.dim};
      const int64_t count = tokens_[b] * heads.kv * heads.dim;
      const uint32_t seed = 10 + 2 * static_cast<uint32_t>(b);
      k_.push_back(
          keys_.fill(upload_as(device, activations, random_numbers(count, seed), shape), std::ssize(k_)));
      v_.push_back(values_.fill(upload_as(device, activations, random_numbers(count, seed + 1), shape),
                                std::ssize(v_)));
    }
  }

  struct Result {
    std::vector<float> out, lse;
  };

  // Attention of sequences [first, first + count) in one call.
  Result run(int64_t first, int64_t count) {
    std::vector<int32_t> rows, tokens;
    for (int64_t b = first; b < first + count; ++b) {
      rows.push_back(static_cast<int32_t>(b));
      tokens.push_back(tokens_[b]);
    }
    const Array row_array = upload(device_, rows, {count});
    const Array token_array = upload(device_, tokens, {count});
    const Array q = upload_as(device_, activations_, q_, {std::ssize(tokens_), heads_.query(), heads_.dim});
    const Array out = allocate(device_, activations_, {count, heads_.query(), heads_.dim});
    const Array lse = allocate(device_, DType::f32, {count, heads_.query()});
    const DecodeBatch batch{count, row_array.view.as<int32_t>(), token_array.view.as<int32_t>(), largest()};
    paged_attention(device_.compute(), {q.view.rows(first, count), batch, keys_.view(), values_.view(),
                                        heads_.kv, static_cast<float>(scale()), out.view, lse.view});
    return {download_floats(device_, out.view), download<float>(device_, lse.view)};
  }

  [[nodiscard]] std::pair<std::vector<double>, std::vector<double>> expected() const {
    std::pair<std::vector<double>, std::vector<double>> all;
    for (size_t row = 0; row < tokens_.size() * heads_.query(); ++row) {
      const size_t b = row / heads_.query();
      const int64_t kv = static_cast<int64_t>(row) % heads_.query() / heads_.group * heads_.dim;
      const auto one = attend(q_.data() + row * heads_.dim, k_[b].data() + kv, v_[b].data() + kv, tokens_[b],
                              heads_.kv * heads_.dim, heads_.dim, scale());
      all.first.insert(all.first.end(), one.out.begin(), one.out.end());
      all.second.push_back(one.lse);
    }
    return all;
  }

 private:
  [[nodiscard]] double scale() const { return 1 / std::sqrt(static_cast<double>(heads_.dim)); }
  [[nodiscard]] int32_t largest() const { return *std::max_element(tokens_.begin(), tokens_.end()); }

  Device& device_;
  DType activations_;
  Heads heads_;
  std::vector<int32_t> tokens_;
  Storage keys_, values_;
  std::vector<float> q_;
  std::vector<std::vector<float>> k_, v_;  // as stored
};

TEST_P(PagedAttention, EqualsSoftmaxOverAllStoredTokens) {
  const auto device = GetParam().make();
  for (const DType stored : {DType::f32, DType::bf16, DType::i8}) {
    for (const Heads& heads : kHeads) {
      SCOPED_TRACE(::testing::Message() << name_of(stored) << ", " << heads.group << " x " << heads.dim);
      Context context(*device, GetParam().activations, stored, heads, {1, 64, 65, 96, 97, 1025});
      const auto found = context.run(0, 6);
      const auto [out, lse] = context.expected();
      expect_near(found.out, out, kAttention.of(GetParam().activations));
      expect_near(found.lse, lse,
                  (stored == DType::i8 ? kLogSumExpInt8 : kLogSumExp).of(GetParam().activations));
    }
  }
}

TEST_P(PagedAttention, WrongShapesAreRefusedByName) {
  const auto device = GetParam().make();
  const Array q = allocate(*device, GetParam().activations, {2, 6, 8});
  const Array lse = allocate(*device, DType::f32, {2, 5});
  const Array good_lse = allocate(*device, DType::f32, {2, 6});
  const auto call = [&](const Array& sums, int64_t kv_heads, int64_t size) {
    paged_attention(device->compute(),
                    {q.view, {size, nullptr, nullptr, 0}, {}, {}, kv_heads, 1.0f, q.view, sums.view});
  };
  EXPECT_THAT([&] { call(lse, 3, 2); }, ThrowsMessage<InvalidInput>(HasSubstr("paged_attention: lse")));
  EXPECT_THAT([&] { call(good_lse, 4, 2); },
              ThrowsMessage<InvalidInput>(HasSubstr("do not share 4 KV heads")));
  EXPECT_THAT([&] { call(good_lse, 3, 1); }, ThrowsMessage<InvalidInput>(HasSubstr("paged_attention: q")));
}

TEST(PagedAttentionOnCpu, CompanyAndThreadsChangeNoBit) {
  const Heads heads{2, 3, 24};
  const std::vector<int32_t> tokens = {1, 1024, 3000, 70, 2049};
  for (const DType stored : {DType::f32, DType::bf16, DType::i8}) {
    const auto device = make_cpu_device({.threads = 1});
    const auto whole = Context(*device, DType::f32, stored, heads, tokens).run(0, 5);
    for (const int threads : {2, 3}) {
      const auto other = make_cpu_device({.threads = threads});
      Context context(*other, DType::f32, stored, heads, tokens);
      EXPECT_EQ(context.run(0, 5).out, whole.out);
      for (int64_t b = 0; b < 5; ++b) {
        const auto alone = context.run(b, 1);
        const int64_t width = heads.query() * heads.dim;
        EXPECT_EQ(alone.out,
                  std::vector<float>(whole.out.begin() + b * width, whole.out.begin() + (b + 1) * width));
        EXPECT_EQ(alone.lse, std::vector<float>(whole.lse.begin() + b * heads.query(),
                                                whole.lse.begin() + (b + 1) * heads.query()));
      }
    }
  }
}

}  // namespace
}  // namespace shadowkv::testing
