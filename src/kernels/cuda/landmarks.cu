// Chunk means: made by a warp a chunk and KV head, scored eight chunks a product on tensor cores. Bound:
// bytes of the means, read once for all query heads of their KV head.
#include "kernels/cuda/query_tile.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kWarps = 8;  // of a block

// ---- making -----------------------------------------------------------------------------------------------

// Mean of `count` keys by one warp, number lane + 32 j in mean[j], added up in order.
template <typename Key>
__device__ void mean_of(int count, int head_dim, const Key& key, float (&mean)[kLaneNumbers]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int j = 0; j < kLaneNumbers; ++j) mean[j] = 0.0f;
  for (int t = 0; t < count; ++t) {
#pragma unroll
    for (int j = 0; j < kLaneNumbers; ++j) {
      if (lane + j * kWarp < head_dim) mean[j] += key(t, lane + j * kWarp);
    }
  }
  const float share = 1.0f / static_cast<float>(count);
#pragma unroll
  for (float& x : mean) x *= share;
}

__device__ void store_mean(const float (&mean)[kLaneNumbers], int head_dim, DType dtype, std::byte* to) {
#pragma unroll
  for (int j = 0; j < kLaneNumbers; ++j) {
    const int d = threadIdx.x % kWarp + j * kWarp;
    if (d < head_dim) write_number(to, dtype, d, mean[j]);
  }
}

// Least cosine of the angle between the mean and a key; 1 where either is zero, which no angle describes.
template <typename Key>
__device__ float least_cosine(int count, int head_dim, const Key& key, const float (&mean)[kLaneNumbers]) {
  const int lane = threadIdx.x % kWarp;
  float own = 0.0f, least = 1.0f;
#pragma unroll
  for (float x : mean) own += x * x;
  own = warp_reduce(own, Sum());
  for (int t = 0; t < count; ++t) {
    float product = 0.0f, squares = 0.0f;
#pragma unroll
    for (int j = 0; j < kLaneNumbers; ++j) {
      const float x = lane + j * kWarp < head_dim ? key(t, lane + j * kWarp) : 0.0f;
      product += x * mean[j];
      squares += x * x;
    }
    const float lengths = sqrtf(warp_reduce(squares, Sum())) * sqrtf(own);
    product = warp_reduce(product, Sum());
    least = fminf(least, lengths > 0.0f ? product / lengths : 1.0f);
  }
  return least;
}

struct MakeParams {
  int64_t heads;
  int head_dim;
  int chunk;
  int64_t chunks;
  int64_t row;
  int64_t first_chunk;
  PagedView means;
  float* min_cosine;  // [G, chunks], or null
};

template <typename T>
__global__ void __launch_bounds__(kWarps* kWarp) chunk_means_kernel(const T* k, MakeParams p) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp;
  if (i >= p.chunks * p.heads) return;
  const int64_t c = i / p.heads, g = i % p.heads, stride = p.heads * p.head_dim;
  const T* keys = k + c * p.chunk * stride + g * p.head_dim;
  const auto key = [=](int t, int d) { return to_float(keys[t * stride + d]); };
  float mean[kLaneNumbers];
  mean_of(p.chunk, p.head_dim, key, mean);
  store_mean(mean, p.head_dim, p.means.dtype, p.means.at(p.row, g, p.first_chunk + c));
  if (p.min_cosine == nullptr) return;
  const float least = least_cosine(p.chunk, p.head_dim, key, mean);
  if (threadIdx.x % kWarp == 0) p.min_cosine[g * p.chunks + c] = least;
}

// One warp a sequence and KV head.
__global__ void __launch_bounds__(kWarps* kWarp)
    update_means_kernel(DecodeBatch batch, ResidentView resident, PagedView means) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp,
                heads = resident.kv_heads;
  if (i >= batch.size * heads) return;
  const int64_t row = batch.rows[i / heads], g = i % heads, tokens = batch.tokens[i / heads];
  if (tokens <= 0) return;
  const int64_t chunk = (tokens - 1) / resident.chunk, first = chunk * resident.chunk;
  const int head_dim = static_cast<int>(resident.head_dim);
  float mean[kLaneNumbers];
  const auto key = [&](int t, int d) {
    const int64_t entry = chunk == 0 ? first + t : resident.ring_entry(row, first + t);
    return read_number(resident.keys(row, g, entry), resident.dtype, d);
  };
  mean_of(static_cast<int>(tokens - first), head_dim, key, mean);
  store_mean(mean, head_dim, means.dtype, means.at(row, g, chunk));
}

// ---- scoring ----------------------------------------------------------------------------------------------

struct ScoreParams {
  const Bf16* q;  // [B, H, D]
  DecodeBatch batch;
  PagedView means;
  int64_t kv_heads;
  int64_t group;
  int head_dim;
  int64_t chunk;
  int64_t local_window;
  float scale;
  float* scores;  // [B, H, C]
  int64_t chunks;

  __device__ int64_t sealed(int64_t b) const {
    const int64_t count = sealed_chunks(batch.tokens[b], chunk, local_window);
    return count < chunks ? count : chunks;
  }
};

constexpr int kWarpChunks = 64;  // of a warp, eight at a time

// Grid: stretches of chunks, tiles of 16 query heads of every KV head, sequences.
template <int kDim>
__global__ void __launch_bounds__(kWarps* kWarp) score_means_kernel(ScoreParams p) {
  const int64_t b = blockIdx.z, row = p.batch.rows[b], sealed = p.sealed(b);
  const int64_t tiles = (p.group + kTileHeads - 1) / kTileHeads;
  const int64_t g = blockIdx.y / tiles, tile = blockIdx.y % tiles * kTileHeads;
  const int lane = threadIdx.x % kWarp, t = lane % 4;
  const int heads = static_cast<int>(p.group - tile < kTileHeads ? p.group - tile : kTileHeads);
  const int64_t head = (b * p.kv_heads + g) * p.group + tile;
  QueryTile<kDim> query;
  query.load(p.q + head * kDim, heads);
  const int64_t first = (blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp) * kWarpChunks;
#pragma unroll 2
  for (int64_t base = first; base < first + kWarpChunks && base < p.chunks; base += 8) {
    const int64_t own = base + lane / 4;
    const bool open = own >= 1 && own < sealed;
    KeyPart<kDim> mean;
    mean.load(open ? p.means.at(row, g, own) : nullptr, t, open);
    float products[4];
    query.multiply(mean, products);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int h = lane / 4 + 8 * (i / 2);
      const int64_t c = base + 2 * t + i % 2;
      if (h >= heads || c >= p.chunks) continue;
      p.scores[(head + h) * p.chunks + c] = c >= 1 && c < sealed ? products[i] * p.scale : kMinusInfinity;
    }
  }
}

// One warp a chunk and KV head, number by number.
__global__ void __launch_bounds__(kWarps* kWarp) score_plainly_kernel(ScoreParams p) {
  const int64_t b = blockIdx.z, g = blockIdx.y, row = p.batch.rows[b];
  const int64_t c = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp;
  if (c >= p.chunks) return;
  const bool open = c >= 1 && c < p.sealed(b);
  const std::byte* mean = open ? p.means.at(row, g, c) : nullptr;
  for (int64_t h = 0; h < p.group; ++h) {
    const int64_t head = (b * p.kv_heads + g) * p.group + h;
    const Bf16* q = p.q + head * p.head_dim;
    float score = kMinusInfinity;
    if (open) {
      score = p.scale * warp_dot(
                            p.head_dim, [&](int d) { return to_float(q[d]); },
                            [&](int d) { return read_number(mean, p.means.dtype, d); });
    }
    if (threadIdx.x % kWarp == 0) p.scores[head * p.chunks + c] = score;
  }
}

// One block a sequence and KV head.
__global__ void mask_outliers_kernel(DecodeBatch batch, ResidentView resident, float* scores, int64_t group,
                                     int64_t chunks) {
  const int64_t b = blockIdx.x / resident.kv_heads, g = blockIdx.x % resident.kv_heads, row = batch.rows[b];
  const int32_t* outliers = resident.outlier_chunks(row, g);
  const int64_t count = resident.outliers[row];
  for (int64_t i = threadIdx.x; i < count * group; i += blockDim.x) {
    const int64_t chunk = outliers[i / group], head = blockIdx.x * group + i % group;
    if (chunk >= 0 && chunk < chunks) scores[head * chunks + chunk] = kMinusInfinity;
  }
}

bool is_aligned(const PagedView& view) {
  return view.offset % 16 == 0 && view.head_offset % 16 == 0 && view.token_bytes % 16 == 0;
}

}  // namespace

void chunk_means(Queue& queue, const ChunkMeansParams& p) {
  constexpr const char* kOp = "chunk_means";
  const int64_t heads = p.k.shape[1], head_dim = p.k.shape[2], chunks = p.k.shape[0] / p.chunk;
  demand_head_dim(head_dim, kOp);
  if (chunks * heads == 0) return;
  const MakeParams params{heads,
                          static_cast<int>(head_dim),
                          static_cast<int>(p.chunk),
                          chunks,
                          p.row,
                          p.first_chunk,
                          p.means,
                          p.min_cosine.empty() ? nullptr : device_ptr<float>(p.min_cosine)};
  const unsigned blocks = grid_x(ceil_div<int64_t>(chunks * heads, kWarps), kOp);
  with_number_type(p.k.dtype, kOp, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    chunk_means_kernel<T><<<blocks, kWarps * kWarp, 0, stream_of(queue)>>>(device_ptr<T>(p.k), params);
  });
  check_launch(kOp);
}

void update_means(Queue& queue, const UpdateMeansParams& p) {
  constexpr const char* kOp = "update_means";
  demand_head_dim(p.resident.head_dim, kOp);
  const unsigned blocks = grid_x(ceil_div<int64_t>(p.batch.size * p.resident.kv_heads, kWarps), kOp);
  update_means_kernel<<<blocks, kWarps * kWarp, 0, stream_of(queue)>>>(p.batch, p.resident, p.means);
  check_launch(kOp);
}

void landmark_scores(Queue& queue, const LandmarkScoresParams& p) {
  constexpr const char* kOp = "landmark_scores";
  demand_activations(p.q, kOp);
  const int64_t group = p.q.shape[1] / p.kv_heads, head_dim = p.q.shape[2], chunks = p.scores.shape[2];
  if (chunks == 0) return;
  const ScoreParams params{device_ptr<Bf16>(p.q),
                           p.batch,
                           p.means,
                           p.kv_heads,
                           group,
                           static_cast<int>(head_dim),
                           p.chunk,
                           p.local_window,
                           p.scale,
                           device_ptr<float>(p.scores),
                           chunks};
  const unsigned sequences = grid_yz(p.batch.size, kOp);
  const bool vectors = p.means.dtype == DType::bf16 && is_aligned(p.means);
  const bool taken =
      vectors && with_head_dim(head_dim, [&](auto dim) {
        const int64_t tiles = ceil_div<int64_t>(group, kTileHeads);
        const dim3 grid(grid_x(ceil_div<int64_t>(chunks, kWarps * kWarpChunks), kOp),
                        grid_yz(p.kv_heads * tiles, kOp), sequences);
        score_means_kernel<decltype(dim)::value><<<grid, kWarps * kWarp, 0, stream_of(queue)>>>(params);
      });
  if (!taken) {
    const dim3 grid(grid_x(ceil_div<int64_t>(chunks, kWarps), kOp), grid_yz(p.kv_heads, kOp), sequences);
    score_plainly_kernel<<<grid, kWarps * kWarp, 0, stream_of(queue)>>>(params);
  }
  check_launch(kOp);
}

void mask_outliers(Queue& queue, const MaskOutliersParams& p) {
  constexpr const char* kOp = "mask_outliers";
  const int64_t kv_heads = p.resident.kv_heads;
  mask_outliers_kernel<<<grid_x(p.batch.size * kv_heads, kOp), 256, 0, stream_of(queue)>>>(
      p.batch, p.resident, device_ptr<float>(p.scores), p.scores.shape[1] / kv_heads, p.scores.shape[2]);
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
