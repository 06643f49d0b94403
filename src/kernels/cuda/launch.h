// What launchers of CUDA twins share on the host: streams, checks, grids. Includable from .cc files too.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <type_traits>

#include "base/cuda_device.h"
#include "kernels/twins.h"

namespace shadowkv::cuda {

using Bf16 = __nv_bfloat16;  // the same bits as shadowkv::bf16, which is for the host

template <typename T>
SHADOWKV_HD constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}
template <typename T>
SHADOWKV_HD constexpr T round_up(T a, T b) {
  return ceil_div(a, b) * b;
}

[[nodiscard]] inline cudaStream_t stream_of(Queue& queue) {
  return static_cast<CudaQueue&>(queue).stream();
}
// Temporaries of one op, as CudaQueue::scratch says.
[[nodiscard]] inline std::byte* scratch_of(Queue& queue, int64_t bytes, const char* op) {
  return static_cast<CudaQueue&>(queue).scratch(bytes, op);
}
[[nodiscard]] inline int64_t scratch_bytes_of(Queue& queue) {
  return static_cast<CudaQueue&>(queue).scratch_bytes();
}
[[nodiscard]] inline CudaDevice& device_of(Queue& queue) {
  return static_cast<CudaDevice&>(queue.device());
}

// Throws DeviceFailure with the op's name if its last launch failed.
inline void check_launch(const char* op) {
  check_cuda(cudaGetLastError(), op);
}

// Throws InvalidInput "op: message". (base/check.h formats with fmt, which nvcc does not take.)
[[noreturn]] void refuse(const char* op, const char* message);
inline void demand(bool condition, const char* op, const char* message) {
  if (!condition) refuse(op, message);
}

// Raises a kernel's limit of dynamic shared memory where it is over the default of 48 KiB.
template <typename Kernel>
void allow_shared(Kernel* kernel, int64_t bytes, const char* op) {
  constexpr int64_t kDefault = 48 << 10;
  if (bytes <= kDefault) return;
  check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             op);
}

// A grid extent; throws InvalidInput where it leaves what a launch takes (2^31 - 1 in x, 65535 in y and z).
[[nodiscard]] inline unsigned grid_x(int64_t blocks, const char* op) {
  demand(blocks <= 0x7fffffff, op, "more blocks than a launch takes; use smaller slices");
  return static_cast<unsigned>(blocks);
}
[[nodiscard]] inline unsigned grid_yz(int64_t blocks, const char* op) {
  demand(blocks <= 65535, op, "more than 65535 blocks along one side of a launch; use smaller batches");
  return static_cast<unsigned>(blocks);
}

// The device memory of a tensor as T; for bfloat16 as __nv_bfloat16. Types were checked by the dispatcher.
template <typename T>
[[nodiscard]] T* device_ptr(const TensorView& view) {
  return reinterpret_cast<T*>(view.data);
}

[[nodiscard]] inline bool is_aligned_16(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}
// Whether every head begins at a multiple of 16 bytes of its block.
[[nodiscard]] inline bool is_aligned_16(const PagedView& view) {
  return view.offset % 16 == 0 && view.head_offset % 16 == 0;
}

// Calls body with a null pointer of the type that holds float32 or bfloat16 numbers.
template <typename Body>
void with_number_type(DType dtype, const char* op, const Body& body) {
  if (dtype == DType::f32) return body(static_cast<float*>(nullptr));
  if (dtype == DType::bf16) return body(static_cast<Bf16*>(nullptr));
  refuse(op, "numbers must be float32 or bfloat16");
}

}  // namespace shadowkv::cuda
