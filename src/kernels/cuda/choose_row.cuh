// One row's choice: the best entries of the scores of a KV head's query heads.
#pragma once

#include "kernels/cuda/selection.cuh"

namespace shadowkv::cuda {

// What a block of choose_groups.cu chooses from: row blockIdx.x.
struct GroupChoiceParams {
  const float* scores;    // [B, H, n]
  const float2* spans;    // [B, H, span_count] of long rows
  const int32_t* limits;  // [B]
  float* lses;            // [B, H]
  int64_t kv_heads;
  int group;  // query heads of a KV head
  int n;
  int span_count;
  int room;

  __device__ int limit() const { return limits[blockIdx.x / static_cast<unsigned>(kv_heads)]; }
  __device__ Choice choice(int limit, int32_t* chosen) const { return {n, min(limit, room), room, chosen}; }
  __device__ const float* row() const { return scores + blockIdx.x * int64_t{group} * n; }
  __device__ const float2* row_spans() const { return spans + blockIdx.x * int64_t{group} * span_count; }
};

inline constexpr int kMostGroup = 256;

// Raises the best share by a score's; a head without any open entry has none (not a number, which fmaxf
// drops).
__device__ inline void raise_by(float& best, float score, float lse) {
  best = fmaxf(best, score - lse);
}

// Factor of a sum of exp(number - largest) when a larger number takes that place.
__device__ inline float rescale(float largest, float most) {
  return fast_exp2(kLog2e * (largest - (most == kMinusInfinity ? 0.0f : most)));
}

struct HeadLse {
  float largest;
  float lse;
};

// Scores [first, first + 4) of a row. kVectors: rows start at multiples of 16 bytes; from first >= n on
// anything.
template <bool kVectors>
__device__ inline float4 load_four(const float* row, int first, int n) {
  if constexpr (kVectors) {
    return *reinterpret_cast<const float4*>(row + (first < n ? first : 0));
  } else {
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = first + i < n ? row[first + i] : kMinusInfinity;
    return make_float4(x[0], x[1], x[2], x[3]);
  }
}

// ---- bins -------------------------------------------------------------------------------------------------

// Bins of how far shares lie below the row's largest, in nats: 64 bins of the first kFirstNats, then 64 of
// twice, four times, .. as many each, as floats are spaced; the last bin also has all from 127 nats on.
inline constexpr float kFirstNats = 0.5f;
inline constexpr int kBinsShift = 23 - 6;
inline constexpr int kShareBins = 512;
inline constexpr int kLaneBins = kShareBins / kWarp;
inline constexpr int kLanePitch = kLaneBins + 4;  // so that 16-byte accesses of a warp's lanes share no banks

struct ShareBins {
  int4 counts[kWarp * kLanePitch / 4];

  // By all threads of a block; to be counted in after a barrier.
  __device__ void clear(int threads) {
    for (int i = threadIdx.x; i < kWarp * kLanePitch / 4; i += threads) counts[i] = make_int4(0, 0, 0, 0);
  }
  __device__ void count(int bin) {
    atomicAdd(reinterpret_cast<int*>(counts) + bin / kLaneBins * kLanePitch + bin % kLaneBins, 1);
  }
};

struct FoundBin {
  int bin;
  int larger;  // counted in the bins of larger shares
  int count;   // counted in this bin
};

struct alignas(8) ListedEntry {
  float share;
  int index;

  __device__ bool comes_before(const ListedEntry& other) const {
    return share > other.share || (share == other.share && index < other.index);
  }
  // The larger comes first.
  __device__ uint64_t key() const { return uint64_t{order_of(share)} << 32 | ~static_cast<uint32_t>(index); }
};

// How far a share lies below the row's largest, and kFirstNats; not a number in rows without any.
__device__ inline float apart(float largest, float share) {
  return (largest - share) + kFirstNats;
}
__device__ inline int bin_of(float apart) {
  const uint32_t steps = __float_as_uint(fmaxf(apart, kFirstNats)) - __float_as_uint(kFirstNats);
  return static_cast<int>(min(steps >> kBinsShift, static_cast<uint32_t>(kShareBins - 1)));
}
// What open shares up to those of a bin lie below, exactly: bin_of() keeps order.
__device__ inline float end_of_bin(int bin) {
  const uint32_t end = __float_as_uint(kFirstNats) + (static_cast<uint32_t>(bin + 1) << kBinsShift);
  if (bin < 0) return kMinusInfinity;
  return bin + 1 < kShareBins ? __uint_as_float(end) : -kMinusInfinity;
}

// By one warp: the bin of the k-th largest share (k from 1), the last bin where fewer are counted.
__device__ inline void find_bin(const ShareBins& bins, int k, FoundBin& found) {
  const int lane = threadIdx.x % kWarp;
  const int4* own = bins.counts + lane * (kLanePitch / 4);
  int until[kLaneBins];  // of the lane's bins
#pragma unroll
  for (int i = 0; i < kLaneBins; i += 4) {
    const int4 x = own[i / 4];
    until[i] = x.x + (i > 0 ? until[max(i - 1, 0)] : 0), until[i + 1] = until[i] + x.y;
    until[i + 2] = until[i + 1] + x.z, until[i + 3] = until[i + 2] + x.w;
  }
  const int all = scan_lanes(until[kLaneBins - 1]), before = all - until[kLaneBins - 1];
  if (before < k && (k <= all || lane == kWarp - 1)) {  // in one lane only
    int bin = 0, larger = before;
#pragma unroll
    for (int i = 0; i < kLaneBins - 1; ++i) {
      if (before + until[i] < k) bin = i + 1, larger = before + until[i];
    }
    found = {lane * kLaneBins + bin, larger, reinterpret_cast<const int*>(own)[bin]};
  }
}

// How many of the listed entries come before one.
__device__ inline int count_before(const ListedEntry* entries, int count, const ListedEntry& own) {
  int before = 0;
#pragma unroll 4
  for (int i = 0; i < count; ++i) before += entries[i].comes_before(own) ? 1 : 0;
  return before;
}

}  // namespace shadowkv::cuda
