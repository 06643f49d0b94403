// Products by cuBLASLt: plans found once a shape and kept with the device.
#pragma once

#include <cublasLt.h>

#include <compare>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "base/cuda_device.h"

namespace shadowkv::cuda {

// c = op(a) op(b) (+ c, when accumulate), column-major as cuBLAS has it, sums in float32.
struct ProductShape {
  int64_t m = 0, n = 0, k = 0;        // c is [m, n]
  int64_t lda = 0, ldb = 0, ldc = 0;  // numbers between columns
  bool transpose_a = false, transpose_b = false;
  DType inputs = DType::bf16;  // of a and b: float32 or bfloat16
  DType output = DType::bf16;
  int alignment_a = 0, alignment_b = 0, alignment_c = 0;  // bytes; set by run()

  auto operator<=>(const ProductShape&) const = default;
};

struct ProductOperands {
  const void* a;
  const void* b;
  void* c;
  bool accumulate;
};

// One a device (CudaDevice::state). A product takes the workspace of its queue.
class Products {
 public:
  explicit Products(CudaDevice& /*device*/);
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // False, with nothing done, where cuBLASLt has no kernel for the shape. Throws DeviceFailure.
  [[nodiscard]] bool run(Queue& queue, ProductShape shape, const ProductOperands& operands);

 private:
  struct Plan;
  [[nodiscard]] const Plan* plan_for(const ProductShape& shape);

  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  std::map<ProductShape, std::unique_ptr<Plan>> plans_;  // guarded by mutex_; null: no kernel
};

}  // namespace shadowkv::cuda
