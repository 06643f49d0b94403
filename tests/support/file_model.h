// A model from a file on a device of the test's own, and sequences that run through it.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "support/tiny_model.h"

namespace shadowkv::testing {

class FileModel {
 public:
  FileModel(const std::filesystem::path& path, DType dtype, std::unique_ptr<Device> device)
      : device_(std::move(device)),
        loaded_(load_model(path, dtype, *device_)),
        transformer_(loaded_.config, loaded_.weights, *device_) {}

  [[nodiscard]] Device& device() { return *device_; }
  [[nodiscard]] const ModelConfig& config() const { return loaded_.config; }
  // Activations are each device's own.
  Methods open(const AttentionConfig& config) {
    AttentionShape shape = shape_of(loaded_.config);
    shape.compute = device_->activation_dtype();
    return {transformer_, shape, loaded_.config.context, *device_, {config}};
  }
  // Logits after the first `prompt` tokens and after each later one, per row.
  std::vector<std::vector<float>> run(const AttentionConfig& config, std::span<const int32_t> ids,
                                      int64_t prompt) {
    const auto count = static_cast<std::size_t>(prompt);
    return open(config).run(0, ids.first(count), ids.subspan(count));
  }

 private:
  std::unique_ptr<Device> device_;
  LoadedModel loaded_;
  Transformer transformer_;
};

}  // namespace shadowkv::testing
