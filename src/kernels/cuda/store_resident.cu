// Copies into resident storage: the first chunk and the latest tokens, and outlier chunks of a prompt,
// rounded to its type. Bound: bytes of the rows; in a decode step latency.
#include "kernels/cuda/query_tile.cuh"

namespace shadowkv::cuda {
namespace {

// One block a token and KV head.
__global__ void store_resident_kernel(const Bf16* k, const Bf16* v, TokenBatch tokens,
                                      ResidentView resident) {
  const int64_t t = blockIdx.x, g = blockIdx.y, n = resident.head_dim;
  const int64_t row = tokens.rows[t], position = tokens.positions[t];
  const int64_t entry = position < resident.chunk ? position : resident.ring_entry(row, position);
  const int64_t from = (t * resident.kv_heads + g) * n;
  std::byte* keys = resident.keys(row, g, entry);
  std::byte* values = resident.values(row, g, entry);
  for (int d = static_cast<int>(threadIdx.x); d < n; d += static_cast<int>(blockDim.x)) {
    write_number(keys, resident.dtype, d, to_float(k[from + d]));
    write_number(values, resident.dtype, d, to_float(v[from + d]));
  }
}

struct OutlierParams {
  const Bf16* k;
  const Bf16* v;
  int64_t tokens;         // of k and v
  const int32_t* chunks;  // [G, count]
  int64_t count;
  int64_t row;
  int64_t first_entry;
  ResidentView resident;
};

// One block an entry of one KV head. Entries beyond the row's room and chunks beyond the prompt are left out.
__global__ void store_outliers_kernel(OutlierParams p) {
  const ResidentView& resident = p.resident;
  const int64_t g = blockIdx.y, entry = p.first_entry + blockIdx.x, n = resident.head_dim;
  const int64_t chunk = resident.chunk, heads = resident.kv_heads;
  if (entry >= resident.outliers[p.row]) return;
  const int64_t wanted = p.chunks[g * p.count + blockIdx.x];
  const int64_t id = wanted >= 0 && (wanted + 1) * chunk <= p.tokens ? wanted : -1;
  if (threadIdx.x == 0) resident.outlier_chunks(p.row, g)[entry] = static_cast<int32_t>(id);
  for (int64_t i = threadIdx.x; id >= 0 && i < chunk * n; i += blockDim.x) {
    const int64_t t = i / n, d = i % n, from = ((id * chunk + t) * heads + g) * n + d;
    const int64_t to = chunk * (1 + entry) + t;
    write_number(resident.keys(p.row, g, to), resident.dtype, d, to_float(p.k[from]));
    write_number(resident.values(p.row, g, to), resident.dtype, d, to_float(p.v[from]));
  }
}

constexpr int kCopyThreads = 256;

}  // namespace

void store_resident(Queue& queue, const StoreResidentParams& p) {
  constexpr const char* kOp = "store_resident";
  demand_activations(p.k, kOp);
  demand_activations(p.v, kOp);
  constexpr int kThreads = 128;
  const dim3 grid(grid_x(p.tokens.count, kOp), grid_yz(p.resident.kv_heads, kOp));
  store_resident_kernel<<<grid, kThreads, 0, stream_of(queue)>>>(device_ptr<Bf16>(p.k), device_ptr<Bf16>(p.v),
                                                                 p.tokens, p.resident);
  check_launch(kOp);
}

void store_outliers(Queue& queue, const StoreOutliersParams& p) {
  constexpr const char* kOp = "store_outliers";
  demand_activations(p.k, kOp);
  demand_activations(p.v, kOp);
  const OutlierParams params{device_ptr<Bf16>(p.k), device_ptr<Bf16>(p.v),
                             p.k.shape[0],          device_ptr<int32_t>(p.chunks),
                             p.chunks.shape[2],     p.row,
                             p.first_entry,         p.resident};
  const dim3 grid(grid_x(p.chunks.shape[2], kOp), grid_yz(p.resident.kv_heads, kOp));
  store_outliers_kernel<<<grid, kCopyThreads, 0, stream_of(queue)>>>(params);
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
