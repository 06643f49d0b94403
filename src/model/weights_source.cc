#include "model/weights_source.h"

#include <algorithm>
#include <system_error>

#include "base/check.h"
#include "formats/gguf.h"
#include "formats/quote.h"
#include "formats/sharded_safetensors.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;

std::string gguf_name(const PlannedWeight& weight) {
  const auto in_layer = [&](const char* name) { return fmt::format("blk.{}.{}.weight", weight.layer, name); };
  switch (weight.role) {
    case WeightRole::embedding:
      return "token_embd.weight";
    case WeightRole::final_norm:
      return "output_norm.weight";
    case WeightRole::lm_head:
      return "output.weight";
    case WeightRole::attention_norm:
      return in_layer("attn_norm");
    case WeightRole::wq:
      return in_layer("attn_q");
    case WeightRole::wk:
      return in_layer("attn_k");
    case WeightRole::wv:
      return in_layer("attn_v");
    case WeightRole::wo:
      return in_layer("attn_output");
    case WeightRole::mlp_norm:
      return in_layer("ffn_norm");
    case WeightRole::gate:
      return in_layer("ffn_gate");
    case WeightRole::up:
      return in_layer("ffn_up");
    case WeightRole::down:
      break;
  }
  return in_layer("ffn_down");
}

std::string hf_name(const PlannedWeight& weight) {
  const auto in_layer = [&](const char* name) {
    return fmt::format("model.layers.{}.{}.weight", weight.layer, name);
  };
  switch (weight.role) {
    case WeightRole::embedding:
      return "model.embed_tokens.weight";
    case WeightRole::final_norm:
      return "model.norm.weight";
    case WeightRole::lm_head:
      return "lm_head.weight";
    case WeightRole::attention_norm:
      return in_layer("input_layernorm");
    case WeightRole::wq:
      return in_layer("self_attn.q_proj");
    case WeightRole::wk:
      return in_layer("self_attn.k_proj");
    case WeightRole::wv:
      return in_layer("self_attn.v_proj");
    case WeightRole::wo:
      return in_layer("self_attn.o_proj");
    case WeightRole::mlp_norm:
      return in_layer("post_attention_layernorm");
    case WeightRole::gate:
      return in_layer("mlp.gate_proj");
    case WeightRole::up:
      return in_layer("mlp.up_proj");
    case WeightRole::down:
      break;
  }
  return in_layer("mlp.down_proj");
}

class GgufSource final : public WeightSource {
 public:
  explicit GgufSource(const fs::path& path) : file_(path), config_(config_from_gguf(file_)) {}

  [[nodiscard]] const ModelConfig& config() const override { return config_; }
  [[nodiscard]] std::string path() const override { return file_.path().string(); }
  [[nodiscard]] std::string name_of(const PlannedWeight& weight) const override { return gguf_name(weight); }
  [[nodiscard]] std::optional<SourceTensor> find(const std::string& name) const override {
    const GgufTensor* tensor = file_.find_tensor(name);
    if (!tensor) return {};
    return SourceTensor{tensor->type, tensor->shape, tensor->data};
  }
  // Leaves out what belongs to the configuration.
  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const GgufTensor& tensor : file_.tensors()) {
      if (tensor.name != "rope_freqs.weight") names.push_back(tensor.name);
    }
    return names;
  }

 private:
  GgufFile file_;
  ModelConfig config_;
};

class HfSource final : public WeightSource {
 public:
  explicit HfSource(const fs::path& folder) : config_(config_from_hf_folder(folder)), tensors_(folder) {
    if (!tensors_.find_tensor("lm_head.weight")) config_.tied_embeddings = true;
  }

  [[nodiscard]] const ModelConfig& config() const override { return config_; }
  [[nodiscard]] std::string path() const override { return tensors_.path().string(); }
  [[nodiscard]] std::string name_of(const PlannedWeight& weight) const override { return hf_name(weight); }
  [[nodiscard]] std::optional<SourceTensor> find(const std::string& name) const override {
    const SafetensorsTensor* tensor = tensors_.find_tensor(name);
    if (!tensor) return {};
    require(tensor->encoding.has_value(), "{}: tensor {} is of type {}; supported are F32, F16, BF16", path(),
            in_quotes(name), tensor->dtype);
    return SourceTensor{*tensor->encoding, tensor->shape, tensor->data};
  }
  // Leaves out what older files store beside the weights and the config already says: rotary frequencies, and
  // a copy of tied embeddings.
  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const SafetensorsFile& file : tensors_.files()) {
      for (const SafetensorsTensor& tensor : file.tensors()) {
        const bool is_copy = config_.tied_embeddings && tensor.name == "lm_head.weight";
        if (!is_copy && !tensor.name.ends_with(".rotary_emb.inv_freq")) names.push_back(tensor.name);
      }
    }
    return names;
  }

 private:
  ModelConfig config_;
  ShardedSafetensors tensors_;
};

}  // namespace

std::unique_ptr<WeightSource> WeightSource::open(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  require(fs::exists(status), "there is no model at {}; give a .gguf file or a folder with config.json",
          path.string());
  if (fs::is_directory(status)) return std::make_unique<HfSource>(path);
  require(path.extension() != ".safetensors",
          "{} holds weights alone; give its folder, with config.json in it", path.string());
  return std::make_unique<GgufSource>(path);
}

}  // namespace shadowkv
