#include "engine/device_choice.h"

#include <charconv>
#include <optional>

#include "base/check.h"
#include "shadowkv/devices.h"

namespace shadowkv {
namespace {

// Which GPU a name means: of "cuda" the first, of "cuda:N" the Nth from 0 on, of others none.
std::optional<int> gpu_of(std::string_view name) {
  if (name == "cuda") return 0;
  if (!name.starts_with("cuda:")) return {};
  const std::string_view number = name.substr(5);
  int ordinal = 0;
  const auto [rest, error] = std::from_chars(number.data(), number.data() + number.size(), ordinal);
  if (error != std::errc() || rest != number.data() + number.size() || ordinal < 0) return {};
  return ordinal;
}

}  // namespace

DType compute_dtype(std::string_view name) {
  require(name == "float32" || name == "bfloat16", "dtype = \"{}\" is unknown; known: bfloat16, float32",
          name);
  return name == "float32" ? DType::f32 : DType::bf16;
}

DType matrix_dtype(const EngineOptions& options) {
  require(options.weights == "dtype" || options.weights == "int8",
          "weights = \"{}\" is unknown; known: dtype, int8", options.weights);
  return options.weights == "int8" ? DType::i8 : compute_dtype(options.dtype);
}

bool is_device_name(std::string_view name) {
  return name == "cpu" || name == "auto" || gpu_of(name).has_value();
}

std::array<int64_t, 2> memory_budgets(const EngineOptions& options) {
  return make_device(options)->memory().budget;
}

std::unique_ptr<Device> make_device(const EngineOptions& options) {
  require(options.threads >= 0, "threads = {} is out of range; it must be 0 (one per core) or more",
          options.threads);
  const std::string& name = options.device;
  require(is_device_name(name), "device = \"{}\" is unknown; known: auto, cpu, cuda, cuda:N", name);
  std::optional<int> gpu = gpu_of(name);
  if (name == "auto" && cuda_device_count() > 0) gpu = 0;
  if (gpu) {
    return make_cuda_device({.ordinal = *gpu,
                             .threads = options.threads,
                             .device_bytes = options.device_bytes,
                             .pinned_bytes = options.host_bytes});
  }
  return make_cpu_device(
      {.threads = options.threads, .device_bytes = options.device_bytes, .pinned_bytes = options.host_bytes});
}

}  // namespace shadowkv
