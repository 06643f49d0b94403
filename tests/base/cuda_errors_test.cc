// What the runtime's errors become. Needs no GPU.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/cuda_device.h"
#include "base/cuda_error.h"
#include "shadowkv/device_lost.h"
#include "shadowkv/error.h"

namespace shadowkv {
namespace {

using ::testing::HasSubstr;

template <typename Failure>
std::string message_of(cudaError_t error, int64_t bytes = -1) {
  try {
    check_cuda(error, "copying memory", bytes);
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "nothing was thrown";
}

TEST(CudaErrors, SayWhatFailedAndWithWhatSize) {
  const std::string sized = message_of<DeviceFailure>(cudaErrorInvalidValue, int64_t{3} << 20);
  EXPECT_THAT(sized, HasSubstr("copying memory (3.0 MiB): the GPU reported cudaErrorInvalidValue"));
  EXPECT_THAT(message_of<DeviceFailure>(cudaErrorInvalidValue), HasSubstr("copying memory: the GPU"));
  EXPECT_NO_THROW(check_cuda(cudaSuccess, "copying memory"));
}

TEST(CudaErrors, OfMemoryAreOutOfMemory) {
  EXPECT_THAT(message_of<OutOfMemory>(cudaErrorMemoryAllocation, 1024), HasSubstr("--device-memory"));
}

TEST(CudaErrors, ThatLastLoseTheDevice) {
  for (const cudaError_t error : {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorLaunchTimeout,
                                  cudaErrorMisalignedAddress, cudaErrorECCUncorrectable}) {
    EXPECT_THAT(message_of<DeviceLost>(error), HasSubstr("is lost")) << cudaGetErrorName(error);
  }
  for (const cudaError_t error : {cudaErrorInvalidValue, cudaErrorInvalidConfiguration, cudaErrorNotReady}) {
    EXPECT_THROW(check_cuda(error, "x"), DeviceFailure);
    EXPECT_NO_THROW({
      try {
        check_cuda(error, "x");
      } catch (const DeviceLost&) {
        ADD_FAILURE() << cudaGetErrorName(error);
      } catch (const DeviceFailure&) {
      }
    });
  }
}

}  // namespace
}  // namespace shadowkv
