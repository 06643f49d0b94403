#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <tuple>

#include "kernels/cpu/simd.h"
#include "kernels/devices.h"
#include "kernels/kernels.h"
#include "kernels/tolerances.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class Dense : public ::testing::TestWithParam<TestDevice> {
 protected:
  std::unique_ptr<Device> device_ = GetParam().make();
  DType activations_ = GetParam().activations;

  Array upload_activations(const std::vector<float>& numbers, const std::vector<int64_t>& shape) {
    return upload_as(*device_, activations_, numbers, shape);
  }
  Array output(const std::vector<int64_t>& shape) { return allocate(*device_, activations_, shape); }
  std::vector<float> numbers_of(const Array& array) { return download_floats(*device_, array.view); }
};

INSTANTIATE_TEST_SUITE_P(Devices, Dense, ::testing::ValuesIn(test_devices()), name_of_device);

std::vector<float> rows_of(const std::vector<float>& x, int64_t first, int64_t count, int64_t width) {
  return {x.begin() + first * width, x.begin() + (first + count) * width};
}

// ---- embed ------------------------------------------------------------------------------------------------

TEST_P(Dense, EmbedCopiesTheRowOfEachId) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const int64_t vocabulary = 40, hidden = 24;
    const auto table = random_numbers(vocabulary * hidden, 1, DType::bf16);
    const std::vector<int32_t> ids = {0, 39, 7, 7, 21};
    const Array on_device = upload_as(*device_, dtype, table, {vocabulary, hidden});
    const Array id_array = upload(*device_, ids, {5});
    const Array out = output({5, hidden});
    embed(device_->compute(), {on_device.view, id_array.view, out.view});
    std::vector<double> expected;
    for (const int32_t id : ids) {
      for (int64_t i = 0; i < hidden; ++i) expected.push_back(table[id * hidden + i]);
    }
    expect_near(numbers_of(out), expected, kExact.of(activations_));
  }
}

// Codes and scales on a device, and the numbers that they stand for. Scales are powers of two, so that the
// numbers are exact in bfloat16.
struct Codes {
  Array codes, scales;
  std::vector<float> numbers;
  [[nodiscard]] Matrix matrix() const { return {codes.view, scales.view}; }
};

Codes upload_codes(Device& device, int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> code(-127, 127), exponent(-9, -4);
  Codes made;
  std::vector<int8_t> codes(static_cast<size_t>(rows * columns));
  std::vector<float> scales;
  for (int64_t r = 0; r < rows; ++r) {
    scales.push_back(std::ldexp(1.0f, exponent(generator)));
    for (int64_t i = 0; i < columns; ++i) {
      const int x = code(generator);
      codes[r * columns + code_place(i, columns)] = static_cast<int8_t>(x);
      made.numbers.push_back(static_cast<float>(x) * scales.back());
    }
  }
  made.codes = upload(device, codes, {rows, columns});
  made.scales = upload(device, scales, {rows});
  return made;
}

TEST_P(Dense, EmbedWidensCodes) {
  for (const int64_t hidden : {24, 64, 100}) {
    const Codes table = upload_codes(*device_, 40, hidden, 1);
    const std::vector<int32_t> ids = {0, 39, 7, 7, 21};
    const Array id_array = upload(*device_, ids, {5});
    const Array out = output({5, hidden});
    embed(device_->compute(), {table.matrix(), id_array.view, out.view});
    std::vector<double> expected;
    for (const int32_t id : ids) {
      for (int64_t i = 0; i < hidden; ++i) expected.push_back(table.numbers[id * hidden + i]);
    }
    expect_near(numbers_of(out), expected, kExact.of(activations_));
  }
}

TEST(EmbedOnCpu, IdsOutsideTheVocabularyAreRefused) {
  const auto device = make_cpu_device();
  const Array table = upload(*device, random_numbers(4 * 8, 1), {4, 8});
  const Array out = allocate(*device, DType::f32, {1, 8});
  for (const int32_t id : {-1, 4}) {
    const Array ids = upload<int32_t>(*device, {id}, {1});
    EXPECT_THAT(
        [&] {
          embed(device->compute(), {table.view, ids.view, out.view});
        },
        ThrowsMessage<InvalidInput>(HasSubstr("outside the vocabulary of 4")));
  }
}

// ---- rms_norm ---------------------------------------------------------------------------------------------

TEST_P(Dense, RmsNormDividesByTheRootMeanSquare) {
  for (const int64_t hidden : {1, 15, 16, 17, 96, 128, 576, 4104}) {
    const int64_t tokens = 5;
    const auto x = random_numbers(tokens * hidden, 2, activations_, 3.0f);
    const auto weight = random_numbers(hidden, 3);
    const Array x_array = upload_activations(x, {tokens, hidden});
    const Array weight_array = upload(*device_, weight, {hidden});
    rms_norm(device_->compute(), {x_array.view, weight_array.view, 1e-5, x_array.view});
    std::vector<double> expected;
    for (int64_t t = 0; t < tokens; ++t) {
      double squares = 0;
      for (int64_t i = 0; i < hidden; ++i) squares += std::pow(x[t * hidden + i], 2);
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(hidden) + 1e-5);
      for (int64_t i = 0; i < hidden; ++i) expected.push_back(x[t * hidden + i] * inverse * weight[i]);
    }
    expect_near(numbers_of(x_array), expected, kRmsNorm.of(activations_));
  }
}

TEST_P(Dense, RmsNormMayAddToWhatIsThere) {
  for (const int64_t hidden : {1, 17, 96, 128, 256, 264, 4104}) {
    const int64_t tokens = 11;
    const auto x = random_numbers(tokens * hidden, 4, activations_, 3.0f);
    const auto before = random_numbers(tokens * hidden, 5, activations_);
    const auto weight = random_numbers(hidden, 6);
    const Array x_array = upload_activations(x, {tokens, hidden});
    const Array out = upload_activations(before, {tokens, hidden});
    const Array weight_array = upload(*device_, weight, {hidden});
    rms_norm(device_->compute(), {x_array.view, weight_array.view, 1e-5, out.view, true});
    std::vector<double> expected;
    for (int64_t t = 0; t < tokens; ++t) {
      double squares = 0;
      for (int64_t i = 0; i < hidden; ++i) squares += std::pow(x[t * hidden + i], 2);
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(hidden) + 1e-5);
      for (int64_t i = 0; i < hidden; ++i)
        expected.push_back(before[t * hidden + i] + x[t * hidden + i] * inverse * weight[i]);
    }
    expect_near(numbers_of(out), expected, kRmsNorm.of(activations_));
  }
}

// ---- matmul -----------------------------------------------------------------------------------------------

struct Product {
  int64_t tokens, inputs, outputs;
};

std::vector<double> product_of(const std::vector<float>& x, const std::vector<float>& weight, Product size) {
  std::vector<double> out(static_cast<size_t>(size.tokens * size.outputs));
  for (int64_t t = 0; t < size.tokens; ++t) {
    for (int64_t o = 0; o < size.outputs; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < size.inputs; ++i) {
        sum += static_cast<double>(x[t * size.inputs + i]) * weight[o * size.inputs + i];
      }
      out[t * size.outputs + o] = sum;
    }
  }
  return out;
}

TEST_P(Dense, MatmulMultipliesByTheTransposedWeight) {
  const Product sizes[] = {{1, 1, 1},    {1, 576, 192}, {3, 17, 5},     {6, 768, 64},
                           {8, 769, 33}, {9, 40, 7},    {40, 1551, 30}, {300, 64, 70}};
  for (const Product& size : sizes) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto x = random_numbers(size.tokens * size.inputs, 4, activations_);
      const auto weight = random_numbers(size.outputs * size.inputs, 5, dtype);
      const Array x_array = upload_activations(x, {size.tokens, size.inputs});
      const Array weight_array = upload_as(*device_, dtype, weight, {size.outputs, size.inputs});
      const Array out = output({size.tokens, size.outputs});
      matmul(device_->compute(), {x_array.view, weight_array.view, {}, out.view});
      SCOPED_TRACE(::testing::Message() << size.tokens << " x " << size.inputs << " x " << size.outputs);
      expect_near(numbers_of(out), product_of(x, weight, size), kMatmul.of(activations_));
    }
  }
}

TEST_P(Dense, MatmulAddsBiasAndWhatWasThere) {
  const Product size{11, 800, 37};
  const auto x = random_numbers(size.tokens * size.inputs, 6, activations_);
  const auto weight = random_numbers(size.outputs * size.inputs, 7);
  const auto bias = random_numbers(size.outputs, 8);
  const auto before = random_numbers(size.tokens * size.outputs, 9, activations_);
  const Array x_array = upload_activations(x, {size.tokens, size.inputs});
  const Array weight_array = upload(*device_, weight, {size.outputs, size.inputs});
  const Array bias_array = upload(*device_, bias, {size.outputs});
  for (const bool with_bias : {false, true}) {
    for (const bool accumulate : {false, true}) {
      const Array out = upload_activations(before, {size.tokens, size.outputs});
      matmul(device_->compute(), {x_array.view, weight_array.view, with_bias ? bias_array.view : TensorView{},
                                  out.view, accumulate});
      auto expected = product_of(x, weight, size);
      for (size_t i = 0; i < expected.size(); ++i) {
        expected[i] += with_bias ? bias[i % size.outputs] : 0.0f;
        expected[i] += accumulate ? before[i] : 0.0f;
      }
      expect_near(numbers_of(out), expected, kMatmul.of(activations_));
    }
  }
}

// Few tokens, where a GPU streams the weights by kernels of its own: around its eights of tokens, its tiles
// of rows and of inputs, and its splits of the inputs.
TEST_P(Dense, MatmulOfFewTokensTakesEveryShape) {
  const Product sizes[] = {{1, 64, 32},    {1, 1000, 4096}, {7, 2048, 100},  {8, 584, 77},    {9, 8, 3000},
                           {17, 72, 4097}, {43, 1536, 517}, {64, 1288, 320}, {65, 512, 1024}, {96, 136, 2056},
                           {3, 64, 70000}, {9, 72, 36000},  {43, 136, 9000}, {64, 264, 8500}, {30, 64, 8600},
                           {97, 520, 90},  {128, 256, 600}, {129, 256, 600}};
  for (const Product& size : sizes) {
    const auto x = random_numbers(size.tokens * size.inputs, 20, activations_);
    const auto weight = random_numbers(size.outputs * size.inputs, 21, DType::bf16);
    const auto before = random_numbers(size.tokens * size.outputs, 22, activations_);
    const Array x_array = upload_activations(x, {size.tokens, size.inputs});
    const Array weight_array = upload_as(*device_, DType::bf16, weight, {size.outputs, size.inputs});
    const auto product = product_of(x, weight, size);
    for (const DType type : {activations_, DType::f32}) {
      for (const bool accumulate : {false, true}) {
        const Array out = upload_as(*device_, type, before, {size.tokens, size.outputs});
        matmul(device_->compute(), {x_array.view, weight_array.view, {}, out.view, accumulate});
        auto expected = product;
        for (size_t i = 0; i < expected.size() && accumulate; ++i) expected[i] += before[i];
        SCOPED_TRACE(::testing::Message() << size.tokens << " x " << size.inputs << " x " << size.outputs
                                          << (accumulate ? ", added to " : " as ") << name_of(type));
        expect_near(numbers_of(out), expected,
                    (type == DType::f32 ? kMatmulToF32 : kMatmul).of(activations_));
      }
    }
  }
}

// Around the eights of tokens, tiles of rows and inputs and slices of tokens of a GPU's kernel, and what is
// widened for the library instead.
TEST_P(Dense, MatmulOfCodesIsThatOfTheirNumbers) {
  const Product sizes[] = {{1, 1, 1},       {1, 64, 32},      {1, 1008, 4096}, {7, 2048, 100},
                           {8, 592, 77},    {9, 16, 3000},    {17, 80, 4097},  {24, 128, 900},
                           {32, 256, 65},   {43, 1536, 517},  {64, 1296, 320}, {65, 512, 1024},
                           {150, 144, 700}, {3, 64, 70000},   {43, 144, 9000}, {257, 96, 130},
                           {300, 72, 90},   {400, 1040, 264}, {5, 40, 7}};
  for (const Product& size : sizes) {
    const auto x = random_numbers(size.tokens * size.inputs, 40, activations_);
    const auto before = random_numbers(size.tokens * size.outputs, 41, activations_);
    const auto bias = random_numbers(size.outputs, 42);
    const Array x_array = upload_activations(x, {size.tokens, size.inputs});
    const Array bias_array = upload(*device_, bias, {size.outputs});
    const Codes weight = upload_codes(*device_, size.outputs, size.inputs, 43);
    const auto product = product_of(x, weight.numbers, size);
    for (const DType type : {activations_, DType::f32}) {
      for (const bool changes : {false, true}) {
        const Array out = upload_as(*device_, type, before, {size.tokens, size.outputs});
        matmul(device_->compute(),
               {x_array.view, weight.matrix(), changes ? bias_array.view : TensorView{}, out.view, changes});
        auto expected = product;
        for (size_t i = 0; i < expected.size() && changes; ++i)
          expected[i] += before[i] + bias[i % size.outputs];
        SCOPED_TRACE(::testing::Message() << size.tokens << " x " << size.inputs << " x " << size.outputs
                                          << (changes ? ", added to " : " as ") << name_of(type));
        expect_near(numbers_of(out), expected,
                    (type == DType::f32 ? kMatmulToF32 : kMatmulInTwo).of(activations_));
      }
    }
  }
}

TEST_P(Dense, MatmulGroupOfCodesIsItsProductsOneByOne) {
  const int64_t inputs = 528;
  const std::vector<int64_t> outputs = {300, 64, 33};
  for (const int64_t tokens : {1, 20, 43, 70, 300}) {
    const auto x = random_numbers(tokens * inputs, 44, activations_);
    const Array x_array = upload_activations(x, {tokens, inputs});
    MatmulGroupParams group{.x = x_array.view, .products = {}};
    std::vector<Codes> weights;
    std::vector<Array> outs;
    for (const int64_t rows : outputs) {
      weights.push_back(upload_codes(*device_, rows, inputs, 45 + static_cast<uint32_t>(rows)));
      outs.push_back(output({tokens, rows}));
      group.products.push_back({weights.back().matrix(), outs.back().view});
    }
    matmul_group(device_->compute(), group);
    for (size_t i = 0; i < outputs.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << tokens << " tokens, product " << i);
      expect_near(numbers_of(outs[i]), product_of(x, weights[i].numbers, {tokens, inputs, outputs[i]}),
                  kMatmul.of(activations_));
    }
  }
}

TEST_P(Dense, MatmulOfCodesWantsTheirScales) {
  const Codes weight = upload_codes(*device_, 8, 32, 1);
  const Array x = upload_activations(random_numbers(32, 2), {1, 32}), out = output({1, 8});
  const auto multiply = [&](const TensorView& scales) {
    matmul(device_->compute(), {x.view, Matrix(weight.codes.view, scales), {}, out.view});
  };
  EXPECT_THAT([&] { multiply({}); }, ThrowsMessage<InvalidInput>(HasSubstr("weight's scales")));
  EXPECT_THAT([&] { multiply(weight.scales.view.rows(0, 7)); },
              ThrowsMessage<InvalidInput>(HasSubstr("out=8")));
}

TEST_P(Dense, MatmulGroupIsItsProductsOneByOne) {
  const int64_t inputs = 520;
  const std::vector<int64_t> outputs = {300, 64, 33};
  for (const int64_t tokens : {1, 20, 43, 70, 200}) {
    for (size_t count = 0; count <= outputs.size() + 1; ++count) {
      const auto x = random_numbers(tokens * inputs, 23, activations_);
      const Array x_array = upload_activations(x, {tokens, inputs});
      MatmulGroupParams group{.x = x_array.view, .products = {}};
      std::vector<Array> arrays, biases;
      std::vector<std::vector<double>> expected;
      for (size_t i = 0; i < count; ++i) {
        const int64_t rows = outputs[i % outputs.size()];
        const auto weight = random_numbers(rows * inputs, 24 + static_cast<uint32_t>(i), DType::bf16);
        arrays.push_back(upload_as(*device_, DType::bf16, weight, {rows, inputs}));
        arrays.push_back(output({tokens, rows}));
        expected.push_back(product_of(x, weight, {tokens, inputs, rows}));
        group.products.push_back({arrays[2 * i].view, arrays[2 * i + 1].view});
        if (i == 1) continue;  // some have a bias
        const auto bias = random_numbers(rows, 34 + static_cast<uint32_t>(i));
        biases.push_back(upload(*device_, bias, {rows}));
        group.products.back().bias = biases.back().view;
        for (int64_t j = 0; j < tokens * rows; ++j) expected[i][j] += bias[j % rows];
      }
      matmul_group(device_->compute(), group);
      for (size_t i = 0; i < count; ++i) {
        SCOPED_TRACE(::testing::Message() << tokens << " tokens, product " << i << " of " << count);
        expect_near(numbers_of(arrays[2 * i + 1]), expected[i], kMatmul.of(activations_));
      }
    }
  }
}

// What else is in the batch changes at most the order of a float32 sum.
TEST_P(Dense, MatmulOfARowAloneIsThatOfTheRowInAnyBatch) {
  const Product size{200, 2000, 500};
  const auto x = random_numbers(size.tokens * size.inputs, 30, activations_);
  const Array x_array = upload_activations(x, {size.tokens, size.inputs});
  const Array weight = upload_as(*device_, DType::bf16, random_numbers(size.outputs * size.inputs, 31),
                                 {size.outputs, size.inputs});
  const Array out = allocate(*device_, DType::f32, {size.tokens, size.outputs});
  matmul(device_->compute(), {x_array.view, weight.view, {}, out.view});
  const auto together = numbers_of(out);
  for (const auto& [first, count] : {std::pair{0, 1}, {199, 1}, {5, 9}, {100, 43}, {60, 128}}) {
    matmul(device_->compute(), {x_array.view.rows(first, count), weight.view, {}, out.view.rows(0, count)});
    const auto alone = download_floats(*device_, out.view.rows(0, count));
    const auto same = rows_of(together, first, count, size.outputs);
    expect_near(alone, {same.begin(), same.end()}, kMatmulToF32.of(activations_));
  }
}

TEST(MatmulOnCpu, ARowIsTheSameToTheBitAloneAndInAnyCompany) {
  const Product size{300, 1000, 61};
  for (const int threads : {1, 2, 3}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto device = make_cpu_device({.threads = threads});
      const Array x =
          upload(*device, random_numbers(size.tokens * size.inputs, 10), {size.tokens, size.inputs});
      const Array weight = upload_as(*device, dtype, random_numbers(size.outputs * size.inputs, 11),
                                     {size.outputs, size.inputs});
      const Array out = allocate(*device, DType::f32, {size.tokens, size.outputs});
      matmul(device->compute(), {x.view, weight.view, {}, out.view});
      const auto together = download<float>(*device, out.view);
      for (const auto& [first, count] :
           {std::pair{0, 1}, {255, 1}, {299, 1}, {5, 3}, {250, 8}, {100, 9}, {3, 40}}) {
        matmul(device->compute(), {x.view.rows(first, count), weight.view, {}, out.view.rows(0, count)});
        EXPECT_EQ(download<float>(*device, out.view.rows(0, count)),
                  rows_of(together, first, count, size.outputs))
            << "rows " << first << " to " << first + count << ", " << threads << " threads";
      }
    }
  }
}

// ---- silu_mul ---------------------------------------------------------------------------------------------

TEST_P(Dense, SiluMulGatesEveryNumber) {
  const int64_t tokens = 3, inner = 37;
  auto gate = random_numbers(tokens * inner, 12, activations_, 8.0f);
  gate[0] = -100.0f;
  gate[1] = 100.0f;
  gate[2] = 0.0f;
  const auto up = random_numbers(tokens * inner, 13, activations_);
  const Array gate_array = upload_activations(gate, {tokens, inner});
  const Array up_array = upload_activations(up, {tokens, inner});
  silu_mul(device_->compute(), {gate_array.view, up_array.view, gate_array.view});
  std::vector<double> expected;
  for (size_t i = 0; i < gate.size(); ++i) {
    expected.push_back(gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * up[i]);
  }
  expect_near(numbers_of(gate_array), expected, kSiluMul.of(activations_));
}

// ---- rotate -----------------------------------------------------------------------------------------------

struct Rotation {
  int64_t heads, head_dim, rotary_dim;
  bool interleaved;
};

std::vector<double> turned(const std::vector<float>& x, const std::vector<int32_t>& positions,
                           const std::vector<float>& frequencies, const Rotation& how) {
  std::vector<double> out(x.begin(), x.end());
  for (size_t t = 0; t < positions.size(); ++t) {
    for (int64_t h = 0; h < how.heads; ++h) {
      const int64_t head = (static_cast<int64_t>(t) * how.heads + h) * how.head_dim;
      for (int64_t i = 0; i < how.rotary_dim / 2; ++i) {
        const double angle = positions[t] * static_cast<double>(frequencies[i]);
        const int64_t a = head + (how.interleaved ? 2 * i : i);
        const int64_t b = head + (how.interleaved ? 2 * i + 1 : i + how.rotary_dim / 2);
        out[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
        out[b] = x[b] * std::cos(angle) + x[a] * std::sin(angle);
      }
    }
  }
  return out;
}

std::vector<float> rope_frequencies(int64_t rotary_dim) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < rotary_dim / 2; ++i) {
    frequencies.push_back(
        static_cast<float>(std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim))));
  }
  return frequencies;
}

TEST_P(Dense, RotateTurnsPairsByPositionAndBackAgain) {
  const Rotation rotations[] = {
      {3, 64, 64, false}, {1, 8, 8, true}, {2, 80, 32, false}, {2, 96, 64, true}, {1, 8, 0, false}};
  const std::vector<int32_t> positions = {0, 1, 77, 131071, 1000000};
  const int64_t tokens = std::ssize(positions);
  const Array position_array = upload(*device_, positions, {tokens});
  for (const Rotation& how : rotations) {
    const auto x = random_numbers(tokens * how.heads * how.head_dim, 14, activations_);
    const auto frequencies = rope_frequencies(how.rotary_dim);
    const Array frequency_array = upload(*device_, frequencies, {how.rotary_dim / 2});
    const RopeView rope{reinterpret_cast<const float*>(frequency_array.buffer.data()), how.rotary_dim,
                        how.interleaved};
    const Array x_array = upload_activations(x, {tokens, how.heads, how.head_dim});
    rotate(device_->compute(), {x_array.view, position_array.view, rope, false, x_array.view});
    expect_near(numbers_of(x_array), turned(x, positions, frequencies, how), kRotate.of(activations_));
    rotate(device_->compute(), {x_array.view, position_array.view, rope, true, x_array.view});
    expect_near(numbers_of(x_array), {x.begin(), x.end()}, kRotate.of(activations_));
  }
}

TEST_P(Dense, RotateTurnsEachTokenByTheTableOfItsRow) {
  const Rotation how{2, 96, 96, false};
  const std::vector<int32_t> positions = {7, 7, 4095, 4095}, rows = {2, 0, 1, 2}, tables = {0, 1, 1};
  std::vector<float> frequencies = rope_frequencies(how.rotary_dim), others = frequencies;
  for (std::size_t i = 0; i < others.size(); ++i) others[i] /= 1.0f + 0.5f * static_cast<float>(i);
  std::vector<float> both = frequencies;
  both.insert(both.end(), others.begin(), others.end());
  const Array frequency_array = upload(*device_, both, {2, how.rotary_dim / 2});
  const Array position_array = upload(*device_, positions, {4}), row_array = upload(*device_, rows, {4});
  const Array table_array = upload(*device_, tables, {3});
  const RopeView rope{reinterpret_cast<const float*>(frequency_array.buffer.data()), how.rotary_dim,
                      how.interleaved, reinterpret_cast<const int32_t*>(table_array.buffer.data())};
  const auto x = random_numbers(4 * how.heads * how.head_dim, 14, activations_);
  const Array x_array = upload_activations(x, {4, how.heads, how.head_dim});
  rotate(device_->compute(), {x_array.view, position_array.view, rope, false, x_array.view,
                              reinterpret_cast<const int32_t*>(row_array.buffer.data())});
  const auto found = numbers_of(x_array);
  const auto by_first = turned(x, positions, frequencies, how), by_other = turned(x, positions, others, how);
  const int64_t token = how.heads * how.head_dim;
  for (int64_t t = 0; t < 4; ++t) {
    const auto& expected =
        tables[static_cast<std::size_t>(rows[static_cast<std::size_t>(t)])] == 0 ? by_first : by_other;
    const auto part = [&](const auto& all) {
      return std::vector(all.begin() + t * token, all.begin() + (t + 1) * token);
    };
    expect_near(part(found), part(expected), kRotate.of(activations_));
  }
  EXPECT_THAT(
      [&] {
        rotate(device_->compute(), {x_array.view, position_array.view, rope, false, x_array.view});
      },
      ::testing::ThrowsMessage<InvalidInput>(::testing::HasSubstr("rows")));
}

// ---- wrong shapes -----------------------------------------------------------------------------------------

TEST_P(Dense, WrongShapesAndTypesAreRefusedByName) {
  Queue& queue = device_->compute();
  const Array x = output({4, 16});
  const Array other = output({4, 24});
  const Array weight = allocate(*device_, DType::f32, {8, 24});
  const Array codes = allocate(*device_, DType::i8, {8, 16});
  const Array out = output({4, 8});
  EXPECT_THAT(
      [&] {
        matmul(queue, {x.view, weight.view, {}, out.view});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("matmul: weight")));
  EXPECT_THAT(
      [&] {
        matmul(queue, {x.view, codes.view, {}, out.view});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("weight's scales is")));
  EXPECT_THAT(
      [&] {
        matmul_group(queue, {.x = x.view, .products = {{weight.view, out.view}}});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("matmul_group: weight")));
  EXPECT_THAT(
      [&] {
        silu_mul(queue, {x.view, other.view, x.view});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("silu_mul: up")));
  EXPECT_THAT(
      [&] {
        rms_norm(queue, {x.view, weight.view, 1e-5, x.view});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("rms_norm: weight")));
  EXPECT_THAT(
      [&] {
        embed(queue, {weight.view, x.view, other.view});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("embed: ids")));
  const Array heads = output({4, 2, 8});
  const Array positions = upload<int32_t>(*device_, {0, 1, 2, 3}, {4});
  EXPECT_THAT(
      [&] {
        rotate(queue, {heads.view, positions.view, {nullptr, 10, false}, false, heads.view});
      },
      ThrowsMessage<InvalidInput>(HasSubstr("rotary_dim is 10")));
}

// ---- vector loops -----------------------------------------------------------------------------------------

class VectorSet : public ::testing::TestWithParam<const cpu::VectorOps*> {
 protected:
  const cpu::VectorOps& ops_ = *GetParam();
};

std::vector<const cpu::VectorOps*> vector_sets() {
  std::vector<const cpu::VectorOps*> sets;
  for (auto set = cpu::all_vector_ops(); *set != nullptr; ++set) sets.push_back(*set);
  return sets;
}

std::string name_of_set(const ::testing::TestParamInfo<const cpu::VectorOps*>& set) {
  return set.param->name;
}

INSTANTIATE_TEST_SUITE_P(Machine, VectorSet, ::testing::ValuesIn(vector_sets()), name_of_set);

TEST_P(VectorSet, ExponentialIsWithinTwoUnitsInTheLastPlace) {
  std::vector<float> x;
  for (float v = -86.9f; v < 0.0f; v += 0.00137f) x.push_back(v);
  std::vector<float> e(x.size());
  const double sum = ops_.exp_sum(x.data(), 0.0f, e.data(), std::ssize(x));
  double expected_sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(static_cast<double>(x[i]));
    ASSERT_NEAR(e[i] / expected, 1.0, 2 * 1.2e-7) << x[i];
    expected_sum += expected;
  }
  EXPECT_NEAR(sum / expected_sum, 1.0, 1e-6);
}

TEST_P(VectorSet, ExponentialOfFarNegativeNumbersIsZero) {
  const std::vector<float> x = {-INFINITY, -1e30f, -200.0f, 0.0f, -90.0f};
  std::vector<float> e(5);
  EXPECT_EQ(ops_.exp_sum(x.data(), 0.0f, e.data(), 5), 1.0f);
  EXPECT_THAT(e, ::testing::ElementsAre(0.0f, 0.0f, 0.0f, 1.0f, 0.0f));
}

TEST_P(VectorSet, LoopsOfEveryLengthTouchTheirOwnNumbersOnly) {
  for (int64_t n = 0; n <= 40; ++n) {
    const auto x = random_numbers(n + 1, 20 + static_cast<uint32_t>(n));
    const auto before = random_numbers(n + 1, 90);
    auto y = before;
    ops_.axpy(2.0f, x.data(), y.data(), n);
    double dot = 0, most = -INFINITY, most_abs = 0;
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_FLOAT_EQ(y[i], 2.0f * x[i] + before[i]);
      dot += static_cast<double>(x[i]) * before[i];
      most = std::max<double>(most, x[i]);
      most_abs = std::max<double>(most_abs, std::abs(x[i]));
    }
    EXPECT_EQ(y[n], before[n]);
    EXPECT_NEAR(ops_.dot(x.data(), before.data(), n), dot, 1e-5);
    EXPECT_EQ(ops_.max(x.data(), n), most);
    EXPECT_EQ(ops_.max_abs(x.data(), n), most_abs);
  }
}

TEST_P(VectorSet, TransposeTurnsRowsToColumnsAndClearsTheRest) {
  for (const auto& [rows, n] : {std::pair{1, 1}, {4, 4}, {7, 9}, {13, 64}, {16, 3}}) {
    const auto x = random_numbers(rows * (n + 2), 30);
    std::vector<float> out(static_cast<size_t>(n) * 16, -1.0f);
    ops_.transpose(x.data(), n + 2, rows, n, out.data(), 16);
    for (int i = 0; i < n; ++i) {
      for (int r = 0; r < 16; ++r) ASSERT_EQ(out[i * 16 + r], r < rows ? x[r * (n + 2) + i] : 0.0f);
    }
  }
}

TEST_P(VectorSet, BlocksOfEveryShapeMultiply) {
  for (const int64_t rows : {1, 2, 5, 6, 7, 13}) {
    for (const int64_t columns : {16, 32, 80, 128}) {
      const int64_t k = 21;
      const auto a = random_numbers(rows * k, 40);
      const auto b = random_numbers(columns * k, 41);
      auto b_rows = b;  // [k, columns]
      ops_.transpose(b.data(), k, columns, k, b_rows.data(), columns);
      std::vector<float> outer(static_cast<size_t>(rows * columns)), dots(outer);
      ops_.outer_block({a.data(), k, rows, b_rows.data(), columns, k, columns, outer.data(), columns, false});
      const cpu::RowsView w{reinterpret_cast<const std::byte*>(b.data()), k * 4, DType::f32};
      ops_.dot_block({a.data(), k, rows, w, columns, k, dots.data(), columns, false});
      const auto expected = product_of(a, b, {rows, k, columns});
      expect_near(outer, expected, {1e-5, 0});
      expect_near(dots, expected, {1e-5, 0});
    }
  }
}

}  // namespace
}  // namespace shadowkv::testing
