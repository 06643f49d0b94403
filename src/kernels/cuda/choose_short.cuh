// Choosing from a row of few entries, by one block, a thread each: a histogram of the shares finds the k-th
// to within a bin, and ranks by counting decide among the entries of that bin. Bound: latency.
#pragma once

#include "kernels/cuda/choose_row.cuh"

namespace shadowkv::cuda {

inline constexpr int kFew = 512;        // entries, a thread each
inline constexpr int kShortBlocks = 3;  // of a multiprocessor, where rows are that long

struct ShortShared {
  ShareBins bins;
  FoundBin found;
  ListedEntry close[kFew];  // of the bin found
  float lses[kMostGroup];
  float shares[kMostGroup];  // largest ones of the heads
  int counts[kFew / kWarp];
  int listed_close;
  int limit;
};

// By one warp; what is not a number has no say.
template <bool kVectors>
__device__ inline HeadLse sum_row(const float* scores, int n) {
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
  return {most, log_sum_exp({most, warp_reduce(sum, Sum())})};
}

// A warp a head.
__device__ inline void sum_short_heads(const GroupChoiceParams& p, ShortShared& shared) {
  for (int h = threadIdx.x / kWarp; h < p.group; h += static_cast<int>(blockDim.x) / kWarp) {
    const float* row = p.row() + h * p.n;
    const HeadLse head = p.n % 4 == 0 ? sum_row<true>(row, p.n) : sum_row<false>(row, p.n);
    if (threadIdx.x % kWarp == 0) {
      shared.lses[h] = p.lses[blockIdx.x * int64_t{p.group} + h] = head.lse;
      shared.shares[h] = head.largest - head.lse;
    }
  }
}

// Whether this thread's entry is among the `limit` best, once their last one's bin is found. bin: of the
// entry, kShareBins if it is closed.
__device__ inline bool is_taken(ShortShared& shared, const ListedEntry& own, int bin, int limit) {
  const FoundBin found = shared.found;
  const int left = limit - found.larger;  // of the bin
  if (left >= found.count) return bin <= found.bin;
  if (bin == found.bin) shared.close[atomicAdd(&shared.listed_close, 1)] = own;
  __syncthreads();
  return bin < found.bin || (bin == found.bin && count_before(shared.close, found.count, own) < left);
}

// Writes the taken ones of the entries, a thread each, and -1 behind them.
__device__ inline void write_taken(int* counts, bool taken, const Choice& p) {
  const int warp = threadIdx.x / kWarp, threads = static_cast<int>(blockDim.x);
  const unsigned lanes = __ballot_sync(kAllLanes, taken);
  if (threadIdx.x % kWarp == 0) counts[warp] = __popc(lanes);
  __syncthreads();
  int at = lanes_below(lanes), all = 0;
  for (int w = 0; w < threads / kWarp; ++w) {
    at += w < warp ? counts[w] : 0;
    all += counts[w];
  }
  if (taken) p.chosen[at] = static_cast<int>(threadIdx.x);
  for (int k = all + static_cast<int>(threadIdx.x); k < p.room; k += threads) p.chosen[k] = -1;
}

// Chooses row blockIdx.x by all threads of the block: whole warps, a thread an entry at least.
// meanwhile(): called by every thread before the first barrier.
template <typename Meanwhile>
__device__ void choose_short(const GroupChoiceParams& p, ShortShared& shared, int32_t* chosen,
                             const Meanwhile& meanwhile) {
  const int i = threadIdx.x;
  const bool last = threadIdx.x == blockDim.x - 1;  // of the warp with the least to do
  const int own_limit = last ? p.limit() : 0;       // in flight with the scores
  shared.bins.clear(static_cast<int>(blockDim.x));
  if (last) shared.listed_close = 0;
  sum_short_heads(p, shared);
  meanwhile();
  __syncthreads();
  float best = kMinusInfinity, largest = kMinusInfinity;
#pragma unroll 4
  for (int h = 0; h < p.group; ++h) {
    if (i < p.n) raise_by(best, p.row()[h * p.n + i], shared.lses[h]);
    largest = fmaxf(largest, shared.shares[h]);
  }
  const int bin = best > kMinusInfinity ? bin_of(apart(largest, best)) : kShareBins;
  if (bin < kShareBins) shared.bins.count(bin);
  if (last) shared.limit = own_limit;
  __syncthreads();
  const Choice choice = p.choice(shared.limit, chosen);
  if (i < kWarp) find_bin(shared.bins, max(choice.limit, 1), shared.found);
  __syncthreads();
  write_taken(shared.counts, is_taken(shared, {best, i}, bin, choice.limit), choice);
}

}  // namespace shadowkv::cuda
