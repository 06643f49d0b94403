// How errors of the CUDA runtime become exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace shadowkv {

// Unless `error` is cudaSuccess, throws "what (size): the GPU reported ...": OutOfMemory when the GPU has no
// memory left, DeviceLost after an error that stays until the process ends, DeviceFailure otherwise. A size
// below 0 is left out, as check_cuda(error, what) of cuda_device.h does.
void check_cuda(cudaError_t error, const char* what, int64_t bytes);

}  // namespace shadowkv
