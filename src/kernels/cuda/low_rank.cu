// Column means and what fit_basis needs around its library calls. Bound: bytes of the keys.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/low_rank.h"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;

// ---- column_mean ------------------------------------------------------------------------------------------

constexpr int64_t kSlabTokens = 128;  // few enough for short prompts to fill the device

// sums[slab, column]: a slab's tokens in order, in float64 like the CPU.
template <typename T>
__global__ void sum_slabs_kernel(const T* x, int64_t tokens, int64_t width, int64_t slab_tokens,
                                 double* sums) {
  const int64_t column = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (column >= width) return;
  const int64_t first = blockIdx.y * slab_tokens, end = min(tokens, first + slab_tokens);
  double sum = 0.0;
#pragma unroll 16
  for (int64_t t = first; t < end; ++t) sum += static_cast<double>(to_float(x[t * width + column]));
  sums[blockIdx.y * width + column] = sum;
}

__global__ void mean_of_slabs_kernel(const double* sums, int64_t slabs, int64_t tokens, int64_t width,
                                     float* mean) {
  const int64_t column = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (column >= width) return;
  double sum = 0.0;
#pragma unroll 16
  for (int64_t slab = 0; slab < slabs; ++slab) sum += sums[slab * width + column];
  mean[column] = static_cast<float>(sum / static_cast<double>(tokens));
}

// ---- fit_basis --------------------------------------------------------------------------------------------

template <typename T>
__global__ void centre_kernel(const T* x, int64_t count, int64_t width, const float* mean, T* to) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count) to[i] = from_float<T>(to_float(x[i]) - mean[i % width]);
}

// One block. What lies in eigenvalues beneath kFloor of the trace is found more slowly; with less of a floor
// rows of keys with few directions would not stay apart in float32. Keys that are all alike have no trace.
__global__ void prepare_gram_kernel(float* gram, int64_t width, int32_t* finite) {
  constexpr float kFloor = 1e-4f;
  __shared__ float shared[kThreads / kWarp];
  float trace = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) trace += gram[i * width + i];
  trace = block_reduce<kThreads>(trace, Sum{}, shared);
  const float more = trace > 0.0f ? kFloor * trace : 1.0f;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) gram[i * width + i] += more;
  if (threadIdx.x == 0) *finite = isfinite(trace) ? 1 : 0;
}

__global__ void random_signs_kernel(float* to, int64_t count) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= count) return;
  uint64_t bits = static_cast<uint64_t>(i + 1) * 0x9e3779b97f4a7c15u;  // the finaliser of splitmix64
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  to[i] = bits >> 63 != 0 ? 1.0f : -1.0f;
}

__global__ void unit_rows_kernel(float* to, int64_t width) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < width * width) to[i] = i % (width + 1) == 0 ? 1.0f : 0.0f;
}

struct Largest {
  float magnitude;
  int column;
};

// The larger magnitude, the lower column of equals.
struct Larger {
  __device__ Largest operator()(Largest a, Largest b) const {
    return a.magnitude > b.magnitude || (a.magnitude == b.magnitude && a.column < b.column) ? a : b;
  }
};

template <typename T>
__global__ void store_basis_kernel(const float* rows, int64_t width, T* basis) {
  __shared__ Largest found[kThreads];
  const float* from = rows + blockIdx.x * width;
  Largest mine{-1.0f, 0};
  for (int64_t i = threadIdx.x; i < width; i += kThreads)
    mine = Larger{}(mine, {fabsf(from[i]), static_cast<int>(i)});
  found[threadIdx.x] = mine;
  __syncthreads();
  for (int step = kThreads / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) found[threadIdx.x] = Larger{}(found[threadIdx.x], found[threadIdx.x + step]);
    __syncthreads();
  }
  const float sign = from[found[0].column] < 0.0f ? -1.0f : 1.0f;
  for (int64_t i = threadIdx.x; i < width; i += kThreads)
    basis[blockIdx.x * width + i] = from_float<T>(sign * from[i]);
}

}  // namespace

void column_mean(Queue& queue, const ColumnMeanParams& params) {
  const char* op = "column_mean";
  const int64_t tokens = params.x.shape[0], width = params.x.shape[1];
  if (width == 0) return;
  int64_t slab_tokens = kSlabTokens;
  while (ceil_div(tokens, slab_tokens) > 1 &&
         ceil_div(tokens, slab_tokens) * width * int64_t{sizeof(double)} > scratch_bytes_of(queue)) {
    slab_tokens *= 2;
  }
  const int64_t slabs = ceil_div(tokens, slab_tokens);
  auto* sums = reinterpret_cast<double*>(scratch_of(queue, slabs * width * int64_t{sizeof(double)}, op));
  const unsigned columns = grid_x(ceil_div<int64_t>(width, kThreads), op);
  with_number_type(params.x.dtype, op, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    sum_slabs_kernel<T><<<dim3(columns, grid_yz(slabs, op)), kThreads, 0, stream_of(queue)>>>(
        device_ptr<T>(params.x), tokens, width, slab_tokens, sums);
  });
  check_launch(op);
  mean_of_slabs_kernel<<<columns, kThreads, 0, stream_of(queue)>>>(sums, slabs, tokens, width,
                                                                   device_ptr<float>(params.mean));
  check_launch(op);
}

void launch_centre(Queue& queue, const std::byte* x, DType dtype, int64_t tokens, int64_t width,
                   const float* mean, std::byte* to) {
  const unsigned blocks = grid_x(ceil_div<int64_t>(tokens * width, kThreads), "fit_basis");
  with_number_type(dtype, "fit_basis", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    centre_kernel<T><<<blocks, kThreads, 0, stream_of(queue)>>>(reinterpret_cast<const T*>(x), tokens * width,
                                                                width, mean, reinterpret_cast<T*>(to));
  });
  check_launch("fit_basis");
}

void launch_prepare_gram(Queue& queue, float* gram, int64_t width, int32_t* finite) {
  prepare_gram_kernel<<<1, kThreads, 0, stream_of(queue)>>>(gram, width, finite);
  check_launch("fit_basis");
}

void launch_random_signs(Queue& queue, float* to, int64_t count) {
  const unsigned blocks = grid_x(ceil_div<int64_t>(count, kThreads), "fit_basis");
  random_signs_kernel<<<blocks, kThreads, 0, stream_of(queue)>>>(to, count);
  check_launch("fit_basis");
}

void launch_unit_rows(Queue& queue, float* to, int64_t width) {
  const unsigned blocks = grid_x(ceil_div<int64_t>(width * width, kThreads), "fit_basis");
  unit_rows_kernel<<<blocks, kThreads, 0, stream_of(queue)>>>(to, width);
  check_launch("fit_basis");
}

void launch_store_basis(Queue& queue, const float* rows, const TensorView& basis) {
  const unsigned blocks = grid_x(basis.shape[0], "fit_basis");
  with_number_type(basis.dtype, "fit_basis", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    store_basis_kernel<T>
        <<<blocks, kThreads, 0, stream_of(queue)>>>(rows, basis.shape[1], device_ptr<T>(basis));
  });
  check_launch("fit_basis");
}

}  // namespace shadowkv::cuda
