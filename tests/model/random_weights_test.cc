#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "model/weights.h"
#include "shadowkv/error.h"

namespace shadowkv {
namespace {

ModelConfig small_config() {
  ModelConfig config = config_from_shape_name("tiny");
  config.layers = 2;
  config.hidden = 256;
  config.inner = 512;
  config.vocab_size = 1000;
  return config;
}

std::unique_ptr<Device> make_device(int threads) {
  return make_cpu_device({.threads = threads, .device_bytes = int64_t{64} << 20, .pinned_bytes = 1 << 20});
}

bool same(const TensorView& a, const TensorView& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.data, b.data, static_cast<std::size_t>(a.bytes())) == 0;
}

TEST(RandomWeights, ASeedGivesTheSameWeightsOnAnyNumberOfThreads) {
  const auto one = make_device(1);
  const auto three = make_device(3);
  for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
    const ModelWeights a = random_weights(small_config(), dtype, *one, 5);
    const ModelWeights b = random_weights(small_config(), dtype, *three, 5);
    EXPECT_TRUE(same(a.embedding, b.embedding));
    EXPECT_TRUE(same(a.layers[1].down, b.layers[1].down));
    EXPECT_TRUE(same(a.lm_head, b.lm_head));
  }
}

TEST(RandomWeights, SeedsTensorsAndLayersDiffer) {
  const auto device = make_device(2);
  const ModelWeights a = random_weights(small_config(), DType::f32, *device, 5);
  const ModelWeights b = random_weights(small_config(), DType::f32, *device, 6);
  EXPECT_FALSE(same(a.embedding, b.embedding));
  EXPECT_FALSE(same(a.layers[0].gate, a.layers[0].up));
  EXPECT_FALSE(same(a.layers[0].gate, a.layers[1].gate));
}

TEST(RandomWeights, Bfloat16WeightsAreTheFloatOnesRounded) {
  const auto device = make_device(2);
  const ModelWeights wide = random_weights(small_config(), DType::f32, *device, 5);
  const ModelWeights narrow = random_weights(small_config(), DType::bf16, *device, 5);
  for (int64_t i = 0; i < 1000; ++i) {
    ASSERT_EQ(narrow.layers[0].wq.as<bf16>()[i].bits, bf16(wide.layers[0].wq.as<float>()[i]).bits);
  }
}

TEST(RandomWeights, CodesAreTheFloatsToHalfAStep) {
  const auto device = make_device(2);
  const ModelWeights wide = random_weights(small_config(), DType::f32, *device, 5);
  const ModelWeights codes = random_weights(small_config(), DType::i8, *device, 5);
  const Matrix& wq = codes.layers[1].wq;
  for (int64_t i = 0; i < wq.elements(); ++i) {
    const int64_t row = i / 256, at = row * 256 + code_place(i % 256, 256);
    const float scale = wq.scales.as<float>()[row];
    ASSERT_NEAR(scale * static_cast<float>(wq.as<int8_t>()[at]), wide.layers[1].wq.as<float>()[i],
                0.501f * scale);
  }
}

TEST(RandomWeights, ScalesKeepActivationsTheirSizeAndNormsAreOne) {
  const auto device = make_device(2);
  const ModelWeights weights = random_weights(small_config(), DType::f32, *device, 5);
  for (const TensorView& tensor : {weights.embedding, weights.layers[0].wq, weights.layers[1].down}) {
    double sum = 0;
    double squares = 0;
    for (int64_t i = 0; i < tensor.elements(); ++i) {
      const double x = tensor.as<float>()[i];
      sum += x;
      squares += x * x;
    }
    const auto count = static_cast<double>(tensor.elements());
    const double expected = 1.0 / static_cast<double>(tensor.shape[1]);
    EXPECT_NEAR(squares / count / expected, 1.0, 0.02) << tensor.describe();
    EXPECT_LT(std::abs(sum / count), 5 * std::sqrt(expected / count)) << tensor.describe();
  }
  for (int64_t i = 0; i < 256; ++i) ASSERT_EQ(weights.final_norm.as<float>()[i], 1.0f);
}

TEST(RandomWeights, AShapeHasThePartsOfItsFamily) {
  const auto device = make_device(2);
  ModelConfig config = config_from_shape_name("glm-4-0414-9b");
  config.layers = 1;
  config.hidden = 256;
  config.inner = 512;
  config.vocab_size = 1000;
  const ModelWeights weights = random_weights(config, DType::f32, *device, 5);
  const LayerWeights& layer = weights.layers[0];
  ASSERT_EQ(layer.bk.elements(), 2 * 128);
  EXPECT_NE(layer.bk.as<float>()[0], layer.bk.as<float>()[1]);
  ASSERT_EQ(layer.post_mlp_norm.elements(), 256);
  EXPECT_EQ(layer.post_mlp_norm.as<float>()[255], 1.0f);
  EXPECT_EQ(layer.q_norm.elements(), 0);
}

TEST(RandomWeights, AModelThatDoesNotFitIsRefused) {
  const auto device = make_device(1);
  EXPECT_THROW((void)random_weights(config_from_shape_name("llama-3-8b"), DType::bf16, *device, 1),
               OutOfMemory);
  EXPECT_EQ(device->memory().held(Tier::device), 0);
}

// Whether a GPU's memory holds what the host's does.
bool arrived(Device& gpu, const TensorView& there, const TensorView& here) {
  if (there.bytes() != here.bytes()) return false;
  std::vector<std::byte> back(static_cast<std::size_t>(there.bytes()));
  if (back.empty() || here.empty()) return here.empty() == there.empty();
  gpu.compute().copy(back.data(), there.data, there.bytes());
  gpu.compute().synchronize();
  return std::memcmp(back.data(), here.data, back.size()) == 0;
}

// More numbers than all staging buffers hold, and tensors that end within one; and where the host's memory
// has room for few rows at a time.
TEST(GpuWeights, ArriveAsTheyWereMade) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "No NVIDIA GPU was found.";
  ModelConfig config = small_config();
  config.vocab_size = 300'001;
  const auto cpu = make_cpu_device({.threads = 4, .device_bytes = int64_t{1} << 30, .pinned_bytes = 1 << 20});
  for (const DType dtype : {DType::bf16, DType::i8}) {
    const ModelWeights here = random_weights(config, dtype, *cpu, 5);
    for (const int64_t pinned_bytes : {int64_t{1} << 28, int64_t{100'000}}) {
      const auto gpu = make_cuda_device({.device_bytes = int64_t{1} << 30, .pinned_bytes = pinned_bytes});
      const ModelWeights there = random_weights(config, dtype, *gpu, 5);
      EXPECT_EQ(gpu->memory().held(Tier::pinned_host), 0) << "staging buffers are given back";
      EXPECT_TRUE(arrived(*gpu, there.lm_head, here.lm_head));
      EXPECT_TRUE(arrived(*gpu, there.lm_head.scales, here.lm_head.scales));
      EXPECT_TRUE(arrived(*gpu, there.final_norm, here.final_norm));
      for (std::size_t l = 0; l < here.layers.size(); ++l) {
        const LayerWeights &a = there.layers[l], &b = here.layers[l];
        EXPECT_TRUE(arrived(*gpu, a.attention_norm, b.attention_norm));
        for (const auto part : {&LayerWeights::wq, &LayerWeights::wk, &LayerWeights::wv, &LayerWeights::wo,
                                &LayerWeights::gate, &LayerWeights::up, &LayerWeights::down}) {
          EXPECT_TRUE(arrived(*gpu, a.*part, b.*part));
          EXPECT_TRUE(arrived(*gpu, (a.*part).scales, (b.*part).scales));
        }
      }
    }
  }
}

}  // namespace
}  // namespace shadowkv
