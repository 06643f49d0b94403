// The Gram matrix of the centred keys by cuBLASLt, and its leading subspace by power steps on rows that are
// made orthonormal in between. From random signs six steps hold 0.995 of the most energy that so many rows
// can hold where eigenvalues fall as 1 / n, more where they fall faster. Bound: 2 * T * W * W operations for
// many tokens, for few the latency of some thirty launches. Synchronises once, at the end: it runs in prefill
// only.
#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/low_rank.h"
#include "kernels/cuda/orthonormal.h"
#include "kernels/cuda/products.h"

namespace shadowkv::cuda {
namespace {

// Products with the Gram matrix between two orthonormalisations. Two in a row square the ratio of the largest
// eigenvalue to the smallest one wanted, beyond what float32 keeps apart on steep spectra; the single ones at
// the end bring those rows back.
constexpr int kSteps[] = {2, 2, 1, 1};

// Float32 matrices, and what orthonormalising takes.
struct Workspace {
  Workspace(CudaDevice& device, int64_t width, int64_t rank)
      : memory(device.allocate(Tier::device, Purpose::prompts,
                               256 + orthonormal_work_numbers(rank, width) * int64_t{sizeof(double)} +
                                   (width + 2 * rank) * width * int64_t{sizeof(float)})) {
    finite = reinterpret_cast<int32_t*>(memory.data());
    orthonormal = reinterpret_cast<double*>(memory.data() + 256);
    gram = reinterpret_cast<float*>(orthonormal + orthonormal_work_numbers(rank, width));
    rows = gram + width * width;
    multiplied = rows + rank * width;
  }
  Buffer memory;
  int32_t* finite;  // [1] whether the diagonal is
  double* orthonormal;
  float* gram;        // [width, width]
  float* rows;        // [rank, width]
  float* multiplied;  // [rank, width]
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

// out [rank, width] = rows gram.
void multiply(Queue& queue, const Workspace& space, int64_t rank, int64_t width, const float* rows,
              float* out) {
  ProductShape shape;
  shape.m = shape.k = shape.lda = shape.ldb = shape.ldc = width;
  shape.n = rank;
  shape.inputs = shape.output = DType::f32;
  if (!device_of(queue).state<Products>().run(queue, shape, {space.gram, rows, out, false})) {
    throw DeviceFailure(fmt::format("fit_basis: cuBLASLt has no product of {} rows of {}", rank, width));
  }
}

// Leaves the leading subspace of the Gram matrix in space.rows.
void take_power_steps(Queue& queue, Workspace& space, int64_t rank, int64_t width) {
  launch_random_signs(queue, space.rows, rank * width);
  for (const int products : kSteps) {
    for (int i = 0; i < products; ++i) {
      multiply(queue, space, rank, width, space.rows, space.multiplied);
      std::swap(space.rows, space.multiplied);
    }
    launch_orthonormalise(queue, {space.rows, rank, width, space.orthonormal}, "fit_basis");
  }
}

}  // namespace

void fit_basis(Queue& queue, const FitBasisParams& p) {
  const int64_t width = p.x.shape[1], rank = p.basis.shape[0];
  Workspace space(device_of(queue), width, rank);
  fill_gram(queue, p, space.gram);
  launch_prepare_gram(queue, space.gram, width, space.finite);
  if (rank == width) {
    launch_unit_rows(queue, space.rows, width);  // span everything, whatever type they are rounded to
  } else {
    take_power_steps(queue, space, rank, width);
  }
  launch_store_basis(queue, space.rows, p.basis);
  int32_t finite = 0;
  queue.copy(&finite, space.finite, sizeof(finite));
  queue.synchronize();
  require(finite == 1, "fit_basis: the keys {} hold numbers that are not finite", p.x.describe());
}

}  // namespace shadowkv::cuda
