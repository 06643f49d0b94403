#include "model/families.h"

#include <fmt/core.h>

#include <algorithm>
#include <iterator>

namespace shadowkv {
namespace {

using Role = WeightRole;

constexpr WeightName kHfNames[] = {
    {Role::embedding, "model.embed_tokens.weight"},
    {Role::final_norm, "model.norm.weight"},
    {Role::lm_head, "lm_head.weight"},
    {Role::attention_norm, "model.layers.{}.input_layernorm.weight"},
    {Role::wq, "model.layers.{}.self_attn.q_proj.weight"},
    {Role::wk, "model.layers.{}.self_attn.k_proj.weight"},
    {Role::wv, "model.layers.{}.self_attn.v_proj.weight"},
    {Role::bq, "model.layers.{}.self_attn.q_proj.bias"},
    {Role::bk, "model.layers.{}.self_attn.k_proj.bias"},
    {Role::bv, "model.layers.{}.self_attn.v_proj.bias"},
    {Role::q_norm, "model.layers.{}.self_attn.q_norm.weight"},
    {Role::k_norm, "model.layers.{}.self_attn.k_norm.weight"},
    {Role::wo, "model.layers.{}.self_attn.o_proj.weight"},
    {Role::post_attention_norm, "model.layers.{}.post_self_attn_layernorm.weight"},
    {Role::mlp_norm, "model.layers.{}.post_attention_layernorm.weight"},
    {Role::gate, "model.layers.{}.mlp.gate_proj.weight"},
    {Role::up, "model.layers.{}.mlp.up_proj.weight"},
    {Role::down, "model.layers.{}.mlp.down_proj.weight"},
    {Role::post_mlp_norm, "model.layers.{}.post_mlp_layernorm.weight"},
};
constexpr WeightName kHfFusedMlp[] = {
    {Role::gate, "model.layers.{}.mlp.gate_up_proj.weight"},
    {Role::up, "model.layers.{}.mlp.gate_up_proj.weight"},
};
constexpr WeightName kHfPhi3[] = {
    {Role::wq, "model.layers.{}.self_attn.qkv_proj.weight"},
    {Role::wk, "model.layers.{}.self_attn.qkv_proj.weight"},
    {Role::wv, "model.layers.{}.self_attn.qkv_proj.weight"},
    {Role::gate, "model.layers.{}.mlp.gate_up_proj.weight"},
    {Role::up, "model.layers.{}.mlp.gate_up_proj.weight"},
};
constexpr WeightName kHfChatglm[] = {
    {Role::embedding, "transformer.embedding.word_embeddings.weight"},
    {Role::final_norm, "transformer.encoder.final_layernorm.weight"},
    {Role::lm_head, "transformer.output_layer.weight"},
    {Role::attention_norm, "transformer.encoder.layers.{}.input_layernorm.weight"},
    {Role::wq, "transformer.encoder.layers.{}.self_attention.query_key_value.weight"},
    {Role::wk, "transformer.encoder.layers.{}.self_attention.query_key_value.weight"},
    {Role::wv, "transformer.encoder.layers.{}.self_attention.query_key_value.weight"},
    {Role::bq, "transformer.encoder.layers.{}.self_attention.query_key_value.bias"},
    {Role::bk, "transformer.encoder.layers.{}.self_attention.query_key_value.bias"},
    {Role::bv, "transformer.encoder.layers.{}.self_attention.query_key_value.bias"},
    {Role::wo, "transformer.encoder.layers.{}.self_attention.dense.weight"},
    {Role::mlp_norm, "transformer.encoder.layers.{}.post_attention_layernorm.weight"},
    {Role::gate, "transformer.encoder.layers.{}.mlp.dense_h_to_4h.weight"},
    {Role::up, "transformer.encoder.layers.{}.mlp.dense_h_to_4h.weight"},
    {Role::down, "transformer.encoder.layers.{}.mlp.dense_4h_to_h.weight"},
};
constexpr WeightName kGgufNames[] = {
    {Role::embedding, "token_embd.weight"},
    {Role::final_norm, "output_norm.weight"},
    {Role::lm_head, "output.weight"},
    {Role::attention_norm, "blk.{}.attn_norm.weight"},
    {Role::wq, "blk.{}.attn_q.weight"},
    {Role::wk, "blk.{}.attn_k.weight"},
    {Role::wv, "blk.{}.attn_v.weight"},
    {Role::bq, "blk.{}.attn_q.bias"},
    {Role::bk, "blk.{}.attn_k.bias"},
    {Role::bv, "blk.{}.attn_v.bias"},
    {Role::q_norm, "blk.{}.attn_q_norm.weight"},
    {Role::k_norm, "blk.{}.attn_k_norm.weight"},
    {Role::wo, "blk.{}.attn_output.weight"},
    {Role::post_attention_norm, "blk.{}.post_attention_norm.weight"},
    {Role::mlp_norm, "blk.{}.ffn_norm.weight"},
    {Role::gate, "blk.{}.ffn_gate.weight"},
    {Role::up, "blk.{}.ffn_up.weight"},
    {Role::down, "blk.{}.ffn_down.weight"},
    {Role::post_mlp_norm, "blk.{}.post_ffw_norm.weight"},
};
constexpr WeightName kGgufFusedQkv[] = {
    {Role::wq, "blk.{}.attn_qkv.weight"}, {Role::wk, "blk.{}.attn_qkv.weight"},
    {Role::wv, "blk.{}.attn_qkv.weight"}, {Role::bq, "blk.{}.attn_qkv.bias"},
    {Role::bk, "blk.{}.attn_qkv.bias"},   {Role::bv, "blk.{}.attn_qkv.bias"},
};
constexpr WeightName kGgufFusedMlp[] = {
    {Role::gate, "blk.{}.ffn_up.weight"},
    {Role::up, "blk.{}.ffn_up.weight"},
};

constexpr FieldName kChatglmFields[] = {
    {"num_hidden_layers", "num_layers"},
    {"num_key_value_heads", "multi_query_group_num"},
    {"head_dim", "kv_channels"},
    {"intermediate_size", "ffn_hidden_size"},
    {"max_position_embeddings", "seq_length"},
    {"rms_norm_eps", "layernorm_epsilon"},
    {"vocab_size", "padded_vocab_size"},
    {"attention_bias", "add_qkv_bias"},
    {"mlp_bias", "add_bias_linear"},
};
constexpr FixedFlag kChatglmFlags[] = {
    {"multi_query_attention", true, false}, {"rmsnorm", true, true},
    {"post_layer_norm", true, true},        {"apply_residual_connection_post_layernorm", false, false},
    {"original_rope", true, true},
};

constexpr Family kFamilies[] = {
    {.hf = "llama", .gguf = "llama", .neighbours_gguf = true},
    {.hf = "mistral"},
    {.hf = "qwen2", .gguf = "qwen2", .qkv_bias = Has::always, .windows_by_flag = true},
    {.hf = "qwen3", .gguf = "qwen3", .head_norms = true, .windows_by_flag = true},
    {.hf = "phi3", .gguf = "phi3", .rotary_share = 1.0, .hf_names = kHfPhi3, .gguf_names = kGgufFusedMlp},
    {.hf = "glm",
     .qkv_bias = Has::as_told,
     .neighbours_hf = true,
     .rotary_share = 0.5,
     .hf_names = kHfFusedMlp},
    {.hf = "glm4",
     .gguf = "glm4",
     .qkv_bias = Has::as_told,
     .post_norms = true,
     .neighbours_hf = true,
     .neighbours_gguf = true,
     .rotary_share = 0.5,
     .hf_names = kHfFusedMlp,
     .gguf_names = kGgufFusedMlp},
    {.hf = "chatglm",
     .gguf = "chatglm",
     .qkv_bias = Has::as_told,
     .neighbours_hf = true,
     .neighbours_gguf = true,
     .rotary_share = 0.5,
     .hf_names = kHfChatglm,
     .gguf_names = kGgufFusedMlp,
     .fields = kChatglmFields,
     .flags = kChatglmFlags},
};

std::string_view find_name(std::span<const WeightName> names, WeightRole role) {
  const auto found =
      std::find_if(names.begin(), names.end(), [&](const WeightName& one) { return one.role == role; });
  return found == names.end() ? std::string_view() : found->name;
}

std::string in_layer(std::string_view name, int64_t layer) {
  const std::size_t place = name.find("{}");
  if (place == std::string_view::npos) return std::string(name);
  return fmt::format("{}{}{}", name.substr(0, place), layer, name.substr(place + 2));
}

const Family* find(std::string_view Family::*name, std::string_view wanted) {
  const auto* found = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                   [&](const Family& family) { return family.*name == wanted; });
  return found == std::end(kFamilies) || wanted.empty() ? nullptr : found;
}

std::string known(std::string_view Family::*name) {
  std::string all;
  for (const Family& family : kFamilies) {
    if (!(family.*name).empty()) all += fmt::format("{}{}", all.empty() ? "" : ", ", family.*name);
  }
  return all;
}

}  // namespace

const Family* find_hf_family(std::string_view model_type) {
  return find(&Family::hf, model_type);
}

const Family* find_gguf_family(std::string_view architecture) {
  return find(&Family::gguf, architecture);
}

std::string known_hf_families() {
  return known(&Family::hf);
}

std::string known_gguf_families() {
  return known(&Family::gguf);
}

std::string hf_tensor_name(const Family& family, const PlannedWeight& weight) {
  const std::string_view own = find_name(family.hf_names, weight.role);
  return in_layer(own.empty() ? find_name(kHfNames, weight.role) : own, weight.layer);
}

std::string gguf_tensor_name(const Family& family, const PlannedWeight& weight, bool fused_qkv) {
  std::string_view own = find_name(family.gguf_names, weight.role);
  if (own.empty() && fused_qkv) own = find_name(kGgufFusedQkv, weight.role);
  return in_layer(own.empty() ? find_name(kGgufNames, weight.role) : own, weight.layer);
}

}  // namespace shadowkv
