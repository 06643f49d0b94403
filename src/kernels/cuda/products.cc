#include "kernels/cuda/products.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "kernels/cuda/launch.h"
#include "shadowkv/error.h"

namespace shadowkv::cuda {
namespace {

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceFailure(fmt::format("{}: cuBLASLt reported {}", what, cublasLtGetStatusString(status)));
}

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

// Bytes that an address is a multiple of, up to what cuBLASLt asks about.
int alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return static_cast<int>(address == 0 ? 256 : std::min<uintptr_t>(256, address & (~address + 1)));
}

}  // namespace

struct Products::Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  explicit Plan(const ProductShape& s) {
    check(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    set(CUBLASLT_MATMUL_DESC_TRANSA, s.transpose_a);
    set(CUBLASLT_MATMUL_DESC_TRANSB, s.transpose_b);
    a = layout(s.inputs, s.transpose_a ? s.k : s.m, s.transpose_a ? s.m : s.k, s.lda);
    b = layout(s.inputs, s.transpose_b ? s.n : s.k, s.transpose_b ? s.k : s.n, s.ldb);
    c = layout(s.output, s.m, s.n, s.ldc);
  }
  ~Plan() {
    cublasLtMatrixLayoutDestroy(c);
    cublasLtMatrixLayoutDestroy(b);
    cublasLtMatrixLayoutDestroy(a);
    cublasLtMatmulDescDestroy(product);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  void set(cublasLtMatmulDescAttributes_t attribute, bool transpose) const {
    const cublasOperation_t value = transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof(value)), "describing a product");
  }
  static cublasLtMatrixLayout_t layout(DType dtype, int64_t rows, int64_t columns, int64_t stride) {
    cublasLtMatrixLayout_t made = nullptr;
    check(cublasLtMatrixLayoutCreate(&made, type_of(dtype), static_cast<uint64_t>(rows),
                                     static_cast<uint64_t>(columns), stride),
          "describing a matrix");
    return made;
  }

  // False where there is no kernel.
  bool choose(cublasLtHandle_t handle, const ProductShape& s) {
    cublasLtMatmulPreference_t wish = nullptr;
    check(cublasLtMatmulPreferenceCreate(&wish), "describing a choice of products");
    const auto destroy = [](cublasLtMatmulPreference_t p) { cublasLtMatmulPreferenceDestroy(p); };
    const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, decltype(destroy)> owner(
        wish, destroy);
    const auto prefer = [wish](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(wish, attribute, &value, sizeof(value)),
            "describing a choice of products");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(CudaQueue::kWorkspaceBytes));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(s.alignment_a));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(s.alignment_b));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(s.alignment_c));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(s.alignment_c));
    std::array<cublasLtMatmulHeuristicResult_t, 4> found{};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, product, a, b, c, c, wish, static_cast<int>(found.size()), found.data(), &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return false;
    check(status, "choosing a product");
    for (int i = 0; i < count; ++i) {
      if (found[static_cast<std::size_t>(i)].state != CUBLAS_STATUS_SUCCESS) continue;
      algorithm = found[static_cast<std::size_t>(i)].algo;
      return true;
    }
    return false;
  }
};

Products::Products(CudaDevice& /*device*/) {
  check(cublasLtCreate(&handle_), "starting cuBLASLt");
}

Products::~Products() {
  plans_.clear();
  cublasLtDestroy(handle_);
}

const Products::Plan* Products::plan_for(const ProductShape& shape) {
  const std::lock_guard lock(mutex_);
  const auto [place, is_new] = plans_.try_emplace(shape);
  if (is_new) {
    auto plan = std::make_unique<Plan>(shape);
    if (plan->choose(handle_, shape)) place->second = std::move(plan);
  }
  return place->second.get();
}

bool Products::run(Queue& queue, ProductShape shape, const ProductOperands& operands) {
  shape.alignment_a = alignment_of(operands.a);
  shape.alignment_b = alignment_of(operands.b);
  shape.alignment_c = alignment_of(operands.c);
  const Plan* plan = plan_for(shape);
  if (plan == nullptr) return false;
  const float one = 1.0f, old = operands.accumulate ? 1.0f : 0.0f;
  const cublasStatus_t status = cublasLtMatmul(handle_, plan->product, &one, operands.a, plan->a, operands.b,
                                               plan->b, &old, operands.c, plan->c, operands.c, plan->c,
                                               &plan->algorithm, static_cast<CudaQueue&>(queue).workspace(),
                                               CudaQueue::kWorkspaceBytes, stream_of(queue));
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return false;
  check(status, "multiplying matrices");
  return true;
}

}  // namespace shadowkv::cuda
