// Pieces of selection that several kernels share: running log-sum-exps, spans of scores, the order of floats,
// and an exact radix selection by one block.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/query_tile.cuh"

namespace shadowkv::cuda {

// ---- ranking ----------------------------------------------------------------------------------------------

// Largest number and sum of exp(number - largest) of what a thread has seen.
struct RunningSum {
  float largest = kMinusInfinity;
  float sum = 0.0f;

  __device__ void add(float x) {
    if (x > largest) {
      sum *= expf(largest - x);
      largest = x;
    }
    if (x > kMinusInfinity) sum += expf(x - largest);
  }
  __device__ void add(const float4& x) {
    const float most = fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w));
    if (most > largest) {
      sum *= expf(largest - most);
      largest = most;
    }
    if (largest == kMinusInfinity) return;
    sum += expf(x.x - largest) + expf(x.y - largest) + expf(x.z - largest) + expf(x.w - largest);
  }
};

// What a warp's lanes have seen, in one.
__device__ inline RunningSum merge_lanes(const RunningSum& own) {
  const float largest = warp_reduce(own.largest, Max());
  const float share = own.largest == kMinusInfinity ? 0.0f : own.sum * expf(own.largest - largest);
  return {largest, warp_reduce(share, Sum())};
}

__device__ inline float log_sum_exp(const RunningSum& all) {
  return all.largest == kMinusInfinity ? kMinusInfinity : all.largest + logf(all.sum);
}

__device__ inline void raise(float& best, float score, float lse) {
  const float share = score - lse;
  best = share > best ? share : best;
}

// ---- spans ------------------------------------------------------------------------------------------------

inline constexpr int kSpan = static_cast<int>(kSpanScores);

inline int64_t spans_of(int64_t scores) {
  return ceil_div<int64_t>(scores, kSpanScores);
}

// Fills `spans` [B, H, spans_of(n), 2] from scores [B, H, n]. Bound: bytes of the scores.
void sum_spans(Queue& queue, const TensorView& scores, float2* spans, const char* op);

// One span (largest, sum) of the scores that the lanes kStep, 2 kStep, .. below kEnd apart hold, two each;
// all of them get it.
template <int kStep, int kEnd>
__device__ inline float2 span_of_lanes(float a, float b) {
  float most = fmaxf(a, b);
#pragma unroll
  for (int step = kStep; step < kEnd; step *= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, step));
  const float base = most == kMinusInfinity ? 0.0f : -most * kLog2e;
  float sum = fast_exp2(fmaf(a, kLog2e, base)) + fast_exp2(fmaf(b, kLog2e, base));
#pragma unroll
  for (int step = kStep; step < kEnd; step *= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  return make_float2(most, sum);
}

// ---- order ------------------------------------------------------------------------------------------------

// Unsigned numbers in the order of floats; -0 and 0 are one. 0 stands for -infinity and NaN.
__device__ inline uint32_t order_of(float x) {
  const uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0f));
  const uint32_t order = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return x > kMinusInfinity ? order : 0u;
}

// Sum over the lanes up to and with this one. All lanes of the warp must take part.
__device__ inline int scan_lanes(int own) {
  const int lane = threadIdx.x % kWarp;
  int until = own;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, until, step);
    until += lane >= step ? other : 0;
  }
  return until;
}

__device__ inline int lanes_below(unsigned lanes) {
  return __popc(lanes & ((1u << (threadIdx.x % kWarp)) - 1));
}

// ---- radix selection --------------------------------------------------------------------------------------

constexpr int kBins = 2048;  // of the first two digits; the third has half

// kThreads: of the block that selects, a divisor of kBins.
template <int kThreads>
struct ChooseShared {
  static constexpr int kWarps = kThreads / kWarp;
  int bins[kBins];
  int above[kWarps];  // entries in the bins of later warps, then other counts a warp
  int equal[kWarps];
  int found_bin;
  int found_larger;
  int found_count;
};

// Finds the bin of the k-th largest of the counted entries (k from 1 to how many there are): the bin, how
// many entries lie in it, and how many in larger ones.
template <int kThreads>
__device__ void find_bin(ChooseShared<kThreads>& s, int k) {
  constexpr int kBinsEach = kBins / kThreads;  // of a thread
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  // Thread 0 has the largest bins, so that sums run from the top.
  const int first = kBins - (thread + 1) * kBinsEach;
  int own = 0;
#pragma unroll
  for (int i = 0; i < kBinsEach; ++i) own += s.bins[first + i];
  const int until = scan_lanes(own);
  if (lane == kWarp - 1) s.above[warp] = until;
  __syncthreads();
  int larger = until - own;
  for (int w = 0; w < warp; ++w) larger += s.above[w];
  if (larger < k && k <= larger + own) {  // in one thread only
    for (int bin = first + kBinsEach - 1; bin >= first; --bin) {
      if (k <= larger + s.bins[bin]) {
        s.found_bin = bin;
        s.found_larger = larger;
        s.found_count = s.bins[bin];
        break;
      }
      larger += s.bins[bin];
    }
  }
  __syncthreads();
}

// Counts the entries whose digits above `shift + bits` are those of `prefix` by their next `bits` bits.
template <int kThreads, typename Orders>
__device__ void count_bins(ChooseShared<kThreads>& s, const Orders& orders, int n, uint32_t prefix, int shift,
                           int bits) {
  for (int i = threadIdx.x; i < kBins; i += kThreads) s.bins[i] = 0;
  __syncthreads();
  const uint32_t mask = (1u << bits) - 1;
  for (int i = threadIdx.x; i < n; i += kThreads) {
    const uint32_t order = orders(i);
    const bool counts = shift + bits == 32 || (order >> (shift + bits)) == (prefix >> (shift + bits));
    if (order != 0 && counts) atomicAdd(&s.bins[(order >> shift) & mask], 1);
  }
  __syncthreads();
}

// Writes the entries above `least` and the first `equals` of those equal to it, by index; returns how many.
template <int kThreads, typename Orders>
__device__ int write_chosen(ChooseShared<kThreads>& s, const Orders& orders, int n, uint32_t least,
                            int equals, int32_t* chosen) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int each = ceil_div(ceil_div(n, ChooseShared<kThreads>::kWarps), kWarp) *
                   kWarp;  // entries of a warp, side by side
  const int first = warp * each, end = min(n, first + each);
  int above = 0, equal = 0;
  for (int base = first; base < end; base += kWarp) {
    const uint32_t order = base + lane < end ? orders(base + lane) : 0u;
    above += __popc(__ballot_sync(kAllLanes, order > least));
    equal += __popc(__ballot_sync(kAllLanes, order == least && base + lane < end));
  }
  if (lane == 0) s.above[warp] = above, s.equal[warp] = equal;
  __syncthreads();
  int above_before = 0, equal_before = 0, above_all = 0, equal_all = 0;
  for (int w = 0; w < ChooseShared<kThreads>::kWarps; ++w) {
    above_before += w < warp ? s.above[w] : 0;
    equal_before += w < warp ? s.equal[w] : 0;
    above_all += s.above[w];
    equal_all += s.equal[w];
  }
  for (int base = first; base < end; base += kWarp) {
    const uint32_t order = base + lane < end ? orders(base + lane) : 0u;
    const unsigned larger = __ballot_sync(kAllLanes, order > least);
    const unsigned same = __ballot_sync(kAllLanes, order == least && base + lane < end);
    const int rank = equal_before + lanes_below(same);  // among equals
    const bool taken = order > least || (order == least && base + lane < end && rank < equals);
    if (taken) chosen[above_before + lanes_below(larger) + min(rank, equals)] = base + lane;
    above_before += __popc(larger);
    equal_before += __popc(same);
  }
  return above_all + min(equal_all, equals);
}

// What a block chooses from a row: at most `limit` of n entries, written to the `room` entries of chosen.
struct Choice {
  int n;
  int limit;
  int room;
  int32_t* chosen;
};

// open: how many of the entries that this thread has seen are above -infinity.
template <int kThreads, typename Orders>
__device__ void choose(ChooseShared<kThreads>& s, const Orders& orders, int open, const Choice& p) {
  constexpr int kBits[3] = {11, 11, 10}, kShifts[3] = {21, 10, 0};
  open = block_reduce<kThreads>(open, Sum(), s.equal);
  __syncthreads();  // s.equal is free again
  uint32_t least = 0;
  int left = min(min(p.limit, p.room), open);
  const int wanted = left;
  const bool all = left == open;  // every entry above 0
  for (int digit = 0; digit < 3 && wanted > 0 && !all; ++digit) {
    count_bins(s, orders, p.n, least, kShifts[digit], kBits[digit]);
    find_bin(s, left);
    least |= static_cast<uint32_t>(s.found_bin) << kShifts[digit];
    left -= s.found_larger;
    const bool whole = left == s.found_count && least > 0;  // all of the bin: further digits say nothing
    __syncthreads();
    if (whole) {
      --least;
      left = 0;
      break;
    }
  }
  int count = 0;
  if (wanted > 0) count = write_chosen(s, orders, p.n, least, all ? 0 : left, p.chosen);
  for (int k = count + threadIdx.x; k < p.room; k += kThreads) p.chosen[k] = -1;
}

}  // namespace shadowkv::cuda
