// Ranking and top-k of a row in one launch, one block a sequence and KV head. Long rows are read twice, for
// the log-sum-exp of each query head and for the ranking (the second time mostly from the L2 cache), and the
// ranking once more. A block's threads keep the largest entries of kSubsets disjoint subsets: no more than k
// subsets can have a largest entry above the k-th of those, so whatever lies below that bound is out, and
// what is left, few more than k entries, is ranked by counting. Bound: bytes of the scores. Few rows do not
// fill a GPU so; they go through rank_groups and top_k, as do choices of many entries.
#include "kernels/cuda/selection.cuh"

namespace shadowkv::cuda {
namespace {

struct GroupChoiceParams {
  const float* scores;    // [B, H, n]
  const int32_t* limits;  // [B]
  float* ranking;         // [B, G, n]
  int32_t* chosen;        // [B, G, room]
  int64_t kv_heads;
  int group;  // query heads of a KV head
  int n;
  int room;

  __device__ Choice choice() const {
    return {n, min(limits[blockIdx.x / kv_heads], room), room, chosen + blockIdx.x * int64_t{room}};
  }
};

// ---- long rows --------------------------------------------------------------------------------------------

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kEach = 4;  // numbers of a vector: one subset each
constexpr int kSubsets = kEach * kThreads;
constexpr int kListed = 2 * kThreads;  // entries that are ranked by counting
constexpr int kMostGroup = 32;
constexpr int kHeadsAtOnce = 4;
constexpr int kAhead = 2;  // vectors of a head in flight

struct LongShared {
  ChooseShared<kThreads> choose;
  float lses[kMostGroup];
  float largest[kHeadsAtOnce][kWarps];
  float sums[kHeadsAtOnce][kWarps];
  uint64_t keys[kListed];     // order of an entry's number, then ~index: the larger comes first
  uint32_t indices[kListed];  // ~index of those that are chosen, 0 for others
  int listed;
};

// Largest number and sum of exp(number - largest), as RunningSum, but without a branch and with the
// approximate exponential.
struct HeadSum {
  float largest = kMinusInfinity;
  float sum = 0.0f;

  __device__ void add(const float4& x) {
    const float most = fmaxf(fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w)), largest);
    const bool none = most == kMinusInfinity;
    const float base = none ? 0.0f : -most * kLog2e, fall = none ? 0.0f : largest - most;
    sum = fmaf(sum, fast_exp2(kLog2e * fall), fast_exp2(fmaf(x.x, kLog2e, base)));
    sum += fast_exp2(fmaf(x.y, kLog2e, base)) + fast_exp2(fmaf(x.z, kLog2e, base));
    sum += fast_exp2(fmaf(x.w, kLog2e, base));
    largest = most;
  }
};

// Raises the best share by a score's; a head without any open entry has none (not a number, which fmaxf
// drops).
__device__ void raise_by(float& best, float score, float lse) {
  best = fmaxf(best, score - lse);
}

// Log-sum-exps of heads [first, first + kHeadsAtOnce) of the group to shared.lses.
__device__ void sum_heads(const GroupChoiceParams& p, LongShared& shared, int first) {
  const float* scores = p.scores + (blockIdx.x * int64_t{p.group} + first) * p.n;
  const int heads = min(kHeadsAtOnce, p.group - first), lane = threadIdx.x % kWarp,
            warp = threadIdx.x / kWarp;
  HeadSum own[kHeadsAtOnce];
  const int vectors = p.n / kEach;
  for (int base = threadIdx.x; base < vectors; base += kAhead * kThreads) {
    float4 x[kAhead][kHeadsAtOnce];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int i = base + a * kThreads;
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) {
        x[a][h] = make_float4(kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity);
        if (i < vectors && h < heads) x[a][h] = reinterpret_cast<const float4*>(scores + int64_t{h} * p.n)[i];
      }
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) own[h].add(x[a][h]);
    }
  }
#pragma unroll
  for (int h = 0; h < kHeadsAtOnce; ++h) {
    const RunningSum all = merge_lanes({own[h].largest, own[h].sum});
    if (lane == 0) shared.largest[h][warp] = all.largest, shared.sums[h][warp] = all.sum;
  }
  __syncthreads();
  if (warp < heads) {
    RunningSum part;
    if (lane < kWarps) part = {shared.largest[warp][lane], shared.sums[warp][lane]};
    const float lse = log_sum_exp(merge_lanes(part));
    if (lane == 0) shared.lses[first + warp] = lse;
  }
  __syncthreads();
}

// Writes the ranking; largest: of this thread's entries 4 i + j in component j.
__device__ void rank_row(const GroupChoiceParams& p, const LongShared& shared, float (&largest)[kEach]) {
  const float* scores = p.scores + blockIdx.x * int64_t{p.group} * p.n;
  auto* ranking = reinterpret_cast<float4*>(p.ranking + blockIdx.x * int64_t{p.n});
  const int vectors = p.n / kEach;
  for (int base = threadIdx.x; base < vectors; base += kAhead * kThreads) {
    float4 best[kAhead];
#pragma unroll
    for (float4& x : best) x = make_float4(kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity);
#pragma unroll 4
    for (int h = 0; h < p.group; ++h) {
      const float lse = shared.lses[h];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int i = base + a * kThreads;
        if (i >= vectors) continue;
        const float4 x = reinterpret_cast<const float4*>(scores + int64_t{h} * p.n)[i];
        raise_by(best[a].x, x.x, lse), raise_by(best[a].y, x.y, lse);
        raise_by(best[a].z, x.z, lse), raise_by(best[a].w, x.w, lse);
      }
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int i = base + a * kThreads;
      if (i < vectors) ranking[i] = best[a];
      largest[0] = fmaxf(largest[0], best[a].x), largest[1] = fmaxf(largest[1], best[a].y);
      largest[2] = fmaxf(largest[2], best[a].z), largest[3] = fmaxf(largest[3], best[a].w);
    }
  }
}

// A number that at least k entries reach, as close to the k-th largest of the subsets' largest entries as 22
// bits tell; 0 where fewer than k subsets have an entry.
__device__ uint32_t bound_of(LongShared& shared, const float (&largest)[kEach], int k) {
  uint32_t own[kEach];
  int open = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    own[j] = order_of(largest[j]);
    open += own[j] != 0 ? 1 : 0;
  }
  open = block_reduce<kThreads>(open, Sum(), shared.choose.equal);
  if (open < k) return 0;
  const auto orders = [&own](int i) {  // entry i is component i / kThreads of thread i % kThreads
    const int j = i / kThreads;
    return j == 0 ? own[0] : j == 1 ? own[1] : j == 2 ? own[2] : own[3];
  };
  uint32_t bound = 0;
  constexpr int kBits = 11, kShifts[2] = {21, 10};
#pragma unroll
  for (const int shift : kShifts) {
    count_bins(shared.choose, orders, kSubsets, bound, shift, kBits);
    find_bin(shared.choose, k);
    bound |= static_cast<uint32_t>(shared.choose.found_bin) << shift;
    k -= shared.choose.found_larger;
    __syncthreads();
  }
  return bound;
}

// Lists the entries that reach the bound; returns how many there are, which may be more than fit.
__device__ int list_entries(const GroupChoiceParams& p, LongShared& shared, uint32_t bound) {
  if (threadIdx.x == 0) shared.listed = 0;
  __syncthreads();
  const auto* ranking = reinterpret_cast<const float4*>(p.ranking + blockIdx.x * int64_t{p.n});
  for (int i = threadIdx.x; i < p.n / kEach; i += kThreads) {  // those that this thread wrote
    const float4 x = ranking[i];
    const float numbers[kEach] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const uint32_t order = order_of(numbers[j]);
      if (order == 0 || order < bound) continue;
      const int at = atomicAdd(&shared.listed, 1);
      if (at < kListed) shared.keys[at] = uint64_t{order} << 32 | ~static_cast<uint32_t>(kEach * i + j);
    }
  }
  __syncthreads();
  return shared.listed;
}

// How many of `count` numbers are larger than `own`, counted by `sharers` neighbouring lanes, which all get
// the result.
template <typename T>
__device__ int count_larger(const T* numbers, int count, T own, int sharers) {
  int larger = 0;
#pragma unroll 4
  for (int j = static_cast<int>(threadIdx.x) % sharers; j < count; j += sharers)
    larger += numbers[j] > own ? 1 : 0;
  for (int step = sharers / 2; step > 0; step /= 2) larger += __shfl_xor_sync(kAllLanes, larger, step);
  return larger;
}

// Writes the listed entries that fewer than `limit` others come before, by index.
__device__ void choose_listed(LongShared& shared, int count, const Choice& p) {
  int sharers = kWarp;
  while (sharers > 1 && sharers * count > kThreads) sharers /= 2;
  const int step = kThreads / sharers, rounds = (count + step - 1) / step;
  for (int round = 0; round < rounds; ++round) {
    const int i = round * step + static_cast<int>(threadIdx.x) / sharers;
    const uint64_t own = i < count ? shared.keys[i] : 0;
    const bool chosen = count_larger(shared.keys, count, own, sharers) < p.limit;
    if (i < count) shared.indices[i] = chosen ? static_cast<uint32_t>(own) : 0u;
  }
  __syncthreads();
  for (int round = 0; round < rounds; ++round) {
    const int i = round * step + static_cast<int>(threadIdx.x) / sharers;
    const uint32_t own = i < count ? shared.indices[i] : 0u;
    const int at = count_larger(shared.indices, count, own, sharers);
    if (own != 0) p.chosen[at] = static_cast<int32_t>(~own);
  }
  for (int k = min(count, p.limit) + threadIdx.x; k < p.room; k += kThreads) p.chosen[k] = -1;
}

__global__ void __launch_bounds__(kThreads, 2) choose_long_kernel(GroupChoiceParams p) {
  __shared__ LongShared shared;
  for (int first = 0; first < p.group; first += kHeadsAtOnce) sum_heads(p, shared, first);
  float largest[kEach] = {kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity};
  rank_row(p, shared, largest);
  const Choice choice = p.choice();
  const uint32_t bound = choice.limit > 0 ? bound_of(shared, largest, choice.limit) : ~0u;
  const int listed = list_entries(p, shared, bound);
  if (listed <= kListed) return choose_listed(shared, listed, choice);
  const float* ranking = p.ranking + blockIdx.x * int64_t{p.n};
  int open = 0;
  for (int i = threadIdx.x; i < p.n; i += kThreads) open += order_of(ranking[i]) != 0 ? 1 : 0;
  choose(
      shared.choose, [=](int i) { return order_of(ranking[i]); }, open, choice);
}

// ---- short rows -------------------------------------------------------------------------------------------

constexpr int kFew = 512;  // entries, a thread each

__global__ void __launch_bounds__(kFew) choose_short_kernel(GroupChoiceParams p) {
  __shared__ uint32_t orders[kFew];
  __shared__ float lses[kMostGroup];
  const int i = threadIdx.x, lane = i % kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
  const float* scores = p.scores + blockIdx.x * int64_t{p.group} * p.n;
  for (int h = i / kWarp; h < p.group; h += warps) {
    RunningSum own;
    for (int j = lane; j < p.n; j += kWarp) own.add(scores[int64_t{h} * p.n + j]);
    const float lse = log_sum_exp(merge_lanes(own));
    if (lane == 0) lses[h] = lse;
  }
  __syncthreads();
  float best = kMinusInfinity;
  for (int h = 0; h < p.group && i < p.n; ++h) {
    if (lses[h] != kMinusInfinity) raise(best, scores[int64_t{h} * p.n + i], lses[h]);
  }
  if (i < p.n) p.ranking[blockIdx.x * int64_t{p.n} + i] = best;
  orders[i] = order_of(best);
  __syncthreads();
  const Choice choice = p.choice();
  int before = 0;
  const uint32_t own = orders[i];
  for (int j = 0; j < p.n; ++j) before += orders[j] > own || (orders[j] == own && j < i) ? 1 : 0;
  const bool taken = own != 0 && before < choice.limit;
  __shared__ int counts[kFew / kWarp];
  const unsigned lanes = __ballot_sync(kAllLanes, taken);
  if (lane == 0) counts[i / kWarp] = __popc(lanes);
  __syncthreads();
  int at = __popc(lanes & ((1u << lane) - 1)), all = 0;
  for (int w = 0; w < warps; ++w) {
    at += w < i / kWarp ? counts[w] : 0;
    all += counts[w];
  }
  if (taken) choice.chosen[at] = i;
  for (int k = all + i; k < choice.room; k += static_cast<int>(blockDim.x)) choice.chosen[k] = -1;
}

}  // namespace

void choose_groups(Queue& queue, const ChooseGroupsParams& p) {
  constexpr const char* kOp = "choose_groups";
  const int64_t kv_heads = p.ranking.shape[1], group = p.scores.shape[1] / kv_heads, n = p.scores.shape[2];
  const int64_t rows = p.scores.shape[0] * kv_heads, room = p.chosen.shape[2];
  constexpr int64_t kLeastRows = 64, kMostRoom = kListed / 2, kMostEntries = int64_t{1} << 30;
  const bool is_short = n > 0 && n <= kFew;
  const bool is_long = n % kEach == 0 && rows >= kLeastRows && room <= kMostRoom && n <= kMostEntries;
  if (group > kMostGroup || !(is_short || is_long)) {
    cuda::rank_groups(queue, {.scores = p.scores, .ranking = p.ranking});
    cuda::top_k(queue, {.ranking = p.ranking, .limits = p.limits, .chosen = p.chosen});
    return;
  }
  const GroupChoiceParams params{device_ptr<float>(p.scores),
                                 p.limits,
                                 device_ptr<float>(p.ranking),
                                 device_ptr<int32_t>(p.chosen),
                                 kv_heads,
                                 static_cast<int>(group),
                                 static_cast<int>(n),
                                 static_cast<int>(room)};
  if (is_short) {
    const int threads = static_cast<int>(round_up<int64_t>(n, kWarp));
    choose_short_kernel<<<grid_x(rows, kOp), threads, 0, stream_of(queue)>>>(params);
  } else {
    choose_long_kernel<<<grid_x(rows, kOp), kThreads, 0, stream_of(queue)>>>(params);
  }
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
