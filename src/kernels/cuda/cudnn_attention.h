// Exact causal attention by cuDNN's fused kernels.
#pragma once

#include "kernels/cuda/launch.h"

namespace shadowkv::cuda {

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
