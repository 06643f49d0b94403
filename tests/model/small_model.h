// A complete model of a few thousand numbers, as a GGUF file and as a Hugging Face folder, with every number
// known.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "formats/gguf_writer.h"
#include "formats/safetensors_writer.h"
#include "formats/temporary_file.h"

namespace shadowkv::testing {

// 2 layers, 4 query and 2 KV heads of 8, hidden 16, inner 24, vocabulary 10, embeddings not tied.
struct SmallTensor {
  std::string gguf_name;
  std::string hf_name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

inline std::vector<SmallTensor> small_model_tensors() {
  std::vector<SmallTensor> tensors;
  const auto add = [&](std::string gguf, std::string hf, const std::vector<int64_t>& shape) {
    std::vector<float> values(static_cast<std::size_t>(shape.size() == 1 ? shape[0] : shape[0] * shape[1]));
    const auto start = static_cast<float>(tensors.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = start + static_cast<float>(i) / 512.0f;
    tensors.push_back({gguf + ".weight", hf + ".weight", shape, values});
  };
  add("token_embd", "model.embed_tokens", {10, 16});
  add("output_norm", "model.norm", {16});
  add("output", "lm_head", {10, 16});
  for (int layer = 0; layer < 2; ++layer) {
    const auto both = [&](const char* gguf, const char* hf, const std::vector<int64_t>& shape) {
      add(fmt::format("blk.{}.{}", layer, gguf), fmt::format("model.layers.{}.{}", layer, hf), shape);
    };
    both("attn_norm", "input_layernorm", {16});
    both("attn_q", "self_attn.q_proj", {32, 16});
    both("attn_k", "self_attn.k_proj", {16, 16});
    both("attn_v", "self_attn.v_proj", {16, 16});
    both("attn_output", "self_attn.o_proj", {16, 32});
    both("ffn_norm", "post_attention_layernorm", {16});
    both("ffn_gate", "mlp.gate_proj", {24, 16});
    both("ffn_up", "mlp.up_proj", {24, 16});
    both("ffn_down", "mlp.down_proj", {16, 24});
  }
  return tensors;
}

// Metadata of the GGUF form; `changed` replaces integers by key, and leaves out those whose value is -1.
inline GgufWriter small_gguf_metadata(const std::map<std::string, int64_t>& changed = {}) {
  const std::map<std::string, int64_t> kIntegers = {
      {"llama.block_count", 2},          {"llama.context_length", 128},
      {"llama.embedding_length", 16},    {"llama.feed_forward_length", 24},
      {"llama.attention.head_count", 4}, {"llama.attention.head_count_kv", 2},
      {"llama.attention.key_length", 8}, {"tokenizer.ggml.bos_token_id", 1},
      {"tokenizer.ggml.eos_token_id", 2}};
  std::map<std::string, int64_t> integers = kIntegers;
  for (const auto& [key, value] : changed) integers[key] = value;
  GgufWriter writer;
  writer.text("general.architecture", "llama").text("general.name", "Small");
  for (const auto& [key, value] : integers) {
    if (value >= 0) writer.integer(key, static_cast<uint32_t>(value));
  }
  return writer.real("llama.attention.layer_norm_rms_epsilon", 1e-5f).real("llama.rope.freq_base", 5000.0f);
}

inline GgufWriter small_gguf(const std::map<std::string, int64_t>& changed = {}) {
  GgufWriter writer = small_gguf_metadata(changed);
  for (const SmallTensor& tensor : small_model_tensors()) {
    writer.floats(tensor.gguf_name, {tensor.shape.begin(), tensor.shape.end()}, tensor.values);
  }
  return writer;
}

// config.json with `more` fields (", \"key\": value ...") after the usual ones; a later one counts.
inline std::string small_hf_config(const std::string& more = "") {
  return R"({"model_type": "llama", "vocab_size": 10, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-05, "rope_theta": 5000.0, "hidden_act": "silu",
    "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false, "rope_scaling": null,
    "bos_token_id": 1, "eos_token_id": 2)" +
         more + "}";
}

inline std::string small_safetensors(const std::function<void(SmallTensor&)>& change = [](SmallTensor&) {}) {
  SafetensorsWriter writer;
  for (SmallTensor tensor : small_model_tensors()) {
    change(tensor);
    if (!tensor.hf_name.empty()) writer.floats(tensor.hf_name, tensor.shape, tensor.values);
  }
  return writer.bytes();
}

}  // namespace shadowkv::testing
