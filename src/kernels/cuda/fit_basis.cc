// The Gram matrix of the centred keys by cuBLASLt, its eigenvectors by cuSOLVER in float32. Bound: the
// eigenvectors. Synchronises: it runs in prefill only.
#include <cusolverDn.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "kernels/cuda/low_rank.h"
#include "kernels/cuda/products.h"

namespace shadowkv::cuda {
namespace {

void check(cusolverStatus_t status, const char* what) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  throw DeviceFailure(fmt::format("fit_basis: {}: cuSOLVER reported {}", what, static_cast<int>(status)));
}

// One a device.
class Solver {
 public:
  explicit Solver(CudaDevice& /*device*/) { check(cusolverDnCreate(&handle_), "starting"); }
  ~Solver() { cusolverDnDestroy(handle_); }
  Solver(const Solver&) = delete;
  Solver& operator=(const Solver&) = delete;
  [[nodiscard]] cusolverDnHandle_t handle() const { return handle_; }

 private:
  cusolverDnHandle_t handle_ = nullptr;
};

// Memory of one decomposition of [width, width].
struct Workspace {
  Workspace(CudaDevice& device, int64_t width, int64_t work_numbers)
      : memory(device.allocate(Tier::device, Purpose::activations,
                               (width * width + width + work_numbers) * int64_t{sizeof(float)} + 256)) {
    flags = reinterpret_cast<int32_t*>(memory.data());
    gram = reinterpret_cast<float*>(memory.data() + 256);
    work = gram + width * width;
    values = work + work_numbers;
  }
  Buffer memory;
  int32_t* flags;  // [2]: diagonal is finite; cuSOLVER's info
  float* gram;     // [width, width], then the eigenvectors as rows, smallest value first
  float* work;
  float* values;  // [width]
};

void fill_gram(Queue& queue, const FitBasisParams& p, float* gram) {
  CudaDevice& device = device_of(queue);
  const int64_t tokens = p.x.shape[0], width = p.x.shape[1], row_bytes = width * size_of(p.x.dtype);
  const int64_t most = scratch_bytes_of(queue) / row_bytes;  // tokens whose centred copy fits the scratch
  require(most > 0, "fit_basis: keys {} are too wide for a GPU's scratch memory", p.x.describe());
  ProductShape shape;
  shape.m = shape.n = shape.lda = shape.ldb = shape.ldc = width;
  shape.transpose_b = true;
  shape.inputs = p.x.dtype;
  shape.output = DType::f32;
  for (int64_t first = 0; first < tokens; first += most) {
    shape.k = std::min(most, tokens - first);
    std::byte* centred = scratch_of(queue, shape.k * row_bytes, "fit_basis");
    launch_centre(queue, p.x.data + first * row_bytes, p.x.dtype, shape.k, width, device_ptr<float>(p.mean),
                  centred);
    if (!device.state<Products>().run(queue, shape, {centred, centred, gram, first > 0})) {
      throw DeviceFailure(fmt::format("fit_basis: cuBLASLt has no product for keys {}", p.x.describe()));
    }
  }
}

void read_flags(Queue& queue, const Workspace& space, std::array<int32_t, 2>& flags) {
  queue.copy(flags.data(), space.flags, static_cast<int64_t>(sizeof(flags)));
  queue.synchronize();
}

}  // namespace

void fit_basis(Queue& queue, const FitBasisParams& p) {
  CudaDevice& device = device_of(queue);
  const int64_t width = p.x.shape[1];
  const auto n = static_cast<int>(width);
  cusolverDnHandle_t handle = device.state<Solver>().handle();
  check(cusolverDnSetStream(handle, stream_of(queue)), "choosing a stream");
  int work_numbers = 0;
  check(cusolverDnSsyevd_bufferSize(handle, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n, nullptr, n,
                                    nullptr, &work_numbers),
        "asking for the workspace");
  const Workspace space(device, width, work_numbers);
  std::array<int32_t, 2> flags{};
  fill_gram(queue, p, space.gram);
  launch_check_diagonal(queue, space.gram, width, space.flags);
  read_flags(queue, space, flags);
  require(flags[0] == 1, "fit_basis: the keys {} hold numbers that are not finite", p.x.describe());
  check(cusolverDnSsyevd(handle, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n, space.gram, n,
                         space.values, space.work, work_numbers, space.flags + 1),
        "finding eigenvectors");
  launch_store_basis(queue, space.gram, p.basis);
  read_flags(queue, space, flags);
  require(flags[1] == 0, "fit_basis: the eigenvectors of {} keys were not found", p.x.describe());
}

}  // namespace shadowkv::cuda
