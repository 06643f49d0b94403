// One warp a row of one token and head. Bound: bytes read and written.
#include <cfloat>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/rows.h"
#include "kernels/quantize_math.h"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = kThreads / kWarp;  // a block

struct Row {
  int64_t token;
  int64_t head;
  bool exists;
};

__device__ Row row_of_warp(int64_t tokens, int64_t heads) {
  const int64_t i = blockIdx.x * int64_t{kRows} + threadIdx.x / kWarp;
  return {i / heads, i % heads, i < tokens * heads};
}

// The scale comes out of all numbers of the row; one too small to have a finite inverse makes the row zeros.
template <typename T>
__device__ void quantize_row(const T* x, int64_t n, int8_t* codes, Bf16* scale) {
  const int lane = threadIdx.x % kWarp;
  float most = 0.0f;
  for (int64_t i = lane; i < n; i += kWarp) most = fmaxf(most, fabsf(to_float(x[i])));
  float step = quantize_scale(warp_reduce(most, Max{}));
  if (step < FLT_MIN) step = 0.0f;
  if (lane == 0) *scale = from_float<Bf16>(step);
  const float inverse = step > 0.0f ? 1.0f / step : 0.0f;
  for (int64_t i = lane; i < n; i += kWarp) codes[i] = quantize_code(to_float(x[i]), inverse);
}

template <typename T>
__global__ void store_rows_kernel(const T* x, int64_t heads, int64_t n, TokenBatch tokens, QuantizedView to) {
  const Row where = row_of_warp(tokens.count, heads);
  if (!where.exists) return;
  const int64_t row = tokens.rows[where.token], position = tokens.positions[where.token];
  const T* from = x + (where.token * heads + where.head) * n;
  std::byte* data = to.data.at(row, where.head, position);
  if (to.data.dtype == DType::i8) {
    quantize_row(from, n, reinterpret_cast<int8_t*>(data),
                 reinterpret_cast<Bf16*>(to.scales.at(row, where.head, position)));
    return;
  }
  for (int64_t i = threadIdx.x % kWarp; i < n; i += kWarp)
    write_number(data, to.data.dtype, i, to_float(from[i]));
}

template <typename T>
__global__ void load_rows_kernel(QuantizedView from, int64_t row, int64_t first, int64_t tokens,
                                 int64_t heads, int64_t n, T* out) {
  const Row where = row_of_warp(tokens, heads);
  if (!where.exists) return;
  const int64_t token = first + where.token;
  const float scale = row_scale(from, row, where.head, token);
  const std::byte* data = from.data.at(row, where.head, token);
  T* to = out + (where.token * heads + where.head) * n;
  for (int64_t i = threadIdx.x % kWarp; i < n; i += kWarp) {
    to[i] = from_float<T>(read_stored(data, from.data.dtype, scale, i));
  }
}

}  // namespace

void launch_store_rows(Queue& queue, const std::byte* x, DType dtype, int64_t heads, int64_t n,
                       const TokenBatch& tokens, const QuantizedView& to, const char* op) {
  if (tokens.count * heads == 0) return;
  const unsigned blocks = grid_x(ceil_div<int64_t>(tokens.count * heads, kRows), op);
  with_number_type(dtype, op, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    store_rows_kernel<T>
        <<<blocks, kThreads, 0, stream_of(queue)>>>(reinterpret_cast<const T*>(x), heads, n, tokens, to);
  });
  check_launch(op);
}

void store_rows(Queue& queue, const StoreRowsParams& params) {
  launch_store_rows(queue, params.x.data, params.x.dtype, params.x.shape[1], params.x.shape[2], params.tokens,
                    params.to, "store_rows");
}

void load_rows(Queue& queue, const LoadRowsParams& params) {
  const int64_t tokens = params.out.shape[0], heads = params.out.shape[1];
  if (tokens * heads == 0) return;
  const unsigned blocks = grid_x(ceil_div<int64_t>(tokens * heads, kRows), "load_rows");
  with_number_type(params.out.dtype, "load_rows", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    load_rows_kernel<T><<<blocks, kThreads, 0, stream_of(queue)>>>(
        params.from, params.row, params.first, tokens, heads, params.out.shape[2], device_ptr<T>(params.out));
  });
  check_launch("load_rows");
}

}  // namespace shadowkv::cuda
