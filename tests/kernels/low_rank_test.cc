#include <Eigen/Dense>

#include "kernels/fixtures.h"
#include "kernels/kernels.h"
#include "kernels/tolerances.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

class LowRank : public ::testing::TestWithParam<TestDevice> {
 protected:
  std::unique_ptr<Device> device_ = GetParam().make();
  Queue& queue_ = device_->compute();
};

// Keys with a mean, whose energy falls with the column c as (1 + c)^-power.
std::vector<float> keys_of(int64_t tokens, int64_t width, uint32_t seed, float power = 1.0f) {
  std::vector<float> x = random_numbers(tokens * width, seed);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < width; ++c) {
      float& number = x[at(t * width + c)];
      const float size = std::pow(1.0f + static_cast<float>(c), -0.5f * power);
      number = number * size + 0.1f * static_cast<float>(c % 7);
    }
  }
  return x;
}

std::vector<float> mean_of(Device& device, const std::vector<float>& x, int64_t tokens, int64_t width) {
  const Array keys = upload(device, x, {tokens, width}), mean = allocate(device, DType::f32, {width});
  column_mean(device.compute(), {keys.view, mean.view});
  return download<float>(device, mean.view);
}

std::vector<float> basis_of(Device& device, const std::vector<float>& x, int64_t tokens, int64_t width,
                            int64_t rank, DType dtype = DType::f32) {
  const Array keys = upload(device, x, {tokens, width});
  const Array mean = upload(device, mean_of(device, x, tokens, width), {width});
  const Array basis = allocate(device, dtype, {rank, width});
  fit_basis(device.compute(), {keys.view, mean.view, basis.view});
  return download_floats(device, basis.view);
}

Eigen::MatrixXd centred(const std::vector<float>& x, int64_t tokens, int64_t width) {
  Eigen::MatrixXd m(tokens, width);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < width; ++c) m(t, c) = static_cast<double>(x[at(t * width + c)]);
  }
  return m.rowwise() - m.colwise().mean();
}

TEST_P(LowRank, ColumnMeanIsTheAverageOfEveryColumn) {
  for (const int64_t width : {1, 24, 64, 200}) {
    for (const int64_t tokens : {1, 63, 700}) {
      const std::vector<float> x = keys_of(tokens, width, 3);
      std::vector<double> expected(at(width));
      for (int64_t i = 0; i < tokens * width; ++i) {
        expected[at(i % width)] += static_cast<double>(x[at(i)]) / static_cast<double>(tokens);
      }
      expect_near(mean_of(*device_, x, tokens, width), expected, {1e-6, 1e-6});
    }
  }
}

// The CPU's are the exact ones; a GPU's may miss half a percent of the energy. Keys on a GPU are rounded,
// which is no error of the basis.
TEST_P(LowRank, BasisRowsAreOrthonormalAndHoldTheEnergyThatTheExactDecompositionHolds) {
  struct Case {
    int64_t tokens, width, rank;
    float power = 1.0f;
  };
  const bool exact = GetParam().activations == DType::f32;
  for (const Case& c :
       {Case{300, 64, 20}, Case{513, 192, 96}, Case{1, 24, 3}, Case{10, 80, 40}, Case{64, 65, 65},
        Case{700, 384, 160}, Case{700, 384, 160, 2.0f}, Case{500, 320, 96, 5.0f}}) {
    std::vector<float> x = keys_of(c.tokens, c.width, 5, c.power);
    for (float& number : x) number = rounded(number, GetParam().activations);
    const std::vector<float> rows = basis_of(*device_, x, c.tokens, c.width, c.rank);
    Eigen::MatrixXd basis(c.rank, c.width);
    for (int64_t i = 0; i < c.rank * c.width; ++i) {
      basis(i / c.width, i % c.width) = static_cast<double>(rows[at(i)]);
    }
    const Eigen::MatrixXd gram = basis * basis.transpose();
    EXPECT_LT((gram - Eigen::MatrixXd::Identity(c.rank, c.rank)).cwiseAbs().maxCoeff(), 1e-5);
    const Eigen::MatrixXd keys = centred(x, c.tokens, c.width);
    const Eigen::VectorXd singular = Eigen::JacobiSVD<Eigen::MatrixXd>(keys).singularValues();
    const double best = singular.head(std::min<int64_t>(c.rank, singular.size())).squaredNorm();
    const double held = (keys * basis.transpose()).squaredNorm();
    EXPECT_NEAR(held, best, (exact ? 1e-4 : 5e-3) * best + 1e-9)
        << c.tokens << " x " << c.width << " at rank " << c.rank;
    if (!exact) continue;
    const Eigen::VectorXd energy = (keys * basis.transpose()).colwise().squaredNorm();
    for (int64_t r = 1; r < c.rank; ++r) EXPECT_LE(energy(r), energy(r - 1) * 1.0001 + 1e-6 * best);
  }
}

TEST_P(LowRank, ABasisInBfloat16IsTheOneInFloat32Rounded) {
  const std::vector<float> x = keys_of(200, 72, 9);
  std::vector<float> rows = basis_of(*device_, x, 200, 72, 30);
  for (float& number : rows) number = rounded(number, DType::bf16);
  EXPECT_EQ(basis_of(*device_, x, 200, 72, 30, DType::bf16), rows);
}

// Keys of steep spectra too, whose rows a power step would make all alike.
TEST_P(LowRank, AtFullRankABasisInBfloat16LosesNoMoreThanItsRounding) {
  constexpr int64_t kTokens = 300, kWidth = 96;
  constexpr double kRoundedBasis = 4e-3;  // of numbers with 8 bits
  for (const float power : {1.0f, 5.0f}) {
    std::vector<float> x = keys_of(kTokens, kWidth, 5, power);
    for (float& number : x) number = rounded(number, GetParam().activations);
    const std::vector<float> rows = basis_of(*device_, x, kTokens, kWidth, kWidth, DType::bf16);
    Eigen::MatrixXd basis(kWidth, kWidth);
    for (int64_t i = 0; i < kWidth * kWidth; ++i) {
      basis(i / kWidth, i % kWidth) = static_cast<double>(rows[at(i)]);
    }
    const Eigen::MatrixXd keys = centred(x, kTokens, kWidth);
    EXPECT_LT((keys * basis.transpose() * basis - keys).norm(), kRoundedBasis * keys.norm());
    if (GetParam().name == "cuda") {
      EXPECT_EQ(basis, Eigen::MatrixXd::Identity(kWidth, kWidth));
    }
  }
}

TEST_P(LowRank, BasisDoesNotDependOnTheNumberOfThreads) {
  if (GetParam().name != "cpu") GTEST_SKIP() << "host threads";
  const std::vector<float> x = keys_of(900, 192, 8);
  const auto one = make_cpu_device({.threads = 1}), three = make_cpu_device({.threads = 3});
  EXPECT_EQ(basis_of(*one, x, 900, 192, 60), basis_of(*three, x, 900, 192, 60));
}

TEST_P(LowRank, KeysThatAreNotFiniteAreRefused) {
  std::vector<float> x = keys_of(20, 16, 8);
  x[33] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(basis_of(*device_, x, 20, 16, 4), InvalidInput);
}

struct Shape {
  int64_t kv_heads, head_dim, rank, chunk, segment;  // segment in tokens
  DType factors, out;
  int64_t rotary_dim;
  bool interleaved;
  DType basis = DType::f32;
};

// Two sequences over several segments, each with a mean and a basis of its own.
struct Factored {
  Factored(Device& device, const Shape& s, int64_t tokens)
      : shape(s),
        width(s.kv_heads * s.head_dim),
        mean(device, {2, 1, tokens, s.segment, width * 4, true, false, DType::f32}),
        basis(device, {2, 1, tokens, s.segment, s.rank * width * size_of(s.basis), true, false, s.basis}),
        factors(device, {2, 1, tokens, s.chunk * 4, 0, false, false, s.factors}, s.rank) {
    std::vector<float> numbers;
    for (int64_t i = 0; i < s.rotary_dim / 2; ++i) {
      numbers.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(s.rotary_dim)));
    }
    inv_freq = upload(device, numbers, {s.rotary_dim / 2});
    rope = {inv_freq.view.as<float>(), s.rotary_dim, s.interleaved};
    for (int64_t row = 0; row < 2; ++row) {
      for (int64_t t = 0; t < tokens; t += s.segment) {
        const auto seed = static_cast<uint32_t>(100 * row + t);
        mean.write(row, 0, t, random_numbers(width, seed + 1));
        basis.write(row, 0, t, random_numbers(s.rank * width, seed + 2, DType::f32, 0.2f));
      }
    }
  }

  [[nodiscard]] std::vector<double> expected_factors(const float* x, int64_t row, int64_t position) const {
    const std::vector<float> m = mean.read(row, 0, position, width);
    const std::vector<float> b = basis.read(row, 0, position, shape.rank * width);
    std::vector<double> a(at(shape.rank));
    for (int64_t r = 0; r < shape.rank; ++r) {
      for (int64_t c = 0; c < width; ++c) {
        a[at(r)] += (static_cast<double>(x[c]) - static_cast<double>(m[at(c)])) *
                    static_cast<double>(b[at(r * width + c)]);
      }
    }
    return a;
  }

  // Key of KV head g, turned.
  [[nodiscard]] std::vector<double> expected_key(int64_t row, int64_t g, int64_t position,
                                                 const std::vector<float>& frequencies) const {
    const std::vector<float> m = mean.read(row, 0, position, width), a = factors.read(row, 0, position);
    const std::vector<float> b = basis.read(row, 0, position, shape.rank * width);
    std::vector<double> key(at(shape.head_dim));
    for (int64_t d = 0; d < shape.head_dim; ++d) {
      const int64_t c = g * shape.head_dim + d;
      key[at(d)] = static_cast<double>(m[at(c)]);
      for (int64_t r = 0; r < shape.rank; ++r) {
        key[at(d)] += static_cast<double>(a[at(r)]) * static_cast<double>(b[at(r * width + c)]);
      }
    }
    for (int64_t i = 0; i < shape.rotary_dim / 2; ++i) {
      const int64_t first = shape.interleaved ? 2 * i : i;
      const int64_t second = shape.interleaved ? 2 * i + 1 : i + shape.rotary_dim / 2;
      const double angle = static_cast<double>(position) * static_cast<double>(frequencies[at(i)]);
      const double p = key[at(first)], q = key[at(second)];
      key[at(first)] = p * std::cos(angle) - q * std::sin(angle);
      key[at(second)] = q * std::cos(angle) + p * std::sin(angle);
    }
    return key;
  }

  Shape shape;
  int64_t width;
  Paged mean, basis;
  Quantized factors;
  Array inv_freq;
  RopeView rope;
};

const Shape kShapes[] = {
    {1, 8, 5, 1, 4, DType::f32, DType::f32, 8, false},
    {3, 64, 96, 4, 16, DType::i8, DType::f32, 64, false},
    {2, 24, 48, 3, 12, DType::bf16, DType::bf16, 24, true},
    {2, 80, 33, 8, 16, DType::i8, DType::bf16, 20, false},
    {1, 128, 128, 16, 32, DType::f32, DType::bf16, 128, false},
    {8, 128, 160, 8, 64, DType::i8, DType::bf16, 128, false},
    {2, 256, 272, 4, 40, DType::bf16, DType::bf16, 64, true},
    {3, 96, 32, 6, 15, DType::i8, DType::bf16, 96, false},
    {8, 128, 160, 8, 64, DType::i8, DType::bf16, 128, false, DType::bf16},
    {2, 128, 40, 4, 36, DType::bf16, DType::bf16, 128, true, DType::bf16},
    {3, 96, 64, 12, 48, DType::i8, DType::bf16, 96, false, DType::bf16},
    {2, 256, 320, 16, 48, DType::i8, DType::bf16, 256, true, DType::bf16},
    {2, 80, 24, 8, 40, DType::f32, DType::bf16, 80, true, DType::bf16},
    {1, 64, 48, 2, 26, DType::i8, DType::f32, 32, false, DType::bf16},
    {3, 8, 7, 5, 15, DType::i8, DType::f32, 8, false, DType::bf16},
};

void project(Device& device, Factored& f, const std::vector<float>& x, const std::vector<int32_t>& rows,
             const std::vector<int32_t>& positions, DType dtype = DType::f32) {
  const auto count = static_cast<int64_t>(rows.size());
  const Array keys = upload_as(device, dtype, x, {count, f.shape.kv_heads, f.shape.head_dim});
  const Sequences tokens(device, rows, positions);
  project_keys(device.compute(),
               {keys.view, tokens.token_batch(), f.mean.view, f.basis.view, f.shape.rank, f.factors.view});
}

TEST_P(LowRank, FactorsAreTheCentredKeysInTheBasisOfTheirOwnSegment) {
  for (const Shape& s : kShapes) {
    Factored f(*device_, s, 4 * s.segment);
    std::vector<int32_t> rows, positions;
    for (int64_t i = 0; i < 2 * s.segment + 1; ++i) {
      rows.push_back(static_cast<int32_t>(i % 5 == 0 ? 1 : 0));
      positions.push_back(static_cast<int32_t>(s.segment - 2 + i));
    }
    const auto count = static_cast<int64_t>(rows.size());
    const std::vector<float> x = random_numbers(count * f.width, 4);
    project(*device_, f, x, rows, positions);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t row = rows[at(t)], position = positions[at(t)];
      const double step =
          s.factors == DType::i8 ? static_cast<double>(f.factors.scale(row, 0, position)) : 0.0;
      const double relative = s.factors == DType::bf16 ? 4e-3 : 1e-5;
      expect_near(f.factors.read(row, 0, position), f.expected_factors(x.data() + t * f.width, row, position),
                  {1e-4 + 0.51 * step, relative});
    }
  }
}

// As a prompt brings them: in the type of activations, more than a segment of them, from within one.
TEST_P(LowRank, FactorsOfAPromptAreTheCentredKeysInTheBasisOfTheirOwnSegment) {
  const DType dtype = GetParam().activations;
  for (const Shape& s : {Shape{8, 128, 160, 8, 200, DType::f32, DType::f32, 128, false, dtype},
                         Shape{2, 80, 75, 8, 96, DType::f32, DType::f32, 80, false, dtype},
                         Shape{1, 24, 5, 4, 128, DType::f32, DType::f32, 24, false, dtype}}) {
    constexpr int64_t kTokens = 401;
    Factored f(*device_, s, 5 * s.segment);
    const std::vector<float> x = random_numbers(kTokens * f.width, 4, dtype);
    std::vector<int32_t> positions(at(kTokens));
    std::iota(positions.begin(), positions.end(), 61);
    project(*device_, f, x, std::vector<int32_t>(at(kTokens), 1), positions, dtype);
    for (int64_t t = 0; t < kTokens; ++t) {
      expect_near(f.factors.read(1, 0, 61 + t), f.expected_factors(x.data() + t * f.width, 1, 61 + t),
                  {3e-4, 1e-5});
    }
  }
}

TEST_P(LowRank, ATokensFactorsDoNotDependOnTheOtherTokensOfTheCall) {
  const Shape s = kShapes[1];
  Factored together(*device_, s, 40), alone(*device_, s, 40);
  const std::vector<float> x = random_numbers(21 * together.width, 4);
  std::vector<int32_t> positions(21);
  std::iota(positions.begin(), positions.end(), 9);
  project(*device_, together, x, std::vector<int32_t>(21, 1), positions);
  for (int64_t t = 0; t < 21; ++t) {
    project(*device_, alone, slice(x, t * alone.width, alone.width), {1}, {positions[at(t)]});
    EXPECT_EQ(together.factors.read(1, 0, positions[at(t)]), alone.factors.read(1, 0, positions[at(t)]));
  }
}

// Fills both rows' factors of `f` with projections of random keys.
void fill(Device& device, Factored& f, int64_t tokens) {
  for (int32_t row = 0; row < 2; ++row) {
    std::vector<int32_t> positions(at(tokens));
    std::iota(positions.begin(), positions.end(), 0);
    project(device, f, random_numbers(tokens * f.width, static_cast<uint32_t>(row)),
            std::vector<int32_t>(at(tokens), row), positions);
  }
}

RebuildKeysParams rebuild(const Factored& f, const Sequences& sequences, const Array& missing,
                          const Array& out) {
  return {sequences.batch(), missing.view, f.factors.view, f.mean.view,   f.basis.view,
          f.shape.rank,      f.rope,       out.view,       f.shape.chunk, f.shape.head_dim};
}

// The list of missing candidates [B, G, M, 2] in order of chunks.
Array upload_missing(Device& device, const std::vector<int32_t>& chunks, const std::vector<int32_t>& slots,
                     std::vector<int64_t> shape) {
  struct Entry {
    int32_t candidate, chunk;
  };
  std::vector<int32_t> missing = list_missing(chunks, slots, shape[2]);
  for (std::size_t row = 0; row < missing.size(); row += at(2 * shape[2])) {
    auto* first = reinterpret_cast<Entry*>(missing.data() + row);
    auto* end = std::find_if(first, first + shape[2], [](const Entry& e) { return e.candidate < 0; });
    std::stable_sort(first, end, [](const Entry& a, const Entry& b) { return a.chunk < b.chunk; });
  }
  shape.push_back(2);
  return upload(device, missing, shape);
}

// Rebuilt keys of sequences of rows 1 and 0, of which row r turns by frequencies[r].
void check_rebuilt(Device& device, const Factored& f, const std::vector<float> (&frequencies)[2],
                   DType activations) {
  const Shape& s = f.shape;
  const int64_t tokens = 3 * s.segment, slot_bytes = s.chunk * s.head_dim;
  const int64_t chunks = tokens / s.chunk, candidates = 5;
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < 2 * s.kv_heads * candidates; ++i) {
    ids.push_back(i % 7 == 3 ? -1 : static_cast<int32_t>((i * 5 + 1) % chunks));
  }
  const Sequences sequences(device, {1, 0}, {static_cast<int32_t>(tokens), static_cast<int32_t>(tokens)});
  const Array chosen = upload_missing(device, ids, {}, {2, s.kv_heads, candidates});
  const Array out = allocate(device, s.out, {2, s.kv_heads, candidates, slot_bytes});
  rebuild_keys(device.compute(), rebuild(f, sequences, chosen, out));
  for (int64_t i = 0; i < static_cast<int64_t>(ids.size()); ++i) {
    const int64_t b = i / candidates / s.kv_heads, g = i / candidates % s.kv_heads;
    for (int64_t t = 0; t < s.chunk && ids[at(i)] >= 0; ++t) {
      const std::byte* from = out.view.data + (i * slot_bytes + t * s.head_dim) * size_of(s.out);
      Tolerance tolerance = kRebuild.of(activations);
      if (s.out == DType::bf16) tolerance.relative = std::max(tolerance.relative, 4e-3);
      expect_near(read_numbers(device, from, s.out, s.head_dim),
                  f.expected_key(1 - b, g, ids[at(i)] * s.chunk + t, frequencies[1 - b]), tolerance);
    }
  }
}

TEST_P(LowRank, RebuiltKeysAreMeanPlusFactorsTimesBasisTurnedByTheirPosition) {
  for (const Shape& s : kShapes) {
    Factored f(*device_, s, 3 * s.segment);
    fill(*device_, f, 3 * s.segment);
    const std::vector<float> frequencies = download<float>(*device_, f.inv_freq.view);
    check_rebuilt(*device_, f, {frequencies, frequencies}, GetParam().activations);
  }
}

TEST_P(LowRank, RebuiltKeysTurnByTheTableOfTheirRow) {
  for (const Shape& s : kShapes) {
    Factored f(*device_, s, 3 * s.segment);
    fill(*device_, f, 3 * s.segment);
    const std::vector<float> first = download<float>(*device_, f.inv_freq.view);
    std::vector<float> second;
    for (const float frequency : first) second.push_back(0.7f * frequency);
    std::vector<float> both = first;
    both.insert(both.end(), second.begin(), second.end());
    const Array tables = upload(*device_, both, {2, std::ssize(first)});
    const Array by_row = upload(*device_, std::vector<int32_t>{1, 0}, {2});
    f.rope.inv_freq = tables.view.as<float>();
    f.rope.by_row = by_row.view.as<int32_t>();
    check_rebuilt(*device_, f, {second, first}, GetParam().activations);
  }
}

TEST_P(LowRank, RebuildingLeavesAloneWhatIsSkippedAndEveryChunkIsTheSameAlone) {
  const Shape s = kShapes[2];
  Factored f(*device_, s, 36);
  fill(*device_, f, 36);
  const Sequences sequences(*device_, {0}, {36});
  const std::vector<int32_t> ids{1, -1, 7, 9, 2, 3, 4, 5}, slots{-1, -1, 6, -1, -1, 0, -1, -1};
  const int64_t numbers = s.chunk * s.head_dim;
  const auto run = [&](const std::vector<int32_t>& wanted) {
    const Array missing = upload_missing(*device_, wanted, slots, {1, 2, 4});
    const Array out =
        upload_as(*device_, s.out, std::vector<float>(at(8 * numbers), 42.0f), {1, 2, 4, numbers});
    rebuild_keys(queue_, rebuild(f, sequences, missing, out));
    return download_floats(*device_, out.view);
  };
  const std::vector<float> together = run(ids);
  for (int64_t i = 0; i < 8; ++i) {
    std::vector<int32_t> only(8, -1);
    only[at(i)] = ids[at(i)];
    const std::vector<float> alone = run(only);
    EXPECT_EQ(slice(together, i * numbers, numbers), slice(alone, i * numbers, numbers));
    const bool skipped = ids[at(i)] < 0 || slots[at(i)] >= 0;
    EXPECT_EQ(alone[at(i * numbers)] == 42.0f && alone[at((i + 1) * numbers - 1)] == 42.0f, skipped);
  }
}

// Every sequence's missing chunks are unevenly spread: most lie in the second of three segments.
TEST_P(LowRank, ManyChunksOfFewSegmentsAreEachTheSameAlone) {
  for (Shape s : {Shape{2, 128, 160, 8, 512, DType::i8, DType::bf16, 128, false, DType::bf16},
                  Shape{2, 64, 80, 4, 512, DType::bf16, DType::bf16, 64, true, DType::bf16},
                  Shape{1, 256, 208, 16, 1024, DType::i8, DType::bf16, 128, false, DType::bf16}}) {
    const int64_t tokens = 3 * s.segment, chunks = s.segment / s.chunk, candidates = chunks + 3;
    Factored f(*device_, s, tokens);
    fill(*device_, f, tokens);
    const Sequences sequences(*device_, {0}, {static_cast<int32_t>(tokens)});
    std::vector<int32_t> ids, slots;
    for (int64_t i = 0; i < s.kv_heads * candidates; ++i) {
      const int64_t nth = i % candidates;
      ids.push_back(static_cast<int32_t>(nth < chunks ? chunks + nth * 5 % chunks : (nth - chunks) * 2));
      slots.push_back(i % 5 == 2 ? 1 : -1);
    }
    const int64_t numbers = s.chunk * s.head_dim;
    const auto run = [&](const std::vector<int32_t>& wanted) {
      const Array missing = upload_missing(*device_, wanted, slots, {1, s.kv_heads, candidates});
      const Array out = upload_as(*device_, s.out, std::vector<float>(at(s.kv_heads * candidates * numbers)),
                                  {1, s.kv_heads, candidates, numbers});
      rebuild_keys(queue_, rebuild(f, sequences, missing, out));
      return download_floats(*device_, out.view);
    };
    const std::vector<float> together = run(ids);
    for (int64_t i = 0; i < s.kv_heads * candidates; i += 7) {
      std::vector<int32_t> only(ids.size(), -1);
      only[at(i)] = ids[at(i)];
      const std::vector<float> alone = slice(run(only), i * numbers, numbers);
      EXPECT_EQ(slice(together, i * numbers, numbers), alone);
      EXPECT_EQ(alone == std::vector<float>(at(numbers)), slots[at(i)] >= 0);
    }
  }
}

// Candidates of two sequences of which some are absent, some lie in slots, and the rest are to be rebuilt.
struct Reranked {
  static constexpr int64_t kCount = 45, kSlots = 7;  // the last slot is nobody's

  Reranked(Device& d, const Shape& s, int64_t group_)
      : device(d),
        factored(d, s, 3 * s.segment),
        heads(s.kv_heads),
        group(group_),
        numbers(s.chunk * s.head_dim),
        held(d, {.kv_heads = heads, .chunk = s.chunk, .head_dim = s.head_dim, .dtype = s.out},
             {kSlots, kSlots}),
        sequences(d, {1, 0}, std::vector<int32_t>(2, static_cast<int32_t>(3 * s.segment))),
        query(upload_activation(d, random_numbers(2 * heads * group * s.head_dim, 8),
                                {2, heads * group, s.head_dim})),
        out(allocate(d, s.out, {2, heads, kCount, numbers})),
        scores(allocate(d, DType::f32, {2, heads * group, kCount})) {
    fill(d, factored, 3 * s.segment);
    for (int64_t i = 0; i < 2 * heads * kCount; ++i) {
      ids.push_back(i % 7 == 3 ? -1 : static_cast<int32_t>((i * 5 + 1) % (3 * s.segment / s.chunk)));
      slots.push_back(i % 4 == 1 ? static_cast<int32_t>(i % (kSlots - 1)) : -1);
    }
    for (int64_t i = 0; i < 2 * heads * kSlots; ++i) {
      write_numbers(d, held.host.keys(i / kSlots / heads, i / kSlots % heads, i % kSlots), s.out,
                    random_numbers(numbers, static_cast<uint32_t>(i + 30), s.out));
    }
  }

  // Runs `body` with the op's parameters, and returns the scores.
  template <typename Body>
  std::vector<float> run(const Body& body) {
    const std::vector<int64_t> shape{2, heads, kCount};
    const Array chunks = upload(device, ids, shape), found = upload(device, slots, shape);
    const Array missing = upload_missing(device, ids, slots, shape);
    body(RebuildAndScoreParams{rebuild(factored, sequences, missing, out), chunks.view, found.view,
                               query.view, held.view, 0.2f, scores.view});
    return download<float>(device, scores.view);
  }

  Device& device;
  Factored factored;
  int64_t heads, group, numbers;
  Slots held;
  Sequences sequences;
  Array query, out, scores;
  std::vector<int32_t> ids, slots;
};

TEST_P(LowRank, RebuildingAndScoringInOneIsRebuildingThenScoring) {
  for (const Shape& s : kShapes) {
    for (const int64_t group : {1, 4, 7, 9}) {
      Reranked r(*device_, s, group);
      const std::vector<float> parted = r.run([&](const RebuildAndScoreParams& p) {
        rebuild_keys(queue_, p.rebuild);
        candidate_scores(queue_, p.score());
      });
      const std::vector<float> keys = download_floats(*device_, r.out.view);
      r.out = upload_as(*device_, s.out, std::vector<float>(keys.size(), 42.0f), {2, r.heads, 45, r.numbers});
      const std::vector<float> scores =
          r.run([&](const RebuildAndScoreParams& p) { rebuild_and_score(queue_, p); });
      expect_near(scores, std::vector<double>(parted.begin(), parted.end()),
                  kScores.of(GetParam().activations));
      const std::vector<float> found = download_floats(*device_, r.out.view);
      for (std::size_t i = 0; i < r.ids.size(); ++i) {
        const auto first = static_cast<int64_t>(i) * r.numbers;
        if (r.ids[i] < 0 || r.slots[i] >= 0) {
          EXPECT_EQ(slice(found, first, r.numbers), std::vector<float>(at(r.numbers), 42.0f));
        } else {
          EXPECT_EQ(slice(found, first, r.numbers), slice(keys, first, r.numbers));
        }
      }
    }
  }
}

// To the bit, or what slots hold would change what is chosen.
TEST_P(LowRank, ScoresAreTheSameWhetherAKeyIsRebuiltOrLiesInASlot) {
  for (const Shape& s : kShapes) {
    Reranked r(*device_, s, 4);
    const auto run = [&] {
      return r.run([&](const RebuildAndScoreParams& p) { rebuild_and_score(queue_, p); });
    };
    const std::vector<float> rebuilt = run();
    const std::vector<float> keys = download_floats(*device_, r.out.view);
    for (int64_t i = 0; i < 2 * r.heads; ++i) {  // one candidate of every head moves to a slot
      const int64_t moved = i * Reranked::kCount + 2 + i % 2;
      const auto nth = static_cast<std::size_t>(moved);
      if (r.ids[nth] < 0 || r.slots[nth] >= 0) continue;
      r.slots[nth] = Reranked::kSlots - 1;
      write_numbers(*device_, r.held.host.keys(1 - i / r.heads, i % r.heads, Reranked::kSlots - 1), s.out,
                    slice(keys, moved * r.numbers, r.numbers));
    }
    EXPECT_EQ(run(), rebuilt);
  }
}

TEST_P(LowRank, AtFullRankKeysComeBackWhateverTheirPosition) {
  constexpr int64_t kTokens = 300, kWidth = 48;
  const Shape s{2, 24, kWidth, 4, 400, DType::f32, DType::f32, 0, false};
  Factored f(*device_, s, 400);
  const std::vector<float> x = keys_of(kTokens, kWidth, 6);
  f.mean.write(0, 0, 0, mean_of(*device_, x, kTokens, kWidth));
  f.basis.write(0, 0, 0, basis_of(*device_, x, kTokens, kWidth, kWidth));
  std::vector<int32_t> positions(at(kTokens)), ids;
  std::iota(positions.begin(), positions.end(), 0);
  project(*device_, f, x, std::vector<int32_t>(at(kTokens), 0), positions);
  for (int32_t i = 0; i < 2 * 75; ++i) ids.push_back(i % 75);
  const Array missing = upload_missing(*device_, ids, {}, {1, 2, 75}),
              out = allocate(*device_, DType::f32, {1, 2, 75, 4 * 24});
  rebuild_keys(queue_, rebuild(f, Sequences(*device_, {0}, {kTokens}), missing, out));
  const std::vector<float> rebuilt = download<float>(*device_, out.view);
  for (int64_t i = 0; i < 2 * kTokens * 24; ++i) {
    const int64_t g = i / 24 / kTokens, t = i / 24 % kTokens;
    ASSERT_NEAR(rebuilt[at(i)], x[at(t * kWidth + g * 24 + i % 24)], 1e-5);
  }
}

TEST_P(LowRank, PositionsOfAMillionTurnAsExactlyAsFirstOnes) {
  constexpr int64_t kPosition = 1 << 20, kSegment = 1 << 21;
  Array frequencies = allocate(*device_, DType::f32, {32});
  std::vector<float> numbers;
  for (int i = 0; i < 32; ++i) numbers.push_back(std::pow(500000.0f, -static_cast<float>(i) / 32.0f));
  frequencies = upload(*device_, numbers, {32});
  Paged mean(*device_, {1, 1, kSegment, kSegment, 256, true, false, DType::f32});
  mean.write(0, 0, 0, random_numbers(64, 3));
  // One shared row of factors for all tokens.
  Paged zero(*device_, {1, 1, kSegment, kSegment, 4, true, false, DType::f32});
  Paged basis(*device_, {1, 1, kSegment, kSegment, 256, true, false, DType::f32});
  const Array missing = upload(*device_, std::vector<int32_t>{0, kPosition + 7}, {1, 1, 1, 2});
  const Array out = allocate(*device_, DType::f32, {1, 1, 1, 64});
  const Sequences sequences(*device_, {0}, {kSegment});
  rebuild_keys(queue_, {sequences.batch(),
                        missing.view,
                        {zero.view, {}},
                        mean.view,
                        basis.view,
                        1,
                        {frequencies.view.as<float>(), 64, false},
                        out.view,
                        1,
                        64});
  const std::vector<float> m = mean.read(0, 0, 0, 64), found = download<float>(*device_, out.view);
  const double tolerance = kAngles.of(GetParam().activations).absolute;
  for (int64_t i = 0; i < 32; ++i) {
    const double angle = static_cast<double>(kPosition + 7) * static_cast<double>(numbers[at(i)]);
    const double a = static_cast<double>(m[at(i)]), b = static_cast<double>(m[at(i + 32)]);
    EXPECT_NEAR(found[at(i)], a * std::cos(angle) - b * std::sin(angle), tolerance);
    EXPECT_NEAR(found[at(i + 32)], b * std::cos(angle) + a * std::sin(angle), tolerance);
  }
}

TEST_P(LowRank, WrongShapesAreRefused) {
  const Array x = allocate(*device_, DType::f32, {4, 16}), mean = allocate(*device_, DType::f32, {16});
  const Array narrow = allocate(*device_, DType::f32, {15}), wide = allocate(*device_, DType::f32, {17, 16});
  const Array none = allocate(*device_, DType::f32, {0, 16}), ids = allocate(*device_, DType::i32, {16});
  EXPECT_THROW(column_mean(queue_, {x.view, narrow.view}), InvalidInput);
  EXPECT_THROW(column_mean(queue_, {none.view, mean.view}), InvalidInput);
  EXPECT_THROW(column_mean(queue_, {x.view, ids.view}), InvalidInput);
  EXPECT_THROW(fit_basis(queue_, {x.view, mean.view, wide.view}), InvalidInput);
  EXPECT_THROW(fit_basis(queue_, {x.view, narrow.view, x.view}), InvalidInput);
  EXPECT_THROW(project_keys(queue_, {x.view, {}, {}, {}, 4, {}}), InvalidInput);
  EXPECT_THROW(rebuild_keys(queue_, {{}, x.view, {}, {}, {}, 4, {}, x.view, 4, 4}), InvalidInput);
}

INSTANTIATE_TEST_SUITE_P(Devices, LowRank, kDevices, name_of_device);

}  // namespace
}  // namespace shadowkv::testing
