// Cholesky QR of rows, by tiles of 32 by 32 numbers in float64. With S = Y Y^T = L L^T the rows of L^-1 Y are
// orthonormal. One launch makes S, one for each column of tiles takes it out of those to its right, one
// solves for the rows. Bound: latency, about 8 microseconds a launch; 2 * count^2 * width multiply-adds.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/orthonormal.h"

namespace shadowkv::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kThreads = 256;  // each takes four rows of one column of a tile
// Added to S's diagonal, of its trace: keeps the decomposition from breaking down where rows are dependent.
constexpr double kShift = 1e-15;

struct Tiles {
  float* rows;
  int64_t width;
  int count;
  int padded;        // count, rounded up to whole tiles
  double* products;  // S [padded, padded], lower tiles
  double* lower;     // L beneath its diagonal tiles
  double* inverses;  // [padded / 32] of L's diagonal tiles
  double* solved;    // [padded, width]
  double* shift;     // [1]

  __device__ double* tile(double* matrix, int i, int j) const {
    return matrix + int64_t{i} * kTile * padded + int64_t{j} * kTile;
  }
};

struct Tile {
  double numbers[kTile][kTile + 1];

  __device__ void load(const double* from, int64_t stride) {
    for (int i = threadIdx.x; i < kTile * kTile; i += kThreads)
      numbers[i / kTile][i % kTile] = from[i / kTile * stride + i % kTile];
  }
  __device__ void store(double* to, int64_t stride) const {
    for (int i = threadIdx.x; i < kTile * kTile; i += kThreads)
      to[i / kTile * stride + i % kTile] = numbers[i / kTile][i % kTile];
  }
};

// A thread's four numbers of a tile: rows first() .. first() + 3 of column().
struct Part {
  double numbers[4] = {};

  static __device__ int first() { return static_cast<int>(threadIdx.x) / kTile * 4; }
  static __device__ int column() { return static_cast<int>(threadIdx.x) % kTile; }
  // += a b^T, or a b.
  template <bool kTransposed>
  __device__ void add(const Tile& a, const Tile& b) {
#pragma unroll 8
    for (int k = 0; k < kTile; ++k) {
      const double right = kTransposed ? b.numbers[column()][k] : b.numbers[k][column()];
#pragma unroll
      for (int i = 0; i < 4; ++i) numbers[i] += a.numbers[first() + i][k] * right;
    }
  }
  __device__ void store(Tile& to) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) to.numbers[first() + i][column()] = numbers[i];
  }
};

// ---- S ----------------------------------------------------------------------------------------------------

constexpr int kSplits = 4;  // of a tile's sums over the width, in one block
constexpr int kDepth = 16;  // numbers of a row at a time
constexpr int kProductThreads = kSplits * kThreads;

struct ProductTiles {
  double left[kSplits][kTile][kDepth + 1];
  double right[kSplits][kTile][kDepth + 1];
};

// Block (j, i) makes tile (i, j), i >= j. Rows that pad the last tile are those of a unit matrix.
__global__ void __launch_bounds__(kProductThreads) row_products_kernel(const Tiles p) {
  __shared__ union {
    ProductTiles tiles;
    double sums[kSplits][kTile][kTile];
  } shared;
  const int i = blockIdx.y, j = blockIdx.x;
  if (j > i) return;
  const int split = threadIdx.x / kThreads, thread = threadIdx.x % kThreads;
  const int first = thread / kTile * 4, column = thread % kTile;
  double part[4] = {};
  for (int64_t from = 0; from < p.width; from += kSplits * kDepth) {
    for (int n = thread; n < kTile * kDepth; n += kThreads) {
      const int row = n / kDepth, at = n % kDepth;
      const int64_t w = from + split * kDepth + at;
      const auto read = [&](int r) {
        return r < p.count && w < p.width ? static_cast<double>(p.rows[r * p.width + w]) : 0.0;
      };
      shared.tiles.left[split][row][at] = read(i * kTile + row);
      shared.tiles.right[split][row][at] = read(j * kTile + row);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      const double right = shared.tiles.right[split][column][k];
#pragma unroll
      for (int r = 0; r < 4; ++r) part[r] += shared.tiles.left[split][first + r][k] * right;
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) shared.sums[split][first + r][column] = part[r];
  __syncthreads();
  for (int n = threadIdx.x; n < kTile * kTile; n += kProductThreads) {
    const int row = n / kTile, at = n % kTile;
    double sum = 0.0;
    for (int s = 0; s < kSplits; ++s) sum += shared.sums[s][row][at];
    const bool pads = i * kTile + row >= p.count && i * kTile + row == j * kTile + at;
    p.tile(p.products, i, j)[int64_t{row} * p.padded + at] = pads ? 1.0 : sum;
  }
}

// ---- decomposition ----------------------------------------------------------------------------------------

// The inverse of L of a tile, by the calling warp: a lane a row, then a lane a column.
__device__ void invert_lower(const Tile& tile, double shift, double* inverse) {
  const int lane = threadIdx.x % kWarp;
  double row[kTile], column[kTile];
#pragma unroll
  for (int k = 0; k < kTile; ++k) {
    row[k] = tile.numbers[lane][k] + (k == lane ? shift : 0.0);
    column[k] = k == lane ? 1.0 : 0.0;
  }
#pragma unroll
  for (int j = 0; j < kTile; ++j) {
    const double scale = rsqrt(fmax(__shfl_sync(kAllLanes, row[j], j), shift));
    row[j] *= scale;
#pragma unroll
    for (int k = j + 1; k < kTile; ++k) row[k] -= row[j] * __shfl_sync(kAllLanes, row[j], k);
    column[j] *= scale;
#pragma unroll
    for (int k = j + 1; k < kTile; ++k) column[k] -= column[j] * __shfl_sync(kAllLanes, row[j], k);
  }
#pragma unroll
  for (int k = 0; k < kTile; ++k) inverse[k * kTile + lane] = column[k];
}

// One block: the shift, and the first diagonal tile.
__global__ void __launch_bounds__(kThreads) first_column_kernel(const Tiles p) {
  __shared__ double shared[kThreads / kWarp];
  __shared__ Tile tile;
  double trace = 0.0;
  for (int64_t i = threadIdx.x; i < p.count; i += kThreads) trace += p.products[i * p.padded + i];
  tile.load(p.products, p.padded);
  trace = block_reduce<kThreads>(trace, Sum{}, shared);
  const double shift = fmax(trace * kShift, 1e-290);
  if (threadIdx.x == 0) *p.shift = shift;
  __syncthreads();
  if (threadIdx.x < kWarp) invert_lower(tile, shift, p.inverses);
}

// Block (j, i) beneath and right of diagonal tile k: L of its two rows in column k from S and the inverse of
// that diagonal tile, and their product out of its tile of S. The next diagonal tile is then ready.
__global__ void __launch_bounds__(kThreads) next_column_kernel(const Tiles p, int k) {
  __shared__ Tile a, b, inverse;
  const int i = k + 1 + blockIdx.y, j = k + 1 + blockIdx.x;
  if (j > i) return;
  inverse.load(p.inverses + int64_t{k} * kTile * kTile, kTile);
  a.load(p.tile(p.products, i, k), p.padded);
  b.load(p.tile(p.products, j, k), p.padded);
  __syncthreads();
  Part left, right;
  left.add<true>(a, inverse);
  right.add<true>(b, inverse);
  __syncthreads();
  left.store(a);
  right.store(b);
  __syncthreads();
  if (j == k + 1) a.store(p.tile(p.lower, i, k), p.padded);
  Part product;
  product.add<true>(a, b);
  double* to = p.tile(p.products, i, j);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    double& number = to[int64_t{Part::first() + r} * p.padded + Part::column()];
    number -= product.numbers[r];
    inverse.numbers[Part::first() + r][Part::column()] = number;
  }
  if (i != k + 1) return;  // i == j: its diagonal tile is the next
  __syncthreads();
  if (threadIdx.x < kWarp) invert_lower(inverse, *p.shift, p.inverses + int64_t{i} * kTile * kTile);
}

// ---- rows -------------------------------------------------------------------------------------------------

// A block takes 32 columns of all rows, tile by tile downwards.
__global__ void __launch_bounds__(kThreads) solve_rows_kernel(const Tiles p) {
  __shared__ Tile a, b;
  const int64_t w = blockIdx.x * int64_t{kTile} + Part::column();
  const int tiles = p.padded / kTile;
  for (int j = 0; j < tiles; ++j) {
    Part taken;
    for (int i = 0; i < j; ++i) {
      a.load(p.tile(p.lower, j, i), p.padded);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int64_t row = int64_t{i} * kTile + Part::first() + r;
        b.numbers[Part::first() + r][Part::column()] = w < p.width ? p.solved[row * p.width + w] : 0.0;
      }
      __syncthreads();
      taken.add<false>(a, b);
      __syncthreads();
    }
    a.load(p.inverses + int64_t{j} * kTile * kTile, kTile);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int64_t row = int64_t{j} * kTile + Part::first() + r;
      const bool exists = row < p.count && w < p.width;
      b.numbers[Part::first() + r][Part::column()] =
          (exists ? static_cast<double>(p.rows[row * p.width + w]) : 0.0) - taken.numbers[r];
    }
    __syncthreads();
    Part out;
    out.add<false>(a, b);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int64_t row = int64_t{j} * kTile + Part::first() + r;
      if (w >= p.width) continue;
      p.solved[row * p.width + w] = out.numbers[r];
      if (row < p.count) p.rows[row * p.width + w] = static_cast<float>(out.numbers[r]);
    }
  }
}

}  // namespace

int64_t orthonormal_work_numbers(int64_t count, int64_t width) {
  const int64_t padded = round_up<int64_t>(count, kTile);
  return 2 * padded * padded + padded * kTile + padded * width + 1;
}

void launch_orthonormalise(Queue& queue, const OrthonormalRows& r, const char* op) {
  const int64_t padded = round_up<int64_t>(r.count, kTile), tiles = padded / kTile;
  Tiles p{.rows = r.rows,
          .width = r.width,
          .count = static_cast<int>(r.count),
          .padded = static_cast<int>(padded),
          .products = r.work};
  p.lower = p.products + padded * padded;
  p.inverses = p.lower + padded * padded;
  p.solved = p.inverses + padded * kTile;
  p.shift = p.solved + padded * r.width;
  const auto square = [op](int64_t side) { return dim3(grid_x(side, op), grid_yz(side, op)); };
  const cudaStream_t stream = stream_of(queue);
  row_products_kernel<<<square(tiles), kProductThreads, 0, stream>>>(p);
  first_column_kernel<<<1, kThreads, 0, stream>>>(p);
  for (int64_t k = 0; k + 1 < tiles; ++k)
    next_column_kernel<<<square(tiles - k - 1), kThreads, 0, stream>>>(p, static_cast<int>(k));
  solve_rows_kernel<<<grid_x(ceil_div<int64_t>(r.width, kTile), op), kThreads, 0, stream>>>(p);
  check_launch(op);
}

}  // namespace shadowkv::cuda
