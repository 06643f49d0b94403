// Barriers in shared memory, the asynchronous copies that end their phases, and kernels that are set up
// early: Hopper and later.
#pragma once

#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {

// arrivals: that end a phase, once the bytes expected have come too.
__device__ inline void init_barrier(uint64_t* barrier, uint32_t arrivals = 1) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(arrivals)
               : "memory");
}
// Makes barriers that this thread initialised visible to copies.
__device__ inline void publish_barriers() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
// One arrival, and `bytes` more to come before the phase ends.
__device__ inline void expect_bytes(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
__device__ inline void arrive_at(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}
__device__ inline void wait_for_phase(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
// Addresses and bytes are multiples of 16.
__device__ inline void copy_bulk(std::byte* to, const std::byte* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// One lane of the warp, which must be whole.
__device__ inline bool is_elected() {
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred one;\n"
      "elect.sync _|one, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, one;\n"
      "}\n"
      : "=r"(elected));
  return elected != 0;
}

// From Hopper on a kernel may be set up while the one before it still runs: once all blocks of that have
// called let_next_kernel_start() or ended; what it wrote is there after wait_for_earlier_kernel(). A kernel
// that is launched so must wait in every block: then whoever waits for it has waited for all before it too.
__device__ inline void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}
__device__ inline void wait_for_earlier_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

// Whether the device has bulk copies and early launches: Hopper and later.
inline bool has_bulk_copies(Queue& queue, const char* op) {
  int major = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_of(queue).ordinal()),
             op);
  return major >= 9;
}

// Launches a kernel that may be set up while the one before it on the queue still runs, where the device can:
// all of its threads call wait_for_earlier_kernel() before they touch what that may write or read.
struct EarlyLaunch {
  Queue& queue;
  dim3 blocks;
  int threads;
  const char* op;
  int64_t shared = 0;  // dynamic, bytes
};
template <typename... Parameters, typename... Arguments>
void launch_early(const EarlyLaunch& launch, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = launch.blocks;
  config.dynamicSmemBytes = static_cast<size_t>(launch.shared);
  config.blockDim = static_cast<unsigned>(launch.threads);
  config.stream = stream_of(launch.queue);
  config.attrs = &early;
  config.numAttrs = has_bulk_copies(launch.queue, launch.op) ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), launch.op);
}

}  // namespace shadowkv::cuda
