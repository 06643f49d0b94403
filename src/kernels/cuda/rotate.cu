// One block a token and share of its heads: sines and cosines once, in shared memory, then every head. With
// many tokens a block takes all heads; with few, latency counts and a thread takes one pair. Bound: bytes of
// x and out.
#include "kernels/cuda/bulk_copies.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kManyTokens = 1024;

struct Rotation {
  RopeView rope;
  bool inverse;
  int heads;
  int head_dim;
  int block_heads;  // of a block
};

template <typename T>
__global__ void rotate_kernel(const T* x, const int32_t* positions, const int32_t* rows, Rotation how,
                              T* out) {
  extern __shared__ float turns[];  // cosines [half], sines [half]
  let_next_kernel_start();
  wait_for_earlier_kernel();
  const int half = static_cast<int>(how.rope.rotary_dim / 2);
  const float* frequencies = how.rope.frequencies(rows == nullptr ? 0 : rows[blockIdx.x]);
  for (int i = threadIdx.x; i < half; i += kThreads) {
    float sine, cosine;
    turn_of(positions[blockIdx.x], frequencies[i], &sine, &cosine);
    turns[i] = cosine;
    turns[half + i] = how.inverse ? -sine : sine;
  }
  __syncthreads();
  const int first = blockIdx.y * how.block_heads, heads = min(how.block_heads, how.heads - first);
  const int64_t token = (int64_t{blockIdx.x} * how.heads + first) * how.head_dim;
  const int step = how.rope.interleaved ? 2 : 1;      // between pairs
  const int apart = how.rope.interleaved ? 1 : half;  // within a pair
  for (int pair = threadIdx.x; pair < heads * half; pair += kThreads) {
    const int i = pair % half;
    const int64_t at = token + pair / half * how.head_dim + i * step;
    const float a = to_float(x[at]), b = to_float(x[at + apart]);
    out[at] = from_float<T>(a * turns[i] - b * turns[half + i]);
    out[at + apart] = from_float<T>(b * turns[i] + a * turns[half + i]);
  }
  const int rest = how.head_dim - 2 * half;  // does not turn
  for (int i = threadIdx.x; x != out && i < heads * rest; i += kThreads) {
    const int64_t at = token + i / rest * how.head_dim + 2 * half + i % rest;
    out[at] = x[at];
  }
}

}  // namespace

void rotate(Queue& queue, const RotateParams& params) {
  const int64_t tokens = params.x.shape[0];
  if (tokens == 0) return;
  const int heads = static_cast<int>(params.x.shape[1]), half = static_cast<int>(params.rope.rotary_dim / 2);
  const int few = half > 0 && half < kThreads ? kThreads / half : 1;
  const int block_heads = tokens >= kManyTokens || heads < few ? heads : few;
  if (heads == 0) return;
  const Rotation how{params.rope, params.inverse, heads, static_cast<int>(params.x.shape[2]), block_heads};
  const dim3 grid(grid_x(tokens, "rotate"), grid_yz(ceil_div(heads, block_heads), "rotate"));
  demand(params.x.dtype == params.out.dtype, "rotate", "x and out must hold the same type of number");
  with_number_type(params.x.dtype, "rotate", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t shared = params.rope.rotary_dim * int64_t{sizeof(float)};
    launch_early({queue, grid, kThreads, "rotate", shared}, rotate_kernel<T>, device_ptr<T>(params.x),
                 device_ptr<int32_t>(params.positions), params.rows, how, device_ptr<T>(params.out));
  });
}

}  // namespace shadowkv::cuda
