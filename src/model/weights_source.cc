#include "model/weights_source.h"

#include <algorithm>
#include <system_error>

#include "base/check.h"
#include "formats/gguf.h"
#include "formats/quote.h"
#include "formats/sharded_safetensors.h"
#include "model/families.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;

class GgufSource final : public WeightSource {
 public:
  explicit GgufSource(const fs::path& path)
      : file_(path), config_(config_from_gguf(file_)), family_(*find_gguf_family(config_.architecture)) {}

  [[nodiscard]] const ModelConfig& config() const override { return config_; }
  [[nodiscard]] std::string path() const override { return file_.path().string(); }
  [[nodiscard]] std::string name_of(const PlannedWeight& weight) const override {
    return gguf_tensor_name(family_, weight, file_.find_tensor("blk.0.attn_qkv.weight") != nullptr);
  }
  [[nodiscard]] std::optional<SourceTensor> find(const std::string& name) const override {
    const GgufTensor* tensor = file_.find_tensor(name);
    if (!tensor) return {};
    return SourceTensor{tensor->type, tensor->shape, tensor->data};
  }
  // Leaves out what belongs to the configuration.
  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const GgufTensor& tensor : file_.tensors()) {
      if (!is_of_rope(tensor.name)) names.push_back(tensor.name);
    }
    return names;
  }

 private:
  static bool is_of_rope(std::string_view name) {
    return name == "rope_freqs.weight" || name == "rope_factors_short.weight" ||
           name == "rope_factors_long.weight";
  }

  GgufFile file_;
  ModelConfig config_;
  const Family& family_;
};

class HfSource final : public WeightSource {
 public:
  explicit HfSource(const fs::path& folder)
      : config_(config_from_hf_folder(folder)),
        family_(*find_hf_family(config_.architecture)),
        tensors_(folder),
        head_(hf_tensor_name(family_, {WeightRole::lm_head, -1, {}, 0, DType::f32})) {
    if (!tensors_.find_tensor(head_)) config_.tied_embeddings = true;
  }

  [[nodiscard]] const ModelConfig& config() const override { return config_; }
  [[nodiscard]] std::string path() const override { return tensors_.path().string(); }
  [[nodiscard]] std::string name_of(const PlannedWeight& weight) const override {
    return hf_tensor_name(family_, weight);
  }
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
        const bool is_copy = config_.tied_embeddings && tensor.name == head_;
        if (!is_copy && !is_frequencies(tensor.name)) names.push_back(tensor.name);
      }
    }
    return names;
  }

 private:
  static bool is_frequencies(std::string_view name) {
    return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".rotary_pos_emb.inv_freq");
  }

  ModelConfig config_;
  const Family& family_;
  ShardedSafetensors tensors_;
  std::string head_;  // the name of the output matrix
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
