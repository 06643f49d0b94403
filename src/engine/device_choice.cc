#include "engine/device_choice.h"

#include "base/check.h"

namespace shadowkv {

DType compute_dtype(std::string_view name) {
  require(name == "float32" || name == "bfloat16", "dtype = \"{}\" is unknown; known: bfloat16, float32",
          name);
  return name == "float32" ? DType::f32 : DType::bf16;
}

std::unique_ptr<Device> make_device(const EngineOptions& options) {
  require(options.threads >= 0, "threads = {} is out of range; it must be 0 (one per core) or more",
          options.threads);
  const std::string& name = options.device;
  require(name == "cpu" || name == "cuda" || name == "auto",
          "device = \"{}\" is unknown; known: auto, cpu, cuda", name);
  if (name == "cuda" || (name == "auto" && cuda_device_count() > 0)) {
    return make_cuda_device({.threads = options.threads,
                             .device_bytes = options.device_bytes,
                             .pinned_bytes = options.host_bytes});
  }
  return make_cpu_device(
      {.threads = options.threads, .device_bytes = options.device_bytes, .pinned_bytes = options.host_bytes});
}

}  // namespace shadowkv
