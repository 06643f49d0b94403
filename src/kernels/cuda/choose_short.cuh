// Choosing from a row of few entries, by one block: every entry's rank by counting. Bound: latency.
#pragma once

#include "kernels/cuda/choose_row.cuh"

namespace shadowkv::cuda {

inline constexpr int kFew = 512;        // entries
inline constexpr int kMostParts = 4;    // threads of an entry
inline constexpr int kShortBlocks = 3;  // of a multiprocessor, where all threads have work

struct ShortShared {
  uint4 orders[kFew / 4];
  int limit;
  float lses[kMostGroup];
  int counts[kFew / kWarp];
};

// Log-sum-exp of a row, by one warp; what is not a number has no say.
template <bool kVectors>
__device__ inline float sum_row(const float* scores, int n) {
  constexpr int kFours = kFew / 4 / kWarp;  // of a lane
  float4 x[kFours];
  float most = kMinusInfinity, sum = 0.0f;
#pragma unroll
  for (int v = 0; v < kFours; ++v) {
    const int first = 4 * (static_cast<int>(threadIdx.x) % kWarp + v * kWarp);
    x[v] = make_float4(kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity);
    if (first < n) x[v] = load_four<kVectors>(scores, first, n);
  }
#pragma unroll
  for (const float4& four : x) most = fmaxf(most, fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w)));
  most = warp_reduce(most, Max());
#pragma unroll
  for (int v = 0; v < kFours && 4 * kWarp * v < n; ++v) {
    for (const float each : {x[v].x, x[v].y, x[v].z, x[v].w})
      sum += rescale(fmaxf(each, kMinusInfinity), most);
  }
  return log_sum_exp({most, warp_reduce(sum, Sum())});
}

// An entry's threads, lanes side by side: 1, 2 or 4, as many as the block has for rows of n.
struct Parts {
  int shift;
  int part;  // of this thread

  __device__ explicit Parts(int n) {
    const int threads = static_cast<int>(blockDim.x);
    shift = 4 * n <= threads ? 2 : 2 * n <= threads ? 1 : 0;
    part = static_cast<int>(threadIdx.x) & (count() - 1);
  }
  __device__ int count() const { return 1 << shift; }
  __device__ int entry() const { return static_cast<int>(threadIdx.x) >> shift; }
  template <typename T, typename Op>
  __device__ T reduce(T x, Op op) const {
    for (int step = 1; step < count(); step *= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, step));
    return x;
  }
};

// How many entries come before this thread's, of order `own` (from 1): of equal ones those of a lower index.
__device__ inline int count_before(const uint4* orders, int n, uint32_t own, const Parts& parts) {
  const int quad = parts.entry() / 4, place = parts.entry() % 4;
  int before = 0;
#pragma unroll 4
  for (int j = parts.part; j < ceil_div(n, 4); j += parts.count()) {
    const uint4 x = orders[j];
    const uint32_t most = j < quad ? own - 1 : own;
    before += (x.x > most ? 1 : 0) + (x.y > most ? 1 : 0) + (x.z > most ? 1 : 0) + (x.w > most ? 1 : 0);
  }
  if (parts.part == 0) {
    const uint4 x = orders[quad];
    before += (place > 0 && x.x == own ? 1 : 0) + (place > 1 && x.y == own ? 1 : 0) +
              (place > 2 && x.z == own ? 1 : 0);
  }
  return parts.reduce(before, Sum());
}

// Writes the taken entries, which threads hold by index, and -1 behind them.
__device__ inline void write_taken(int* counts, bool taken, int entry, const Choice& p) {
  const int warp = threadIdx.x / kWarp, threads = static_cast<int>(blockDim.x);
  const unsigned lanes = __ballot_sync(kAllLanes, taken);
  if (threadIdx.x % kWarp == 0) counts[warp] = __popc(lanes);
  __syncthreads();
  int at = lanes_below(lanes), all = 0;
  for (int w = 0; w < threads / kWarp; ++w) {
    at += w < warp ? counts[w] : 0;
    all += counts[w];
  }
  if (taken) p.chosen[at] = entry;
  for (int k = all + static_cast<int>(threadIdx.x); k < p.room; k += threads) p.chosen[k] = -1;
}

// Chooses row blockIdx.x by all threads of the block: at most kFew, at least as many as entries.
// meanwhile(): called while the first loads are under way.
template <typename Meanwhile>
__device__ void choose_short(const GroupChoiceParams& p, ShortShared& shared, int32_t* chosen,
                             const Meanwhile& meanwhile) {
  const Parts parts(p.n);
  const int warp = threadIdx.x / kWarp, warps = static_cast<int>(blockDim.x) / kWarp, i = parts.entry();
  const float* scores = p.row();
  const bool last = threadIdx.x == blockDim.x - 1;  // of the warp with the least to do
  const int own_limit = last ? p.limit() : 0;       // in flight with the scores
  meanwhile();
  for (int h = warp; h < p.group; h += warps) {
    const float* row = scores + h * p.n;
    const float lse = p.n % 4 == 0 ? sum_row<true>(row, p.n) : sum_row<false>(row, p.n);
    if (threadIdx.x % kWarp == 0) shared.lses[h] = p.lses[blockIdx.x * int64_t{p.group} + h] = lse;
  }
  __syncthreads();
  float best = kMinusInfinity;
#pragma unroll 4
  for (int h = parts.part; h < p.group && i < p.n; h += parts.count())
    raise_by(best, scores[h * p.n + i], shared.lses[h]);
  const uint32_t own = order_of(parts.reduce(best, Max()));
  if (parts.part == 0) reinterpret_cast<uint32_t*>(shared.orders)[i] = own;
  if (last) shared.limit = own_limit;
  __syncthreads();
  const Choice choice = p.choice(shared.limit, chosen);
  const int before = count_before(shared.orders, p.n, own, parts);
  write_taken(shared.counts, own != 0 && before < choice.limit && parts.part == 0, i, choice);
}

}  // namespace shadowkv::cuda
