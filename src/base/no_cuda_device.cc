// Stands in for cuda_device.cc in builds without CUDA.
#include "base/device.h"
#include "shadowkv/error.h"

namespace shadowkv {

int cuda_device_count() {
  return 0;
}

std::unique_ptr<Device> make_cuda_device(const CudaDeviceOptions& /*options*/) {
  throw InvalidInput("this build has no CUDA; take --device cpu, or build with ./run build --cuda");
}

}  // namespace shadowkv
