#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/config_files.h"

namespace shadowkv::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

void expect_small(const ModelConfig& config) {
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.vocab_size, 10);
  EXPECT_EQ(config.hidden, 16);
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.inner, 24);
  EXPECT_EQ(config.context, 128);
  EXPECT_FLOAT_EQ(static_cast<float>(config.rms_eps), 1e-5f);
  EXPECT_EQ(config.rope.theta, 5000.0);
  EXPECT_EQ(config.rope.rotary_dim, 8);
  EXPECT_EQ(config.bos_token, 1);
  EXPECT_THAT(config.eos_tokens, ElementsAre(2));
  EXPECT_FALSE(config.tied_embeddings);
}

TEST(Config, AGgufFileAndAFolderOfOneModelSayTheSame) {
  const ModelConfig gguf = from_gguf(small_gguf());
  expect_small(gguf);
  EXPECT_EQ(gguf.name, "Small");
  EXPECT_TRUE(gguf.rope.interleaved);
  const ModelConfig hf = from_hf(small_hf_config());
  expect_small(hf);
  EXPECT_FALSE(hf.rope.interleaved);
}

TEST(Config, ParametersCountEveryMatrixOnce) {
  ModelConfig config = from_hf(small_hf_config());
  int64_t matrices = 0;
  for (const SmallTensor& tensor : small_model_tensors()) {
    if (tensor.shape.size() == 2) matrices += tensor.shape[0] * tensor.shape[1];
  }
  EXPECT_EQ(config.parameters(), matrices);
  config.tied_embeddings = true;
  EXPECT_EQ(config.parameters(), matrices - 10 * 16);
}

TEST(Config, WhatAGgufFileLeavesOutFollowsFromTheRest) {
  const ModelConfig config = from_gguf(small_gguf({{"llama.attention.key_length", -1},
                                                   {"llama.embedding_length", 32},
                                                   {"llama.attention.head_count_kv", -1},
                                                   {"tokenizer.ggml.bos_token_id", -1},
                                                   {"tokenizer.ggml.eos_token_id", -1}}));
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_EQ(config.bos_token, -1);
  EXPECT_TRUE(config.eos_tokens.empty());
}

TEST(Config, AGgufFileWithoutOutputMatrixTiesItsEmbeddings) {
  GgufWriter writer = small_gguf();
  std::erase_if(writer.tensors, [](const auto& tensor) { return tensor.name == "output.weight"; });
  EXPECT_TRUE(from_gguf(writer).tied_embeddings);
}

TEST(Config, TheEndOfATurnEndsAnAnswerToo) {
  EXPECT_THAT(from_gguf(small_gguf().integer("tokenizer.ggml.eot_token_id", 5)).eos_tokens,
              ElementsAre(2, 5));
  EXPECT_THAT(from_gguf(small_gguf().integer("tokenizer.ggml.eot_token_id", 2)).eos_tokens, ElementsAre(2));
}

TEST(Config, GgufFeaturesThatChangeTheArithmeticAreRefused) {
  EXPECT_THAT(gguf_refusal(small_gguf().text("llama.rope.scaling.type", "longrope")),
              HasSubstr("\"longrope\""));
  EXPECT_THAT(gguf_refusal(small_gguf()
                               .text("llama.rope.scaling.type", "yarn")
                               .integer("llama.rope.scaling.original_context_length", 64)
                               .real("llama.rope.scaling.yarn_log_multiplier", 0.1f)),
              HasSubstr("yarn_log_multiplier"));
  EXPECT_EQ(gguf_refusal(small_gguf().text("llama.rope.scaling.type", "none")), "");
  EXPECT_THAT(gguf_refusal(small_gguf().integer("llama.expert_count", 8)), HasSubstr("expert_count"));
  EXPECT_THAT(gguf_refusal(small_gguf().integer("llama.attention.sliding_window", 64)),
              HasSubstr("sliding_window"));
  EXPECT_THAT(gguf_refusal(small_gguf().integer("llama.attention.value_length", 16)),
              HasSubstr("value_length"));
}

TEST(Config, AnUnknownArchitectureIsNamedWithTheKnown) {
  EXPECT_THAT(gguf_refusal(GgufWriter().text("general.architecture", "gpt2")),
              AllOf(HasSubstr("\"gpt2\""), HasSubstr("supported are llama, qwen2")));
  EXPECT_THAT(hf_refusal(R"(, "model_type": "mamba")"),
              AllOf(HasSubstr("\"mamba\""), HasSubstr("llama, mistral, qwen2")));
}

TEST(Config, AMissingGgufKeyIsNamed) {
  for (const char* key : {"llama.block_count", "llama.context_length", "llama.embedding_length",
                          "llama.feed_forward_length", "llama.attention.head_count"}) {
    EXPECT_THAT(gguf_refusal(small_gguf({{key, -1}})), HasSubstr(key));
  }
}

TEST(Config, SizesOutsideWhatIsSupportedAreRefused) {
  EXPECT_THAT(gguf_refusal(small_gguf({{"llama.attention.key_length", 12}})), HasSubstr("head size is 12"));
  EXPECT_THAT(gguf_refusal(small_gguf({{"llama.attention.key_length", 264}})), HasSubstr("head size is 264"));
  EXPECT_THAT(gguf_refusal(small_gguf({{"llama.attention.head_count_kv", 3}})),
              HasSubstr("4 query heads and 3 KV"));
  EXPECT_THAT(gguf_refusal(small_gguf({{"llama.attention.head_count_kv", 0}})), HasSubstr("KV heads is 0"));
  EXPECT_THAT(gguf_refusal(small_gguf({{"llama.attention.head_count", 0}})), HasSubstr("must be positive"));
  EXPECT_THAT(gguf_refusal(small_gguf({{"llama.block_count", 0}})), HasSubstr("layers is 0"));
  EXPECT_THAT(gguf_refusal(small_gguf({{"llama.block_count", 4'000'000'000}})), HasSubstr("layers"));
  EXPECT_THAT(gguf_refusal(small_gguf({{"llama.rope.dimension_count", 10}})), HasSubstr("turns 10"));
  EXPECT_THAT(gguf_refusal(small_gguf({{"tokenizer.ggml.eos_token_id", 10}})), HasSubstr("end token is 10"));
}

TEST(Config, FolderFeaturesThatChangeTheArithmeticAreRefused) {
  EXPECT_THAT(hf_refusal(R"(, "rope_parameters": {"rope_type": "proportional", "factor": 2})"),
              AllOf(HasSubstr("\"proportional\""), HasSubstr("dynamic, llama3")));
  EXPECT_THAT(hf_refusal(R"(, "rope_parameters": {"partial_rotary_factor": 0.5})"),
              HasSubstr("partial_rotary"));
  EXPECT_THAT(hf_refusal(R"(, "hidden_act": "gelu")"), HasSubstr("\"gelu\""));
  EXPECT_THAT(hf_refusal(R"(, "attention_bias": true)"), HasSubstr("attention_bias"));
  EXPECT_THAT(hf_refusal(R"(, "mlp_bias": true)"), HasSubstr("mlp_bias"));
  EXPECT_THAT(hf_refusal(R"(, "quantization_config": {})"), HasSubstr("quantization_config"));
}

TEST(Config, FamiliesHaveTheirParts) {
  const ModelConfig llama = from_hf(small_hf_config());
  EXPECT_FALSE(llama.qkv_bias || llama.head_norms || llama.post_norms);
  const ModelConfig qwen2 = from_hf(small_hf_config(R"(, "model_type": "qwen2")"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.rope.interleaved);
  EXPECT_TRUE(from_hf(small_hf_config(R"(, "model_type": "qwen3")")).head_norms);
  EXPECT_THAT(hf_refusal(R"(, "model_type": "qwen3", "attention_bias": true)"), HasSubstr("attention_bias"));
  const ModelConfig glm4 = from_hf(small_hf_config(R"(, "model_type": "glm4", "attention_bias": true)"));
  EXPECT_TRUE(glm4.qkv_bias && glm4.post_norms && glm4.rope.interleaved);
  EXPECT_EQ(glm4.rope.rotary_dim, 4);
  EXPECT_FALSE(from_hf(small_hf_config(R"(, "model_type": "glm4")")).qkv_bias);
  EXPECT_EQ(
      from_hf(
          small_hf_config(
              R"(, "model_type": "glm", "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 7})"))
          .rope.rotary_dim,
      2);
  EXPECT_THAT(hf_refusal(R"(, "model_type": "glm", "partial_rotary_factor": 1.5)"), HasSubstr("is 1.5"));
}

constexpr const char* kChatglm = R"({"model_type": "chatglm", "padded_vocab_size": 10, "hidden_size": 16,
    "ffn_hidden_size": 24, "num_layers": 2, "num_attention_heads": 4, "multi_query_group_num": 2,
    "multi_query_attention": true, "kv_channels": 8, "seq_length": 128, "layernorm_epsilon": 1e-05,
    "add_qkv_bias": true, "add_bias_linear": false, "rope_ratio": 50 )";

TEST(Config, ChatglmSpellsItsFieldsDifferently) {
  const ModelConfig config = from_hf(std::string(kChatglm) + "}");
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.context, 128);
  EXPECT_EQ(config.rope.theta, 5e5);
  EXPECT_EQ(config.rope.rotary_dim, 4);
  EXPECT_TRUE(config.qkv_bias && config.rope.interleaved);
  const auto refusal = [](const std::string& more) {
    return refusal_of([&] { (void)from_hf(kChatglm + more + "}"); });
  };
  EXPECT_THAT(refusal(R"(, "rmsnorm": false)"), HasSubstr("rmsnorm is false; supported is true"));
  EXPECT_THAT(refusal(R"(, "add_bias_linear": true)"), HasSubstr("add_bias_linear is true"));
  EXPECT_THAT(refusal(R"(, "num_layers": "2")"), HasSubstr("num_layers is"));
  EXPECT_THAT(refusal(R"(, "num_layers": null)"), HasSubstr("has no \"num_layers\""));
}

TEST(Config, WindowsThatEndWithinTheContextAreRefused) {
  EXPECT_THAT(hf_refusal(R"(, "model_type": "mistral", "sliding_window": 64)"),
              HasSubstr("sliding_window is 64 and the context 128"));
  EXPECT_EQ(hf_refusal(R"(, "model_type": "mistral", "sliding_window": null)"), "");
  EXPECT_EQ(hf_refusal(R"(, "model_type": "mistral", "sliding_window": 128)"), "");
  const std::string qwen = R"(, "model_type": "qwen2", "sliding_window": 64, "max_window_layers": 1)";
  EXPECT_EQ(hf_refusal(qwen), "");
  EXPECT_EQ(hf_refusal(qwen + R"(, "use_sliding_window": false)"), "");
  EXPECT_THAT(hf_refusal(qwen + R"(, "use_sliding_window": true)"), HasSubstr("sliding_window is 64"));
  EXPECT_EQ(gguf_refusal(small_gguf().integer("llama.attention.sliding_window", 128)), "");
}

TEST(Config, AFieldOfAnotherKindIsNamedWithWhatWasFound) {
  EXPECT_THAT(hf_refusal(R"(, "hidden_size": "16")"),
              HasSubstr("hidden_size is \"\\x2216\\x22\", expected an integer"));
  EXPECT_THAT(hf_refusal(R"(, "hidden_size": 16.5)"), HasSubstr("hidden_size"));
  EXPECT_THAT(hf_refusal(R"(, "hidden_size": null)"), HasSubstr("has no \"hidden_size\""));
  EXPECT_THAT(hf_refusal(R"(, "rope_theta": "big")"), HasSubstr("rope_theta"));
  EXPECT_THAT(hf_refusal(R"(, "rope_scaling": 7)"), HasSubstr("rope_scaling is not an object"));
  EXPECT_THAT(hf_refusal(R"(, "eos_token_id": [1, "x"])"), HasSubstr("eos_token_id"));
  EXPECT_THAT(hf_refusal(R"(, "hidden_size": 18446744073709551615)"), HasSubstr("expected an integer"));
  EXPECT_THAT(hf_refusal(R"(, "tie_word_embeddings": 1)"), HasSubstr("tie_word_embeddings"));
  EXPECT_NE(refusal_of([&] { (void)from_hf("[]"); }), "");
}

TEST(Config, EndTokensMayBeSeveralAndTheGenerationConfigOverrides) {
  EXPECT_THAT(from_hf(small_hf_config(R"(, "eos_token_id": [2, 4])")).eos_tokens, ElementsAre(2, 4));
  const ModelConfig config = from_hf(small_hf_config(), R"({"eos_token_id": [7, 8], "bos_token_id": 3})");
  EXPECT_THAT(config.eos_tokens, ElementsAre(7, 8));
  EXPECT_EQ(config.bos_token, 3);
  EXPECT_THAT(from_hf(small_hf_config(), R"({"do_sample": false})").eos_tokens, ElementsAre(2));
}

TEST(Config, AFolderWithoutConfigIsRefused) {
  const TemporaryFolder folder;
  EXPECT_THAT(refusal_of([&] { (void)config_from_hf_folder(folder.path()); }), HasSubstr("config.json"));
}

TEST(Config, EveryNamedShapeIsValid) {
  EXPECT_EQ(shape_names().size(), 15u);
  for (const std::string& name : shape_names()) EXPECT_EQ(config_from_shape_name(name).name, name);
}

TEST(Config, NamedShapesHaveTheModelsParameters) {
  const std::pair<const char*, double> sizes[] = {
      {"llama-3-8b", 8.03e9},    {"llama-3.1-8b", 8.03e9},   {"llama-3.2-1b", 1.236e9},
      {"llama-3.2-3b", 3.213e9}, {"yi-9b", 8.83e9},          {"mistral-7b", 7.248e9},
      {"glm-4-9b", 9.484e9},     {"glm-4-0414-9b", 9.400e9}, {"phi-3-mini", 3.82e9},
      {"phi-3-medium", 13.96e9}, {"qwen2-7b", 7.62e9},       {"qwen2.5-0.5b", 0.494e9},
      {"qwen3-8b", 8.191e9},     {"smollm2-135m", 134.5e6}};
  for (const auto& [name, parameters] : sizes) {
    EXPECT_NEAR(static_cast<double>(config_from_shape_name(name).parameters()) / parameters, 1, 1.5e-3)
        << name;
  }
}

TEST(Config, NamedShapesHaveTheirFamiliesParts) {
  const ModelConfig glm = config_from_shape_name("glm-4-9b"), later = config_from_shape_name("glm-4-0414-9b");
  for (const ModelConfig& config : {glm, later}) {
    EXPECT_TRUE(config.qkv_bias);
    EXPECT_EQ(config.rope.rotary_dim, 64);
    EXPECT_TRUE(config.rope.interleaved);
  }
  EXPECT_FALSE(glm.post_norms);
  EXPECT_TRUE(later.post_norms);
  const ModelConfig qwen2 = config_from_shape_name("qwen2-7b"), qwen3 = config_from_shape_name("qwen3-8b");
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.head_norms);
  EXPECT_NEAR(qwen2.rope.magnitude, 1.13863, 1e-5) << "YaRN by 4";
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_TRUE(qwen3.head_norms);
  const ModelConfig phi = config_from_shape_name("phi-3-mini");
  EXPECT_EQ(phi.rope.divisors.size(), 48u);
  EXPECT_NEAR(phi.rope.magnitude, 1.190238, 1e-5) << "LongRoPE by 32 from 4,096";
  EXPECT_FALSE(phi.qkv_bias);
  const ModelConfig llama = config_from_shape_name("llama-3.1-8b");
  EXPECT_FALSE(llama.qkv_bias || llama.head_norms || llama.post_norms || llama.rope.interleaved);
  EXPECT_EQ(llama.rope.divisors.back(), 8.0f);
  EXPECT_TRUE(config_from_shape_name("llama-3-8b").rope.divisors.empty());
}

TEST(Config, AnUnknownShapeSuggestsTheNearest) {
  EXPECT_THAT(refusal_of([] { (void)config_from_shape_name("lama-3-8b"); }),
              AllOf(HasSubstr("did you mean \"llama-3-8b\"?"), HasSubstr("tiny")));
}

}  // namespace
}  // namespace shadowkv::testing
