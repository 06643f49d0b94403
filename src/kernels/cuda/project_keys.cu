// Factors a = (x - mean) basis^T in float32 to scratch, then rounded as rows are stored. For few tokens, each
// with a basis of its own, a warp takes one row of the basis (bound: bytes of the bases); for many a block
// takes a tile of tokens, once for every run of tokens that share a segment, on tensor cores where keys and
// bases are bfloat16 (bound: 4 * T * W * R operations, twice what is asked for).
#include <algorithm>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/rows.h"

namespace shadowkv::cuda {
namespace {

constexpr int64_t kFewTokens = 256;

struct ProjectParams {
  TokenBatch tokens;
  PagedView mean;
  PagedView basis;
  int width;
  int rank;
  float* factors;  // [tokens, rank]
  bool vectors;    // whether rows of the basis can be read 16 bytes at a time
};

template <typename B>
struct Segment {
  const float* mean;
  const B* basis;
};

template <typename B>
__device__ Segment<B> segment_of(const ProjectParams& p, int64_t token) {
  const int64_t row = p.tokens.rows[token], position = p.tokens.positions[token];
  return {reinterpret_cast<const float*>(p.mean.at(row, 0, position)),
          reinterpret_cast<const B*>(p.basis.at(row, 0, position))};
}

// ---- few tokens -------------------------------------------------------------------------------------------

constexpr int kFewThreads = 256;
constexpr int kFewRows = kFewThreads / kWarp;  // of the basis a block

// One lane's numbers of a row of the basis, eight at a time in the lane's turn.
struct BasisPart {
  static constexpr int kMost = 4;  // eights a lane that are asked for before anything else
  uint4 held[kMost];

  __device__ void load(const Bf16* basis, int eights) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      const int at = lane + i * kWarp;
      held[i] = at < eights ? __ldg(reinterpret_cast<const uint4*>(basis) + at) : make_uint4(0, 0, 0, 0);
    }
  }
  __device__ float dot(const float* centred, int eights) const {
    const int lane = threadIdx.x % kWarp;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      const int at = lane + i * kWarp;
      if (at >= eights) break;
      float b[8];
      Bf16x8{held[i]}.to_floats(b);
      const float4 low = *reinterpret_cast<const float4*>(centred + 8 * at);
      const float4 high = *reinterpret_cast<const float4*>(centred + 8 * at + 4);
      sum += low.x * b[0] + low.y * b[1] + low.z * b[2] + low.w * b[3] + high.x * b[4] + high.y * b[5] +
             high.z * b[6] + high.w * b[7];
    }
    return sum;
  }
};

template <typename T, typename B>
__global__ void project_few_kernel(const T* x, const ProjectParams p) {
  extern __shared__ __align__(16) float centred[];  // [width]
  const int64_t token = blockIdx.y;
  const auto segment = segment_of<B>(p, token);
  const int r = static_cast<int>(blockIdx.x) * kFewRows + static_cast<int>(threadIdx.x) / kWarp;
  const B* basis = segment.basis + int64_t{r} * p.width;
  const bool vectors = std::is_same_v<B, Bf16> && p.vectors && r < p.rank;
  BasisPart part;
  if constexpr (std::is_same_v<B, Bf16>) {
    if (vectors) part.load(basis, p.width / 8);
  }
  for (int i = threadIdx.x; i < p.width; i += kFewThreads) {
    centred[i] = to_float(x[token * p.width + i]) - segment.mean[i];
  }
  __syncthreads();
  if (r >= p.rank) return;
  float sum = 0.0f;
  int from = 0;
  if (vectors) {
    sum = part.dot(centred, p.width / 8);
    from = BasisPart::kMost * 8 * kWarp;
  }
#pragma unroll 8
  for (int i = from + threadIdx.x % kWarp; i < p.width; i += kWarp) sum += centred[i] * to_float(basis[i]);
  sum = warp_reduce(sum, Sum{});
  if (threadIdx.x % kWarp == 0) p.factors[token * p.rank + r] = sum;
}

// ---- many tokens ------------------------------------------------------------------------------------------

constexpr int kTokens = 128;   // of a tile
constexpr int kRanks = 32;     // likewise
constexpr int kDepth = 16;     // numbers of a key at a time
constexpr int kThreads = 128;  // each 8 tokens by 4 ranks
static_assert(kThreads == kTokens && kThreads * 4 == kRanks * kDepth);

struct Tiles {
  float keys[kDepth][kTokens + 4];
  float basis[kDepth][kRanks + 4];

  // This thread's token (its own in the run or none) and its piece of four of a row of the basis.
  template <typename T, typename B>
  __device__ void load(const T* key, const Segment<B>& segment, const ProjectParams& p, int rank, int from) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      const bool exists = key != nullptr && from + i < p.width;
      keys[i][threadIdx.x] = exists ? to_float(key[from + i]) - segment.mean[from + i] : 0.0f;
    }
    const int r = threadIdx.x / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = from + threadIdx.x % 4 * 4 + i;
      const bool exists = rank + r < p.rank && column < p.width;
      basis[threadIdx.x % 4 * 4 + i][r] =
          exists ? to_float(segment.basis[int64_t{rank + r} * p.width + column]) : 0.0f;
    }
  }

  __device__ void multiply(float (&sums)[8][4]) const {
    const int token = threadIdx.x / 8 * 8, rank = threadIdx.x % 8 * 4;
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      const float4 low = *reinterpret_cast<const float4*>(&keys[i][token]);
      const float4 high = *reinterpret_cast<const float4*>(&keys[i][token + 4]);
      const float4 b = *reinterpret_cast<const float4*>(&basis[i][rank]);
      const float a[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int t = 0; t < 8; ++t) {
        sums[t][0] += a[t] * b.x, sums[t][1] += a[t] * b.y, sums[t][2] += a[t] * b.z,
            sums[t][3] += a[t] * b.w;
      }
    }
  }
};

// Tokens [first, end) of the tile share `segment`; factors of ranks [rank, rank + kRanks).
template <typename T, typename B>
__device__ void project_run(const T* x, const ProjectParams& p, const Segment<B>& segment, int64_t tile,
                            int first, int end, int rank, Tiles& tiles) {
  const int own = static_cast<int>(threadIdx.x);
  const T* key = own >= first && own < end ? x + (tile + own) * p.width : nullptr;
  float sums[8][4] = {};
  for (int from = 0; from < p.width; from += kDepth) {
    tiles.load(key, segment, p, rank, from);
    __syncthreads();
    tiles.multiply(sums);
    __syncthreads();
  }
#pragma unroll
  for (int t = 0; t < 8; ++t) {
    const int token = own / 8 * 8 + t;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int r = rank + own % 8 * 4 + j;
      if (token >= first && token < end && r < p.rank) p.factors[(tile + token) * p.rank + r] = sums[t][j];
    }
  }
}

template <typename T, typename B>
__global__ void __launch_bounds__(kThreads) project_tile_kernel(const T* x, const ProjectParams p) {
  __shared__ __align__(16) Tiles tiles;
  __shared__ Segment<B> segments[kTokens];
  const int64_t tile = blockIdx.y * int64_t{kTokens};
  const int count = static_cast<int>(min(int64_t{kTokens}, p.tokens.count - tile));
  if (threadIdx.x < count) segments[threadIdx.x] = segment_of<B>(p, tile + threadIdx.x);
  __syncthreads();
  for (int first = 0; first < count;) {
    int end = first + 1;
    while (end < count && segments[end].basis == segments[first].basis) ++end;
    project_run(x, p, segments[first], tile, first, end, static_cast<int>(blockIdx.x) * kRanks, tiles);
    first = end;
  }
}

// ---- many tokens on tensor cores --------------------------------------------------------------------------

// Centred keys are split into two bfloat16 numbers, so that nothing of the float32 difference is lost that a
// factor could show.
namespace mma {

constexpr int kTileTokens = 128;
constexpr int kTileRanks = 64;
constexpr int kStep = 32;           // numbers of a key at a time
constexpr int kStride = kStep + 8;  // of a row in shared memory: eight rows lie in different banks
constexpr int kWarpsPerTile = 8;    // four down the tokens, two along the ranks; each 32 by 32
constexpr int kTileThreads = kWarpsPerTile * kWarp;

struct Tiles {
  Bf16 high[kTileTokens * kStride];
  Bf16 low[kTileTokens * kStride];
  Bf16 basis[kTileRanks * kStride];
};

// What a thread brings for one step: half a row of the keys, an eighth of four rows of the basis.
struct Pieces {
  uint4 keys[2], basis;

  __device__ void load(const Bf16* key, const Bf16* row, int from) {
    const uint4 none = make_uint4(0, 0, 0, 0);
    const auto* keys_at = reinterpret_cast<const uint4*>(key + from + threadIdx.x % 2 * 16);
    keys[0] = key != nullptr ? __ldg(keys_at) : none;
    keys[1] = key != nullptr ? __ldg(keys_at + 1) : none;
    basis = row != nullptr ? __ldg(reinterpret_cast<const uint4*>(row + from + threadIdx.x % 4 * 8)) : none;
  }

  __device__ void store(Tiles& tiles, const float* mean, int from, bool exists) const {
    const int column = threadIdx.x % 2 * 16, at = threadIdx.x / 2 * kStride + column;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float x[8], rest[8];
      Bf16x8{keys[i]}.to_floats(x);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        x[j] = exists ? x[j] - __ldg(mean + from + column + 8 * i + j) : 0.0f;
        rest[j] = x[j] - to_float(from_float<Bf16>(x[j]));
      }
      Bf16x8::from_floats(x).store(tiles.high + at + 8 * i);
      Bf16x8::from_floats(rest).store(tiles.low + at + 8 * i);
    }
    Bf16x8{basis}.store(tiles.basis + threadIdx.x / 4 * kStride + threadIdx.x % 4 * 8);
  }
};

struct Sums {
  float numbers[2][4][4] = {};  // 16 tokens by 8 ranks each

  __device__ void add(const Tiles& tiles, int token, int rank) {
    const int lane = threadIdx.x % kWarp;
    const int a_at = (token + lane % 16) * kStride + lane / 16 * 8;
    const int b_at = (rank + lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < kStep; k += 16) {
      uint32_t basis[2][4];
#pragma unroll
      for (int n = 0; n < 2; ++n) load_matrices(basis[n], tiles.basis + b_at + n * 16 * kStride + k);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        uint32_t high[4], low[4];
        load_matrices(high, tiles.high + a_at + m * 16 * kStride + k);
        load_matrices(low, tiles.low + a_at + m * 16 * kStride + k);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const uint32_t(&both)[4] = basis[n / 2];
          mma_16x8x16(numbers[m][n], high, {both[n % 2 * 2], both[n % 2 * 2 + 1]});
          mma_16x8x16(numbers[m][n], low, {both[n % 2 * 2], both[n % 2 * 2 + 1]});
        }
      }
    }
  }

  // Rows [first, end) of the tile, which starts at token `tile` and rank `rank` of the whole.
  __device__ void store(const ProjectParams& p, int64_t tile, int first, int end, int token, int rank) const {
    const int g = static_cast<int>(threadIdx.x) % kWarp / 4, t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = token + 16 * m + g + i / 2 * 8, r = rank + 8 * n + 2 * t + i % 2;
          if (row >= first && row < end && r < p.rank)
            p.factors[(tile + row) * p.rank + r] = numbers[m][n][i];
        }
      }
    }
  }
};

__device__ void project_run(const Bf16* x, const ProjectParams& p, const Segment<Bf16>& segment, int64_t tile,
                            int first, int end, int rank, Tiles& tiles) {
  const int row = static_cast<int>(threadIdx.x) / 2, of_basis = rank + static_cast<int>(threadIdx.x) / 4;
  const bool exists = row >= first && row < end;
  const Bf16* key = exists ? x + (tile + row) * p.width : nullptr;
  const Bf16* basis = of_basis < p.rank ? segment.basis + int64_t{of_basis} * p.width : nullptr;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int own_token = warp / 2 * 32, own_rank = warp % 2 * 32;
  Sums sums;
  Pieces pieces;
  pieces.load(key, basis, 0);
  for (int from = 0; from < p.width; from += kStep) {
    pieces.store(tiles, segment.mean, from, exists);
    __syncthreads();
    if (from + kStep < p.width) pieces.load(key, basis, from + kStep);
    sums.add(tiles, own_token, own_rank);
    __syncthreads();
  }
  sums.store(p, tile, first, end, own_token, rank + own_rank);
}

__global__ void __launch_bounds__(kTileThreads, 2) project_kernel(const Bf16* x, const ProjectParams p) {
  __shared__ __align__(16) Tiles tiles;
  __shared__ Segment<Bf16> segments[kTileTokens];
  const int64_t tile = blockIdx.y * int64_t{kTileTokens};
  const int count = static_cast<int>(min(int64_t{kTileTokens}, p.tokens.count - tile));
  if (threadIdx.x < count) segments[threadIdx.x] = segment_of<Bf16>(p, tile + threadIdx.x);
  __syncthreads();
  for (int first = 0; first < count;) {
    int end = first + 1;
    while (end < count && segments[end].basis == segments[first].basis) ++end;
    project_run(x, p, segments[first], tile, first, end, static_cast<int>(blockIdx.x) * kTileRanks, tiles);
    first = end;
  }
}

}  // namespace mma

// False, with nothing done, where the shape or the types are not for it.
template <typename T, typename B>
bool launch_on_tensor_cores(Queue& queue, const T* x, const ProjectParams& p) {
  if constexpr (std::is_same_v<T, Bf16> && std::is_same_v<B, Bf16>) {
    if (!p.vectors || p.width % mma::kStep != 0 || !is_aligned_16(x)) return false;
    const char* op = "project_keys";
    const dim3 grid(grid_x(ceil_div(p.rank, mma::kTileRanks), op),
                    grid_yz(ceil_div<int64_t>(p.tokens.count, mma::kTileTokens), op));
    mma::project_kernel<<<grid, mma::kTileThreads, 0, stream_of(queue)>>>(x, p);
    check_launch(op);
    return true;
  } else {
    return false;
  }
}

template <typename T, typename B>
void launch_project(Queue& queue, const T* x, const ProjectParams& p, bool few) {
  const char* op = "project_keys";
  if (!few && launch_on_tensor_cores<T, B>(queue, x, p)) return;
  if (few) {
    const int64_t shared = p.width * int64_t{sizeof(float)};
    allow_shared(project_few_kernel<T, B>, shared, op);
    const dim3 grid(grid_x(ceil_div(p.rank, kFewRows), op), grid_yz(p.tokens.count, op));
    project_few_kernel<T, B><<<grid, kFewThreads, static_cast<size_t>(shared), stream_of(queue)>>>(x, p);
  } else {
    const dim3 grid(grid_x(ceil_div(p.rank, kRanks), op),
                    grid_yz(ceil_div<int64_t>(p.tokens.count, kTokens), op));
    project_tile_kernel<T, B><<<grid, kThreads, 0, stream_of(queue)>>>(x, p);
  }
  check_launch(op);
}

}  // namespace

void project_keys(Queue& queue, const ProjectKeysParams& params) {
  const char* op = "project_keys";
  const int64_t width = params.x.row_elements(), count = params.tokens.count;
  const int64_t row_bytes = params.rank * int64_t{sizeof(float)};
  const int64_t step = std::max<int64_t>(1, scratch_bytes_of(queue) / row_bytes / kTokens) * kTokens;
  const bool few = count <= kFewTokens;
  for (int64_t first = 0; first < count; first += step) {
    const int64_t tokens = std::min(step, count - first);
    const TokenBatch batch{tokens, params.tokens.rows + first, params.tokens.positions + first};
    std::byte* scratch = scratch_of(queue, tokens * row_bytes, op);
    const ProjectParams p{
        batch,
        params.mean,
        params.basis,
        static_cast<int>(width),
        static_cast<int>(params.rank),
        reinterpret_cast<float*>(scratch),
        width % 8 == 0 && params.basis.offset % 16 == 0 && params.basis.token_bytes % 16 == 0};
    with_number_type(params.x.dtype, op, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      with_number_type(params.basis.dtype, op, [&](auto* basis) {
        using B = std::remove_pointer_t<decltype(basis)>;
        launch_project<T, B>(queue, device_ptr<const T>(params.x) + first * width, p, few);
      });
    });
    launch_store_rows(queue, scratch, DType::f32, 1, params.rank, batch, params.factors, op);
  }
}

}  // namespace shadowkv::cuda
