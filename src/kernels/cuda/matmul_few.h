// x weight^T for few tokens on Hopper, up to three weights of the same x in one launch.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "kernels/cuda/launch.h"

namespace shadowkv::cuda {

namespace few_tokens {
struct Params;
}

// One a device (CudaDevice::state).
class FewTokens {
 public:
  static constexpr int64_t kMostTokens = 64;  // of a call

  struct Call {
    TensorView x;  // [T, in]
    std::span<const MatmulGroupParams::Product> products;
    bool accumulate = false;
  };

  explicit FewTokens(CudaDevice& device);
  ~FewTokens();
  FewTokens(const FewTokens&) = delete;
  FewTokens& operator=(const FewTokens&) = delete;

  // False, with nothing done, where the device, the operands or their sizes are not for it: see
  // takes() in matmul_few.cu. The kernel may start to read weights while the kernel before it on the queue
  // still runs: that must not be what writes them.
  [[nodiscard]] bool run(Queue& queue, const Call& call) const;

 private:
  struct Size;  // a kernel, for up to some number of tokens
  struct Plan;  // how rows and inputs are dealt to blocks

  [[nodiscard]] bool takes(const Call& call) const;
  [[nodiscard]] Plan plan_of(const Call& call) const;
  [[nodiscard]] few_tokens::Params params_of(const Call& call, const Plan& plan, int tokens) const;

  std::vector<Size> sizes_;        // none: the device is not for it
  std::vector<Size> code_sizes_;   // of weights in codes
  std::array<int, 8> clusters_{};  // that run at once, of 1 .. 8 blocks
  void* encode_ = nullptr;         // the driver's cuTensorMapEncodeTiled
};

}  // namespace shadowkv::cuda
