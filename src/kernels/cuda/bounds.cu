// Least and largest numbers of each chunk's keys: made by a warp a chunk and KV head, scored by a warp a
// chunk and KV head for all of its query heads. Bound: bytes of the bounds.
#include "kernels/cuda/query_tile.cuh"
#include "kernels/cuda/selection.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kWarps = 8;  // of a block

// Writes the bounds of `count` keys, [2, head_dim], by one warp.
template <typename Key>
__device__ void make_bounds(int count, int head_dim, const Key& key, std::byte* to, DType dtype) {
  for (int d = threadIdx.x % kWarp; d < head_dim; d += kWarp) {
    float least = key(0, d), largest = least;
#pragma unroll 4  // so many tokens' loads are under way at once
    for (int t = 1; t < count; ++t) {
      const float x = key(t, d);
      least = fminf(least, x);
      largest = fmaxf(largest, x);
    }
    write_number(to, dtype, d, least);
    write_number(to, dtype, head_dim + d, largest);
  }
}

struct MakeParams {
  int64_t heads;
  int head_dim;
  int chunk;
  int64_t chunks;
  int64_t row;
  int64_t first_chunk;
  PagedView bounds;
};

template <typename T>
__global__ void __launch_bounds__(kWarps* kWarp) chunk_bounds_kernel(const T* k, MakeParams p) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp;
  if (i >= p.chunks * p.heads) return;
  const int64_t c = i / p.heads, g = i % p.heads, stride = p.heads * p.head_dim;
  const T* keys = k + c * p.chunk * stride + g * p.head_dim;
  const auto key = [=](int t, int d) { return to_float(keys[t * stride + d]); };
  make_bounds(p.chunk, p.head_dim, key, p.bounds.at(p.row, g, p.first_chunk + c), p.bounds.dtype);
}

// One warp a sequence and KV head.
__global__ void __launch_bounds__(kWarps* kWarp)
    update_bounds_kernel(DecodeBatch batch, ResidentView resident, PagedView bounds) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp,
                heads = resident.kv_heads;
  if (i >= batch.size * heads) return;
  const int64_t row = batch.rows[i / heads], g = i % heads, tokens = batch.tokens[i / heads];
  if (tokens <= 0) return;
  const int64_t chunk = (tokens - 1) / resident.chunk, first = chunk * resident.chunk;
  const auto key = [&](int t, int d) {
    const int64_t entry = chunk == 0 ? first + t : resident.ring_entry(row, first + t);
    return read_number(resident.keys(row, g, entry), resident.dtype, d);
  };
  make_bounds(static_cast<int>(tokens - first), static_cast<int>(resident.head_dim), key,
              bounds.at(row, g, chunk), bounds.dtype);
}

struct ScoreParams {
  const Bf16* q;  // [B, H, D]
  DecodeBatch batch;
  PagedView bounds;
  int64_t kv_heads;
  int64_t group;
  int head_dim;
  int64_t chunk;
  int64_t local_window;
  float scale;
  float* scores;  // [B, H, C]
  int64_t chunks;
};

// Grid: warps of chunks, KV heads, sequences. A lane keeps its numbers of the bounds for all query heads.
__global__ void __launch_bounds__(kWarps* kWarp) bound_scores_kernel(ScoreParams p) {
  const int64_t b = blockIdx.z, g = blockIdx.y;
  const int64_t c = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp;
  if (c >= p.chunks) return;
  const int lane = threadIdx.x % kWarp;
  const bool open = c >= 1 && c < sealed_chunks(p.batch.tokens[b], p.chunk, p.local_window);
  float least[kLaneNumbers] = {}, largest[kLaneNumbers] = {};
  if (open) {
    const std::byte* bounds = p.bounds.at(p.batch.rows[b], g, c);
#pragma unroll
    for (int j = 0; j < kLaneNumbers; ++j) {
      const int d = lane + j * kWarp;
      if (d >= p.head_dim) continue;
      least[j] = read_number(bounds, p.bounds.dtype, d);
      largest[j] = read_number(bounds, p.bounds.dtype, p.head_dim + d);
    }
  }
  for (int64_t h = 0; h < p.group; ++h) {
    const int64_t head = (b * p.kv_heads + g) * p.group + h;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kLaneNumbers; ++j) {
      const int d = lane + j * kWarp;
      if (!open || d >= p.head_dim) continue;
      const float q = to_float(p.q[head * p.head_dim + d]);
      sum += fmaxf(q * least[j], q * largest[j]);
    }
    sum = warp_reduce(sum, Sum());
    if (lane == 0) p.scores[head * p.chunks + c] = open ? p.scale * sum : kMinusInfinity;
  }
}

}  // namespace

void chunk_bounds(Queue& queue, const ChunkBoundsParams& p) {
  constexpr const char* kOp = "chunk_bounds";
  const int64_t heads = p.k.shape[1], head_dim = p.k.shape[2], chunks = p.k.shape[0] / p.chunk;
  if (chunks * heads == 0) return;
  const MakeParams params{
      heads, static_cast<int>(head_dim), static_cast<int>(p.chunk), chunks, p.row, p.first_chunk, p.bounds};
  const unsigned blocks = grid_x(ceil_div<int64_t>(chunks * heads, kWarps), kOp);
  with_number_type(p.k.dtype, kOp, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    chunk_bounds_kernel<T><<<blocks, kWarps * kWarp, 0, stream_of(queue)>>>(device_ptr<T>(p.k), params);
  });
  check_launch(kOp);
}

void update_bounds(Queue& queue, const UpdateBoundsParams& p) {
  constexpr const char* kOp = "update_bounds";
  const unsigned blocks = grid_x(ceil_div<int64_t>(p.batch.size * p.resident.kv_heads, kWarps), kOp);
  update_bounds_kernel<<<blocks, kWarps * kWarp, 0, stream_of(queue)>>>(p.batch, p.resident, p.bounds);
  check_launch(kOp);
}

void bound_scores(Queue& queue, const BoundScoresParams& p) {
  constexpr const char* kOp = "bound_scores";
  demand_activations(p.q, kOp);
  const int64_t group = p.q.shape[1] / p.kv_heads, head_dim = p.q.shape[2], chunks = p.scores.shape[2];
  demand_head_dim(head_dim, kOp);
  if (chunks == 0) return;
  const ScoreParams params{device_ptr<Bf16>(p.q),
                           p.batch,
                           p.bounds,
                           p.kv_heads,
                           group,
                           static_cast<int>(head_dim),
                           p.chunk,
                           p.local_window,
                           p.scale,
                           device_ptr<float>(p.scores),
                           chunks};
  const dim3 grid(grid_x(ceil_div<int64_t>(chunks, kWarps), kOp), grid_yz(p.kv_heads, kOp),
                  grid_yz(p.batch.size, kOp));
  bound_scores_kernel<<<grid, kWarps * kWarp, 0, stream_of(queue)>>>(params);
  check_launch(kOp);
  if (!p.spans.empty()) sum_spans(queue, p.scores, device_ptr<float2>(p.spans), kOp);
}

}  // namespace shadowkv::cuda
