// The lengths that a plan of cuDNN's reads, in one launch of one thread: no host memory has to outlive it.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/cudnn_attention.h"

namespace shadowkv::cuda {
namespace {

__global__ void store_lengths_kernel(const CallLengths lengths, CallLengths* to) {
  *to = lengths;
}

}  // namespace

void store_lengths(Queue& queue, const CallLengths& lengths, int32_t* to) {
  store_lengths_kernel<<<1, 1, 0, stream_of(queue)>>>(lengths, reinterpret_cast<CallLengths*>(to));
  check_launch("prefill_attention");
}

}  // namespace shadowkv::cuda
