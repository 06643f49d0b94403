// A model's file or folder: its config, and its tensors by what they are for.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "formats/encoding.h"
#include "model/weights_plan.h"

namespace shadowkv {

struct SourceTensor {
  Encoding encoding = Encoding::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;  // whole rows of whole blocks; lives as long as the source
};

class WeightSource {
 public:
  // A .gguf file or a Hugging Face folder; throws InvalidInput naming the path when it is neither or damaged.
  static std::unique_ptr<WeightSource> open(const std::filesystem::path& path);

  virtual ~WeightSource() = default;
  [[nodiscard]] virtual const ModelConfig& config() const = 0;
  [[nodiscard]] virtual std::string path() const = 0;  // of the file that holds the tensors
  [[nodiscard]] virtual std::string name_of(const PlannedWeight& weight) const = 0;
  // Nothing when the file has no tensor of that name; throws InvalidInput when its type is not supported.
  [[nodiscard]] virtual std::optional<SourceTensor> find(const std::string& name) const = 0;
  // Of the tensors that take part in the arithmetic.
  [[nodiscard]] virtual std::vector<std::string> names() const = 0;
};

}  // namespace shadowkv
