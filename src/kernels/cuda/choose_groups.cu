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

// Writes those of `count` listed entries that fewer than `limit` others come before, by index. orders and
// entries: [count], the orders of those left out become 0.
template <int kThreads>
__device__ void choose_listed(uint32_t* orders, const int* entries, int count, const Choice& p) {
  constexpr int kMostEach = 2;
  uint32_t kept[kMostEach] = {};
  int nth = 0;
  for (int i = threadIdx.x; i < count; i += kThreads, ++nth) {
    const uint32_t own = orders[i];
    int before = 0;
    for (int j = 0; j < count; ++j) {
      before += orders[j] > own || (orders[j] == own && entries[j] < entries[i]) ? 1 : 0;
    }
    const uint32_t order = before < p.limit ? own : 0u;
    if (nth == 0) kept[0] = order;
    if (nth == 1) kept[1] = order;
  }
  __syncthreads();
  nth = 0;
  for (int i = threadIdx.x; i < count; i += kThreads, ++nth) orders[i] = nth == 0 ? kept[0] : kept[1];
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (orders[i] == 0) continue;
    int at = 0;
    for (int j = 0; j < count; ++j) at += orders[j] != 0 && entries[j] < entries[i] ? 1 : 0;
    p.chosen[at] = entries[i];
  }
  for (int k = min(count, p.limit) + threadIdx.x; k < p.room; k += kThreads) p.chosen[k] = -1;
}

// ---- long rows --------------------------------------------------------------------------------------------

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kEach = 4;  // numbers of a vector: one subset each
constexpr int kSubsets = kEach * kThreads;
constexpr int kListed = 2 * kThreads;  // entries that are ranked by counting
constexpr int kMostGroup = 32;
constexpr int kHeadsAtOnce = 4;

struct LongShared {
  ChooseShared<kThreads> choose;
  float lses[kMostGroup];
  float largest[kHeadsAtOnce][kWarps];
  float sums[kHeadsAtOnce][kWarps];
  uint32_t orders[kListed];
  int entries[kListed];
  int listed;
};

__device__ float exp_of(float x) {
  return fast_exp2(x * kLog2e);
}

// Largest number and sum of exp(number - largest); as RunningSum, with the approximate exponential.
struct HeadSum {
  float largest = kMinusInfinity;
  float sum = 0.0f;

  __device__ void add(const float4& x) {
    const float most = fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w));
    if (most > largest) {
      sum *= exp_of(largest - most);
      largest = most;
    }
    if (largest == kMinusInfinity) return;
    sum += exp_of(x.x - largest) + exp_of(x.y - largest) + exp_of(x.z - largest) + exp_of(x.w - largest);
  }
};

// Log-sum-exps of heads [first, first + kHeadsAtOnce) of the group to shared.lses.
__device__ void sum_heads(const GroupChoiceParams& p, LongShared& shared, int first) {
  const float* scores = p.scores + (blockIdx.x * int64_t{p.group} + first) * p.n;
  const int heads = min(kHeadsAtOnce, p.group - first), lane = threadIdx.x % kWarp,
            warp = threadIdx.x / kWarp;
  HeadSum own[kHeadsAtOnce];
  for (int i = threadIdx.x; i < p.n / kEach; i += kThreads) {
    float4 x[kHeadsAtOnce];
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      if (h < heads) x[h] = reinterpret_cast<const float4*>(scores + int64_t{h} * p.n)[i];
    }
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      if (h < heads) own[h].add(x[h]);
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
  for (int i = threadIdx.x; i < p.n / kEach; i += kThreads) {
    float4 best = make_float4(kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity);
#pragma unroll 4
    for (int h = 0; h < p.group; ++h) {
      const float4 x = reinterpret_cast<const float4*>(scores + int64_t{h} * p.n)[i];
      const float lse = shared.lses[h];
      if (lse == kMinusInfinity) continue;
      raise(best.x, x.x, lse), raise(best.y, x.y, lse), raise(best.z, x.z, lse), raise(best.w, x.w, lse);
    }
    ranking[i] = best;
    largest[0] = fmaxf(largest[0], best.x), largest[1] = fmaxf(largest[1], best.y);
    largest[2] = fmaxf(largest[2], best.z), largest[3] = fmaxf(largest[3], best.w);
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
      if (at < kListed) shared.orders[at] = order, shared.entries[at] = kEach * i + j;
    }
  }
  __syncthreads();
  return shared.listed;
}

__global__ void __launch_bounds__(kThreads, 2) choose_long_kernel(GroupChoiceParams p) {
  __shared__ LongShared shared;
  for (int first = 0; first < p.group; first += kHeadsAtOnce) sum_heads(p, shared, first);
  float largest[kEach] = {kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity};
  rank_row(p, shared, largest);
  const Choice choice = p.choice();
  const uint32_t bound = choice.limit > 0 ? bound_of(shared, largest, choice.limit) : ~0u;
  const int listed = list_entries(p, shared, bound);
  if (listed <= kListed) return choose_listed<kThreads>(shared.orders, shared.entries, listed, choice);
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
