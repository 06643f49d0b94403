// Exact causal attention by cuDNN's fused kernels.
#pragma once

#include "kernels/cuda/launch.h"

namespace shadowkv::cuda {

// Lengths of one call, as plans that serve all lengths read them from device memory.
struct CallLengths {
  int32_t queries = 0;             // tokens
  int32_t keys = 0;                // tokens
  int32_t query_ends[2] = {0, 0};  // elements in front of the first sequence's queries and behind its last
  int32_t key_ends[2] = {0, 0};    // the same of keys, and of values
};
// to: a CallLengths, device. In queue order.
void store_lengths(Queue& queue, const CallLengths& lengths, int32_t* to);

// False, with nothing done, where cuDNN is not on this machine or has no kernel for the shape, and always in
// builds without its headers. Throws DeviceFailure.
#ifdef SHADOWKV_CUDNN
[[nodiscard]] bool run_cudnn_attention(Queue& queue, const PrefillAttentionParams& params);
#else
[[nodiscard]] inline bool run_cudnn_attention(Queue& /*queue*/, const PrefillAttentionParams& /*params*/) {
  return false;
}
#endif

}  // namespace shadowkv::cuda
