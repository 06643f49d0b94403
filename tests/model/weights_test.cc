#include "model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>

#include "formats/refusal.h"
#include "model/small_model.h"

namespace shadowkv::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class WeightsTest : public ::testing::Test {
 protected:
  std::filesystem::path write_gguf(const GgufWriter& writer) {
    return folder_.write("m.gguf", writer.bytes());
  }
  std::filesystem::path write_hf(std::string_view safetensors, const std::string& more_config = "") {
    folder_.write("config.json", small_hf_config(more_config));
    folder_.write("model.safetensors", safetensors);
    return folder_.path();
  }
  LoadedModel load(const std::filesystem::path& path, DType dtype = DType::f32) {
    return load_model(path, dtype, *device_);
  }
  std::string refusal(const std::filesystem::path& path, DType dtype = DType::f32) {
    return refusal_of([&] { (void)load(path, dtype); });
  }

  TemporaryFolder folder_;
  std::unique_ptr<Device> device_ =
      make_cpu_device({.threads = 2, .device_bytes = 1 << 20, .pinned_bytes = 1 << 20});
};

// In the order of small_model_tensors.
std::vector<TensorView> views(const ModelWeights& weights) {
  std::vector<TensorView> all = {weights.embedding, weights.final_norm, weights.lm_head};
  for (const LayerWeights& layer : weights.layers) {
    all.insert(all.end(), {layer.attention_norm, layer.wq, layer.wk, layer.wv, layer.wo, layer.mlp_norm,
                           layer.gate, layer.up, layer.down});
  }
  return all;
}

void expect_codes(const Matrix& codes, const TensorView& wanted) {
  ASSERT_TRUE(codes.quantized());
  ASSERT_EQ(codes.shape, wanted.shape);
  const int64_t columns = codes.shape[1];
  for (int64_t i = 0; i < codes.elements(); ++i) {
    const int64_t row = i / columns, at = row * columns + code_place(i % columns, columns);
    const float scale = codes.scales.as<float>()[row];
    ASSERT_NEAR(scale * static_cast<float>(codes.as<int8_t>()[at]), wanted.as<float>()[i], 0.501f * scale)
        << i;
  }
}

void expect_small(const ModelWeights& weights) {
  const std::vector<TensorView> found = views(weights);
  const std::vector<SmallTensor> expected = small_model_tensors();
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const TensorView& tensor = found[i];
    ASSERT_EQ(std::vector<int64_t>(tensor.shape.begin(), tensor.shape.begin() + tensor.rank),
              expected[i].shape);
    for (std::size_t j = 0; j < expected[i].values.size(); ++j) {
      const bool wide = tensor.dtype == DType::f32;
      const float value = wide ? tensor.as<float>()[j] : static_cast<float>(tensor.as<bf16>()[j]);
      const float original = expected[i].values[j];
      ASSERT_EQ(value, wide ? original : static_cast<float>(bf16(original)))
          << expected[i].hf_name << " " << j;
    }
  }
}

TEST_F(WeightsTest, AGgufFilesNumbersArriveWhereTheyBelong) {
  expect_small(load(write_gguf(small_gguf())).weights);
}

TEST_F(WeightsTest, AFoldersNumbersArriveWhereTheyBelong) {
  expect_small(load(write_hf(small_safetensors())).weights);
}

TEST_F(WeightsTest, ShardsNumbersArriveWhereTheyBelong) {
  folder_.write("config.json", small_hf_config());
  SafetensorsWriter shards[3];
  std::string places;
  std::size_t next = 0;
  for (const SmallTensor& tensor : small_model_tensors()) {
    if (tensor.hf_name.empty()) continue;
    const std::size_t shard = next++ % 3;
    shards[shard].floats(tensor.hf_name, tensor.shape, tensor.values);
    places += fmt::format("{}\"{}\": \"{}.safetensors\"", places.empty() ? "" : ", ", tensor.hf_name, shard);
  }
  for (std::size_t i = 0; i < 3; ++i) folder_.write(fmt::format("{}.safetensors", i), shards[i].bytes());
  folder_.write("model.safetensors.index.json", "{\"weight_map\": {" + places + "}}");
  expect_small(load(folder_.path()).weights);
}

TEST_F(WeightsTest, InBfloat16MatricesAreRoundedAndNormsKept) {
  const LoadedModel model = load(write_hf(small_safetensors()), DType::bf16);
  expect_small(model.weights);
  EXPECT_EQ(model.weights.layers[1].wq.dtype, DType::bf16);
  EXPECT_EQ(model.weights.layers[1].attention_norm.dtype, DType::f32);
}

// Each number within half a step of the file's, in its place; norms are kept.
TEST_F(WeightsTest, InInt8MatricesAreCodesWithAScaleARow) {
  const LoadedModel exact = load(write_gguf(small_gguf()));
  const LoadedModel model = load(write_gguf(small_gguf()), DType::i8);
  expect_codes(model.weights.embedding, exact.weights.embedding);
  expect_codes(model.weights.lm_head, exact.weights.lm_head);
  for (std::size_t l = 0; l < model.weights.layers.size(); ++l) {
    const LayerWeights &layer = model.weights.layers[l], &wanted = exact.weights.layers[l];
    for (const auto part : {&LayerWeights::wq, &LayerWeights::wk, &LayerWeights::wv, &LayerWeights::wo,
                            &LayerWeights::gate, &LayerWeights::up, &LayerWeights::down}) {
      expect_codes(layer.*part, wanted.*part);
    }
    EXPECT_EQ(layer.mlp_norm.as<float>()[1], wanted.mlp_norm.as<float>()[1]);
  }
}

TEST_F(WeightsTest, Bfloat16NumbersOfTheFileAreKeptToTheBit) {
  std::vector<bf16> halves;
  for (int i = 0; i < 10 * 16; ++i) halves.emplace_back(0.37f * static_cast<float>(i - 80));
  GgufWriter writer = small_gguf();
  writer.tensors[0].type = static_cast<uint32_t>(GgufType::bf16);
  writer.tensors[0].data = bytes_of(halves);
  const LoadedModel model = load(write_gguf(writer), DType::bf16);
  EXPECT_EQ(std::memcmp(model.weights.embedding.data, halves.data(), 320), 0);
}

TEST_F(WeightsTest, BytesAreCountedAsWeightsAndGivenBack) {
  {
    const LoadedModel model = load(write_gguf(small_gguf()));
    int64_t bytes = 0;
    for (const SmallTensor& tensor : small_model_tensors())
      bytes += static_cast<int64_t>(tensor.values.size()) * 4;
    EXPECT_EQ(device_->memory().of(Tier::device, Purpose::weights), bytes);
  }
  EXPECT_EQ(device_->memory().held(Tier::device), 0);
}

TEST_F(WeightsTest, TiedEmbeddingsAreOneMatrix) {
  GgufWriter writer = small_gguf();
  std::erase_if(writer.tensors, [](const auto& tensor) { return tensor.name == "output.weight"; });
  const LoadedModel gguf = load(write_gguf(writer));
  EXPECT_TRUE(gguf.config.tied_embeddings);
  EXPECT_EQ(gguf.weights.lm_head.data, gguf.weights.embedding.data);
  const auto without_head = small_safetensors([](SmallTensor& tensor) {
    if (tensor.hf_name == "lm_head.weight") tensor.hf_name.clear();
  });
  const LoadedModel hf = load(write_hf(without_head));
  EXPECT_TRUE(hf.config.tied_embeddings);
  EXPECT_EQ(hf.weights.lm_head.data, hf.weights.embedding.data);
}

TEST_F(WeightsTest, ACopyOfTiedEmbeddingsInTheFileIsNotLoaded) {
  const LoadedModel model = load(write_hf(small_safetensors(), R"(, "tie_word_embeddings": true)"));
  EXPECT_EQ(model.weights.lm_head.data, model.weights.embedding.data);
}

TEST_F(WeightsTest, ProgressGrowsToOneAndMayInterrupt) {
  const auto path = write_gguf(small_gguf());
  double last = 0;
  (void)load_model(path, DType::f32, *device_, [&](double share) {
    EXPECT_GT(share, last);
    last = share;
  });
  EXPECT_EQ(last, 1.0);
  const auto stop = [](double) { throw Interrupted("stopped"); };
  EXPECT_THROW((void)load_model(path, DType::f32, *device_, stop), Interrupted);
  EXPECT_EQ(device_->memory().held(Tier::device), 0);
}

TEST_F(WeightsTest, AModelLargerThanTheDeviceIsRefusedBeforeItIsRead) {
  device_->set_budget(Tier::device, 10'000);
  bool read = false;
  try {
    (void)load_model(write_gguf(small_gguf()), DType::f32, *device_, [&](double) { read = true; });
    FAIL();
  } catch (const OutOfMemory& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("9.8 KiB of device memory are free"), HasSubstr("Small")));
  }
  EXPECT_FALSE(read);
  EXPECT_EQ(device_->memory().peak[0], 0);
}

TEST_F(WeightsTest, EveryMissingTensorIsNamed) {
  for (const SmallTensor& missing : small_model_tensors()) {
    if (missing.hf_name == "lm_head.weight") continue;  // then embeddings are tied
    const auto bytes = small_safetensors([&](SmallTensor& tensor) {
      if (tensor.hf_name == missing.hf_name) tensor.hf_name.clear();
    });
    EXPECT_THAT(refusal(write_hf(bytes)), AllOf(HasSubstr(missing.hf_name), HasSubstr("is missing")));
  }
}

TEST_F(WeightsTest, AMisshapenTensorIsRefusedWithBothShapes) {
  const auto bytes = small_safetensors([](SmallTensor& tensor) {
    if (tensor.hf_name == "model.layers.1.self_attn.q_proj.weight") tensor.shape = {16, 32};
  });
  EXPECT_THAT(refusal(write_hf(bytes)),
              HasSubstr("\"model.layers.1.self_attn.q_proj.weight\" is [16, 32], expected [32, 16]"));
}

TEST_F(WeightsTest, AllThatIsWrongWithTensorsIsSaidAtOnceBeforeMemoryIsSpent) {
  const auto bytes = small_safetensors([](SmallTensor& tensor) {
    if (tensor.hf_name == "model.norm.weight") tensor.hf_name.clear();
    if (tensor.hf_name == "model.layers.1.mlp.up_proj.weight") tensor.shape = {16, 24};
    if (tensor.hf_name == "model.layers.0.mlp.gate_proj.weight") tensor.hf_name = "stranger";
  });
  EXPECT_THAT(refusal(write_hf(bytes)),
              AllOf(HasSubstr("\"model.norm.weight\" is missing; [16] was expected"),
                    HasSubstr("up_proj.weight\" is [16, 24], expected [24, 16]"),
                    HasSubstr("gate_proj.weight\" is missing"), HasSubstr("\"stranger\" has no place")));
  EXPECT_EQ(device_->memory().peak[0], 0);
  EXPECT_THAT(refusal(write_gguf(small_gguf({{"llama.block_count", 20}}))), HasSubstr("and 142 more"));
}

TEST_F(WeightsTest, PartsOfFusedTensorsArriveWhereTheyBelong) {
  SafetensorsWriter writer;
  std::map<std::string, std::vector<float>> fused;
  for (const SmallTensor& tensor : small_model_tensors()) {
    std::string name = tensor.hf_name;
    for (const auto& [part, whole] : {std::pair{"q_proj", "qkv_proj"},
                                      {"k_proj", "qkv_proj"},
                                      {"v_proj", "qkv_proj"},
                                      {"gate_proj", "gate_up_proj"},
                                      {"up_proj", "gate_up_proj"}}) {
      const std::size_t place = name.find(std::string(".") + part);
      if (place == std::string::npos) continue;
      name.replace(place + 1, std::strlen(part), whole);
      fused[name].insert(fused[name].end(), tensor.values.begin(), tensor.values.end());
      name.clear();
      break;
    }
    if (!name.empty()) writer.floats(name, tensor.shape, tensor.values);
  }
  for (const auto& [name, values] : fused) {
    writer.floats(name, {static_cast<int64_t>(values.size()) / 16, 16}, values);
  }
  expect_small(load(write_hf(writer.bytes(), R"(, "model_type": "phi3")")).weights);
  EXPECT_THAT(refusal(write_hf(small_safetensors(), R"(, "model_type": "phi3")")),
              AllOf(HasSubstr("qkv_proj.weight\" is missing; [64, 16] was expected"),
                    HasSubstr("gate_up_proj.weight\" is missing; [48, 16]")));
}

TEST_F(WeightsTest, ATensorWithoutUseIsRefused) {
  EXPECT_THAT(refusal(write_gguf(small_gguf().floats("blk.0.attn_q.bias", {32}, std::vector<float>(32)))),
              HasSubstr("\"blk.0.attn_q.bias\" has no place"));
  EXPECT_THAT(refusal(write_gguf(small_gguf({{"llama.block_count", 1}}))), HasSubstr("blk.1."));
}

TEST_F(WeightsTest, ATensorOfAnUnsupportedTypeIsRefused) {
  SafetensorsWriter writer;
  for (const SmallTensor& tensor : small_model_tensors()) {
    const bool lies = tensor.hf_name == "model.norm.weight";
    writer.tensor(tensor.hf_name, lies ? "I32" : "F32", tensor.shape, bytes_of(tensor.values));
  }
  EXPECT_THAT(refusal(write_hf(writer.bytes())),
              HasSubstr("\"model.norm.weight\" is of type I32; supported are F32"));
}

TEST_F(WeightsTest, NumbersThatAreNotFiniteAreRefusedWithTheirPlace) {
  for (const float bad :
       {std::nanf(""), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto bytes = small_safetensors([&](SmallTensor& tensor) {
        if (tensor.hf_name == "model.layers.0.mlp.up_proj.weight") tensor.values[16 * 5 + 3] = bad;
      });
      EXPECT_THAT(refusal(write_hf(bytes), dtype), AllOf(HasSubstr("up_proj"), HasSubstr("row 5, column 3")));
    }
  }
}

TEST_F(WeightsTest, NumbersThatOverflowTheComputeTypeAreRefused) {
  const auto bytes = small_safetensors([&](SmallTensor& tensor) {
    if (tensor.hf_name == "lm_head.weight") tensor.values[0] = std::numeric_limits<float>::max();
  });
  EXPECT_EQ(refusal(write_hf(bytes)), "");
  EXPECT_THAT(refusal(write_hf(bytes), DType::bf16), HasSubstr("not finite in bfloat16"));
}

TEST_F(WeightsTest, ComputeTypesOtherThanTheTwoAreRefused) {
  EXPECT_THAT(refusal(write_gguf(small_gguf()), DType::f16), HasSubstr("float32, bfloat16"));
}

TEST_F(WeightsTest, PathsThatHoldNoModelAreRefused) {
  EXPECT_THAT(refusal(folder_.path() / "none.gguf"), HasSubstr("there is no model at"));
  EXPECT_THAT(refusal(folder_.path()), HasSubstr("config.json"));
  const auto hf = write_hf(small_safetensors());
  EXPECT_THAT(refusal(hf / "model.safetensors"), HasSubstr("give its folder"));
  folder_.write("model-00002-of-00002.safetensors", small_safetensors());
  EXPECT_THAT(refusal(hf), HasSubstr("holds 2 .safetensors files"));
}

TEST_F(WeightsTest, ARealModelLoads) {
  const char* path = std::getenv("SHADOWKV_TEST_MODEL");
  if (!path) GTEST_SKIP() << "SHADOWKV_TEST_MODEL does not name the SmolLM2-135M-Instruct GGUF file";
  const auto device = make_cpu_device();
  const LoadedModel model = load_model(path, DType::bf16, *device);
  EXPECT_EQ(model.config.layers, 30);
  EXPECT_EQ(model.config.parameters(), config_from_shape_name("smollm2-135m").parameters());
  EXPECT_EQ(model.weights.lm_head.data, model.weights.embedding.data);
}

}  // namespace
}  // namespace shadowkv::testing
