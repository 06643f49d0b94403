// One block a token copies its row of the table. Bound: bytes of T rows.
#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;

// An id outside the table, which callers must not pass, gives NaN rather than a read of other memory.
template <typename T>
__global__ void embed_kernel(const T* table, const int32_t* ids, int64_t vocabulary, int64_t hidden,
                             Bf16* out) {
  const int64_t id = ids[blockIdx.x];
  const bool known = id >= 0 && id < vocabulary;
  const T* row = table + (known ? id : 0) * hidden;
  for (int64_t i = threadIdx.x; i < hidden; i += kThreads) {
    out[blockIdx.x * hidden + i] = from_float<Bf16>(known ? to_float(row[i]) : __int_as_float(0x7fffffff));
  }
}

__global__ void embed_codes_kernel(Matrix table, const int32_t* ids, Bf16* out) {
  const int64_t id = ids[blockIdx.x], hidden = table.shape[1];
  const bool known = id >= 0 && id < table.shape[0];
  const auto* row = reinterpret_cast<const int8_t*>(table.data) + (known ? id : 0) * hidden;
  const float scale =
      known ? reinterpret_cast<const float*>(table.scales.data)[id] : __int_as_float(0x7fffffff);
  for (int64_t i = threadIdx.x; i < hidden; i += kThreads) {
    out[blockIdx.x * hidden + i] =
        __float2bfloat16_rn(scale * static_cast<float>(row[code_place(i, hidden)]));
  }
}

}  // namespace

void embed(Queue& queue, const EmbedParams& params) {
  const int64_t tokens = params.ids.shape[0];
  if (tokens == 0) return;
  if (params.table.quantized()) {
    embed_codes_kernel<<<grid_x(tokens, "embed"), kThreads, 0, stream_of(queue)>>>(
        params.table, device_ptr<int32_t>(params.ids), device_ptr<Bf16>(params.out));
    return check_launch("embed");
  }
  with_number_type(params.table.dtype, "embed", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    embed_kernel<T><<<grid_x(tokens, "embed"), kThreads, 0, stream_of(queue)>>>(
        device_ptr<T>(params.table), device_ptr<int32_t>(params.ids), params.table.shape[0],
        params.table.shape[1], device_ptr<Bf16>(params.out));
  });
  check_launch("embed");
}

}  // namespace shadowkv::cuda
