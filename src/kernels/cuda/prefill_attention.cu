// Causal attention, of many queries over many keys by cuDNN where it is there, otherwise by tiles on tensor
// cores: a block of eight warps takes 128 queries of one head, walks the keys from position 0 in tiles of 64
// that pass through shared memory two deep, and keeps a running softmax in registers. Bound: 2 * T * N * D
// multiply-adds a head, half of it for a whole prompt. Tiles of keys start at fixed positions, so slices of
// queries change nothing but which rows share a block.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/cudnn_attention.h"

namespace shadowkv::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kQueries = kWarps * 16;  // a block
constexpr int kKeys = 64;              // a tile
constexpr float kLog2E = 1.44269504088896340736f;

struct PrefillParams {
  const Bf16* q;  // [tokens, heads, D]
  const Bf16* k;  // [positions, kv_heads, D]
  const Bf16* v;
  Bf16* out;
  int64_t tokens;
  int64_t first_position;
  int heads;
  int kv_heads;
  int head_dim;
  float scale;  // to base 2
};

// Rows are padded by 16 bytes, so that eight rows' pieces of 16 bytes lie in different banks.
template <int kDim>
struct Tile {
  static constexpr int kStride = kDim + 8;
  static constexpr int kNumbers = kKeys * kStride;

  // Rows [first, first + kKeys) of one head; those from `end` on become zeros.
  static __device__ void load(Bf16* tile, const Bf16* head, int64_t stride, int64_t first, int64_t end) {
    constexpr int kPieces = kDim / 8;  // a row
    for (int i = threadIdx.x; i < kKeys * kPieces; i += kThreads) {
      const int row = i / kPieces, piece = i % kPieces;
      const bool exists = first + row < end;
      const Bf16* from = head + (exists ? first + row : end - 1) * stride + piece * 8;
      copy_async_16(tile + row * kStride + piece * 8, from, exists);
    }
  }
};

// Sixteen queries of a warp; lane = 4 g + t holds parts of rows g and g + 8.
template <int kDim>
class WarpQueries {
 public:
  // Row i of the sixteen is query first + i, the last one where there are no more.
  __device__ void load(const PrefillParams& p, int head, int64_t first) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t token = min(first + g_ + 8 * half, p.tokens - 1);
      const Bf16* row = p.q + (token * p.heads + head) * kDim + 2 * t_;
#pragma unroll
      for (int step = 0; step < kDim / 16; ++step) {
        queries_[step][half] = *reinterpret_cast<const uint32_t*>(row + 16 * step);
        queries_[step][half + 2] = *reinterpret_cast<const uint32_t*>(row + 16 * step + 8);
      }
    }
  }

  // seen: keys of the tile that row 0 of the sixteen may see; row i sees i more. Negative: none.
  __device__ void attend(const Bf16* keys, const Bf16* values, float scale, int64_t seen) {
    score(keys);
    soften(scale, seen);
    add_values(values);
  }

  __device__ void store(const PrefillParams& p, int head, int64_t first) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float inverse = 1.0f / warp_reduce<4>(total_[half], Sum{});
      const int64_t token = first + g_ + 8 * half;
      if (token >= p.tokens) continue;
      Bf16* row = p.out + (token * p.heads + head) * kDim + 2 * t_;
#pragma unroll
      for (int tile = 0; tile < kDim / 8; ++tile) {
        *reinterpret_cast<uint32_t*>(row + 8 * tile) =
            pack_bf16(sums_[tile][2 * half] * inverse, sums_[tile][2 * half + 1] * inverse);
      }
    }
  }

 private:
  static constexpr int kStride = Tile<kDim>::kStride;

  __device__ void score(const Bf16* keys) {
    const int lane = threadIdx.x % kWarp;
    // Lanes 8 i .. 8 i + 7 address matrix i: keys 8 (i / 2).., numbers 8 (i % 2)...
    const Bf16* row = keys + (lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores_[2 * n][i] = scores_[2 * n + 1][i] = 0.0f;
#pragma unroll
      for (int step = 0; step < kDim / 16; ++step) {
        uint32_t both[4];
        load_matrices(both, row + n * 16 * kStride + step * 16);
        mma_16x8x16(scores_[2 * n], queries_[step], {both[0], both[1]});
        mma_16x8x16(scores_[2 * n + 1], queries_[step], {both[2], both[3]});
      }
    }
  }

  __device__ void soften(float scale, int64_t seen) {
    if (seen < kKeys) hide(static_cast<int>(max(seen, int64_t{-16})));
    float peak[2] = {most_[0], most_[1]};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores_[n][i] *= scale;
        peak[i / 2] = fmaxf(peak[i / 2], scores_[n][i]);
      }
    }
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      peak[half] = warp_reduce<4>(peak[half], Max{});
      // Keys of position 0 come first and every row sees it, so that most_ is finite from the first tile on.
      shrink[half] = exp2f(most_[half] - peak[half]);
      most_[half] = peak[half];
      total_[half] *= shrink[half];
    }
#pragma unroll
    for (int tile = 0; tile < kDim / 8; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums_[tile][i] *= shrink[i / 2];
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores_[n][i] = exp2f(scores_[n][i] - most_[i / 2]);
        total_[i / 2] += scores_[n][i];
      }
    }
  }

  __device__ void hide(int seen) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = 8 * n + 2 * t_ + i % 2;
        if (key >= seen + g_ + i / 2 * 8) scores_[n][i] = -INFINITY;
      }
    }
  }

  __device__ void add_values(const Bf16* values) {
    const int lane = threadIdx.x % kWarp;
    // Matrix i: keys 8 (i % 2).., numbers 8 (i / 2)...
    const Bf16* row = values + (lane / 8 % 2 * 8 + lane % 8) * kStride + lane / 16 * 8;
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      const float(&low)[4] = scores_[2 * step];
      const float(&high)[4] = scores_[2 * step + 1];
      const uint32_t weights[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]),
                                   pack_bf16(high[0], high[1]), pack_bf16(high[2], high[3])};
#pragma unroll
      for (int tile = 0; tile < kDim / 16; ++tile) {
        uint32_t both[4];
        load_matrices_transposed(both, row + step * 16 * kStride + tile * 16);
        mma_16x8x16(sums_[2 * tile], weights, {both[0], both[1]});
        mma_16x8x16(sums_[2 * tile + 1], weights, {both[2], both[3]});
      }
    }
  }

  const int g_ = static_cast<int>(threadIdx.x) % kWarp / 4;
  const int t_ = static_cast<int>(threadIdx.x) % 4;
  uint32_t queries_[kDim / 16][4];
  float scores_[kKeys / 8][4];
  float sums_[kDim / 8][4] = {};
  float most_[2] = {-INFINITY, -INFINITY};
  float total_[2] = {0.0f, 0.0f};
};

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1) prefill_kernel(const PrefillParams p) {
  extern __shared__ __align__(16) unsigned char memory[];
  constexpr int kTile = Tile<kDim>::kNumbers;
  auto* tiles = reinterpret_cast<Bf16*>(memory);  // [2][keys, values]
  const int head = blockIdx.y, kv_head = head / (p.heads / p.kv_heads);
  const int64_t block_first = int64_t{gridDim.x - 1 - blockIdx.x} * kQueries;  // the longest first
  const int64_t first = block_first + threadIdx.x / kWarp * 16;
  const int64_t end = p.first_position + min(block_first + kQueries, p.tokens);  // keys that any query sees
  const int64_t stride = int64_t{p.kv_heads} * kDim;
  const auto fetch = [&](int64_t key) {
    Bf16* at = tiles + key / kKeys % 2 * 2 * kTile;
    Tile<kDim>::load(at, p.k + kv_head * kDim, stride, key, end);
    Tile<kDim>::load(at + kTile, p.v + kv_head * kDim, stride, key, end);
    commit_copies();
  };
  WarpQueries<kDim> queries;
  queries.load(p, head, first);
  fetch(0);
  for (int64_t key = 0; key < end; key += kKeys) {
    if (key + kKeys < end) {
      fetch(key + kKeys);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();  // this tile is there for all
    const Bf16* keys = tiles + key / kKeys % 2 * 2 * kTile;
    queries.attend(keys, keys + kTile, p.scale, p.first_position + first + 1 - key);
    __syncthreads();  // and may be written over
  }
  queries.store(p, head, first);
}

// Any head_dim up to 512: one warp a query and head, numbers of a row spread over its lanes. Slow.
__global__ void any_prefill_kernel(const PrefillParams p) {
  constexpr int kMostNumbers = 16;
  const int lane = threadIdx.x % kWarp;
  const int64_t row = blockIdx.x * int64_t{kWarps} + threadIdx.x / kWarp;
  if (row >= p.tokens * p.heads) return;
  const int64_t head = row % p.heads, kv_head = head / (p.heads / p.kv_heads);
  float query[kMostNumbers], sums[kMostNumbers] = {};
  const auto read = [&](const Bf16* from, int i) {
    const int d = i * kWarp + lane;
    return d < p.head_dim ? to_float(from[d]) : 0.0f;
  };
  for (int i = 0; i < kMostNumbers; ++i) query[i] = read(p.q + row * p.head_dim, i);
  float most = -INFINITY, total = 0.0f;
  for (int64_t key = 0; key <= p.first_position + row / p.heads; ++key) {
    const int64_t at = (key * p.kv_heads + kv_head) * p.head_dim;
    float score = 0.0f;
    for (int i = 0; i < kMostNumbers; ++i) score += query[i] * read(p.k + at, i);
    score = warp_reduce(score, Sum{}) * p.scale;
    const float peak = fmaxf(most, score), shrink = exp2f(most - peak), weight = exp2f(score - peak);
    most = peak;
    total = total * shrink + weight;
    for (int i = 0; i < kMostNumbers; ++i) sums[i] = sums[i] * shrink + weight * read(p.v + at, i);
  }
  for (int i = 0; i < kMostNumbers; ++i) {
    if (i * kWarp + lane < p.head_dim)
      p.out[row * p.head_dim + i * kWarp + lane] = from_float<Bf16>(sums[i] / total);
  }
}

template <int kDim>
void launch_tiles(Queue& queue, const PrefillParams& p) {
  constexpr int64_t kShared = int64_t{4} * Tile<kDim>::kNumbers * int64_t{sizeof(Bf16)};
  allow_shared(prefill_kernel<kDim>, kShared, "prefill_attention");
  const dim3 grid(grid_x(ceil_div<int64_t>(p.tokens, kQueries), "prefill_attention"),
                  grid_yz(p.heads, "prefill_attention"));
  prefill_kernel<kDim><<<grid, kThreads, kShared, stream_of(queue)>>>(p);
}

void launch_any(Queue& queue, const PrefillParams& p) {
  demand(p.head_dim <= 512, "prefill_attention", "head_dim may be at most 512 on a GPU");
  const unsigned blocks = grid_x(ceil_div<int64_t>(p.tokens * p.heads, kWarps), "prefill_attention");
  any_prefill_kernel<<<blocks, kThreads, 0, stream_of(queue)>>>(p);
}

// Whether cuDNN is worth it, whose first plan takes a process up to a second. By the lengths alone, so that a
// result depends on nothing else.
bool is_long(const PrefillAttentionParams& params) {
  constexpr int64_t kPairs = int64_t{1} << 20;  // of queries and keys
  const int64_t queries = params.q.shape[0];
  return queries * (params.first_position + queries) >= kPairs;
}

}  // namespace

void prefill_attention(Queue& queue, const PrefillAttentionParams& params) {
  const PrefillParams p{device_ptr<const Bf16>(params.q),
                        device_ptr<const Bf16>(params.k),
                        device_ptr<const Bf16>(params.v),
                        device_ptr<Bf16>(params.out),
                        params.q.shape[0],
                        params.first_position,
                        static_cast<int>(params.q.shape[1]),
                        static_cast<int>(params.k.shape[1]),
                        static_cast<int>(params.q.shape[2]),
                        params.scale * kLog2E};
  if (p.tokens == 0) return;
  if (is_long(params) && run_cudnn_attention(queue, params)) return;
  const bool aligned = is_aligned_16(p.q) && is_aligned_16(p.k) && is_aligned_16(p.v) && is_aligned_16(p.out);
  switch (aligned ? p.head_dim : 0) {
    case 16:
      launch_tiles<16>(queue, p);
      break;
    case 32:
      launch_tiles<32>(queue, p);
      break;
    case 64:
      launch_tiles<64>(queue, p);
      break;
    case 80:
      launch_tiles<80>(queue, p);
      break;
    case 96:
      launch_tiles<96>(queue, p);
      break;
    case 128:
      launch_tiles<128>(queue, p);
      break;
    case 256:
      launch_tiles<256>(queue, p);
      break;
    default:
      launch_any(queue, p);
      break;
  }
  check_launch("prefill_attention");
}

}  // namespace shadowkv::cuda
