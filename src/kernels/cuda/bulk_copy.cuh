// Barriers in shared memory and bulk copies to it, which Hopper and later have.
#pragma once

#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {

__device__ inline void init_barrier(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared.b64 [%0], 1;\n" ::"r"(shared_address(barrier)) : "memory");
}
// Makes barriers that this thread initialised visible to copies.
__device__ inline void publish_barriers() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
// The barrier's one arrival: its phase ends once `bytes` have come. What this thread wrote before can be read
// by those who waited for the phase.
__device__ inline void expect_bytes(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
// The barrier's one arrival, without bytes.
__device__ inline void arrive(uint64_t* barrier) {
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

}  // namespace shadowkv::cuda
