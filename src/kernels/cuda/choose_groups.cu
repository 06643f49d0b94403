// Ranking and top-k of a row, one block a sequence and KV head. Of a long row the spans come first: they give
// the log-sum-exp of each query head, and by their largest entries the spans that can hold any of the k best.
// The k-th largest of the spans' largest entries is reached by at least k entries, so whatever lies below it
// is out; of the spans that reach it, few more than k, the entries are read, and the k-th of those that reach
// it is found bit by bit. Bound: bytes of the spans and of k spans' scores, an eighth of the scores and a
// few; with few rows the latency of some six loads and of about 60 barriers.
#include "kernels/cuda/selection.cuh"

namespace shadowkv::cuda {
namespace {

struct GroupChoiceParams {
  const float* scores;    // [B, H, n]
  const float2* spans;    // [B, H, span_count] of long rows
  const int32_t* limits;  // [B]
  float* lses;            // [B, H]
  int32_t* chosen;        // [B, G, room]
  int64_t kv_heads;
  int group;  // query heads of a KV head
  int n;
  int span_count;
  int room;

  __device__ Choice choice() const {
    return {n, min(limits[blockIdx.x / kv_heads], room), room, chosen + blockIdx.x * int64_t{room}};
  }
  __device__ const float* row() const { return scores + blockIdx.x * int64_t{group} * n; }
  __device__ const float2* row_spans() const { return spans + blockIdx.x * int64_t{group} * span_count; }
};

constexpr int kMostGroup = 256;

// ---- long rows --------------------------------------------------------------------------------------------

constexpr int kThreads = 512;
constexpr int kBlocks = 3;  // of a multiprocessor
constexpr int kWarps = kThreads / kWarp;
constexpr int kSubsets = 4;  // of a thread's spans
constexpr int kListedSpans = 1024;
constexpr int kListed = 3072;            // entries, all of those spans where they are alike
constexpr int64_t kMapBytes = 96 << 10;  // of a map of a row's entries, a bit each
constexpr int kHeadsAtOnce = 4;

struct LongShared {
  ChooseShared<kThreads> choose;
  float lses[kMostGroup];
  float largest[kHeadsAtOnce][kWarps];
  float sums[kHeadsAtOnce][kWarps];
  uint64_t keys[kListed];  // order of an entry's number, then ~index: the larger comes first
  int spans[kListedSpans];
  int listed_spans;
  int listed;
};

// Largest number and sum of exp(number - largest) of the spans that a thread has seen.
struct HeadSum {
  float largest = kMinusInfinity;
  float sum = 0.0f;

  __device__ void add(const float2& span) {
    const float most = fmaxf(span.x, largest), base = most == kMinusInfinity ? 0.0f : most;
    sum = sum * fast_exp2(kLog2e * (largest - base)) + span.y * fast_exp2(kLog2e * (span.x - base));
    largest = most;
  }
};

// Raises the best share by a score's; a head without any open entry has none (not a number, which fmaxf
// drops).
__device__ void raise_by(float& best, float score, float lse) {
  best = fmaxf(best, score - lse);
}

// Log-sum-exps of heads [first, first + kHeadsAtOnce) of the group.
__device__ void sum_heads(const GroupChoiceParams& p, LongShared& shared, int first) {
  const float2* spans = p.row_spans() + int64_t{first} * p.span_count;
  const int heads = min(kHeadsAtOnce, p.group - first), lane = threadIdx.x % kWarp,
            warp = threadIdx.x / kWarp;
  HeadSum own[kHeadsAtOnce];
#pragma unroll 2
  for (int i = threadIdx.x; i < p.span_count; i += kThreads) {
    float2 x[kHeadsAtOnce];
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h)
      x[h] = h < heads ? spans[int64_t{h} * p.span_count + i] : make_float2(kMinusInfinity, 0.0f);
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) own[h].add(x[h]);
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
    if (lane == 0) {
      shared.lses[first + warp] = lse;
      p.lses[blockIdx.x * int64_t{p.group} + first + warp] = lse;
    }
  }
  __syncthreads();
}

// Order of the best entry of span i: exactly that of the entry, as subtraction keeps order.
__device__ uint32_t order_of_span(const GroupChoiceParams& p, const LongShared& shared, int i) {
  float best = kMinusInfinity;
#pragma unroll 4
  for (int h = 0; h < p.group; ++h)
    raise_by(best, p.row_spans()[int64_t{h} * p.span_count + i].x, shared.lses[h]);
  return order_of(best);
}

__device__ uint32_t order_of_entry(const GroupChoiceParams& p, const LongShared& shared, int i) {
  float best = kMinusInfinity;
#pragma unroll 4
  for (int h = 0; h < p.group; ++h) raise_by(best, p.row()[int64_t{h} * p.n + i], shared.lses[h]);
  return order_of(best);
}

// Orders of entries [first, first + 4), 0 beyond the row.
__device__ void orders_of_four(const GroupChoiceParams& p, const LongShared& shared, int first,
                               uint32_t (&orders)[4]) {
  if (p.n % 4 != 0) {
#pragma unroll
    for (int j = 0; j < 4; ++j) orders[j] = first + j < p.n ? order_of_entry(p, shared, first + j) : 0u;
    return;
  }
  float4 best = make_float4(kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity);
#pragma unroll 4
  for (int h = 0; h < p.group && first < p.n; ++h) {
    const float4 x = *reinterpret_cast<const float4*>(p.row() + int64_t{h} * p.n + first);
    const float lse = shared.lses[h];
    raise_by(best.x, x.x, lse), raise_by(best.y, x.y, lse);
    raise_by(best.z, x.z, lse), raise_by(best.w, x.w, lse);
  }
  orders[0] = order_of(best.x), orders[1] = order_of(best.y);
  orders[2] = order_of(best.z), orders[3] = order_of(best.w);
}

// Largest entries of disjoint sets of spans: a thread has kSubsets, of one span each where the spans are few.
__device__ void rank_spans(const GroupChoiceParams& p, const LongShared& shared,
                           uint32_t (&largest)[kSubsets]) {
#pragma unroll
  for (int j = 0; j < kSubsets; ++j) {
    largest[j] = 0;
    for (int i = threadIdx.x + j * kThreads; i < p.span_count; i += kSubsets * kThreads)
      largest[j] = max(largest[j], order_of_span(p, shared, i));
  }
}

// A number that at least k entries reach: the k-th largest of the sets' largest entries, its last kBelow bits
// 0. 0 where fewer than k sets have an entry.
__device__ uint32_t bound_of(const GroupChoiceParams& p, const uint32_t (&largest)[kSubsets], int k) {
  constexpr int kBelow = 13;
  uint32_t bound = 0;
#pragma unroll 1
  for (int bit = 31; bit >= kBelow; --bit) {
    const uint32_t raised = bound | 1u << bit;
    int count = 0;
#pragma unroll
    for (int j = 0; j < kSubsets; ++j) {
      if (j * kThreads < p.span_count) count += __syncthreads_count(largest[j] >= raised ? 1 : 0);
    }
    if (count >= k) bound = raised;
  }
  return bound;
}

// Lists the spans that reach the bound; returns how many there are, which may be more than fit.
__device__ int list_spans(const GroupChoiceParams& p, LongShared& shared, const uint32_t (&largest)[kSubsets],
                          uint32_t bound) {
  if (threadIdx.x == 0) shared.listed_spans = shared.listed = 0;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kSubsets; ++j) {
    if (largest[j] == 0 || largest[j] < bound) continue;
    for (int i = threadIdx.x + j * kThreads; i < p.span_count; i += kSubsets * kThreads) {
      if (p.span_count > kSubsets * kThreads && order_of_span(p, shared, i) < max(bound, 1u)) continue;
      const int at = atomicAdd(&shared.listed_spans, 1);
      if (at < kListedSpans) shared.spans[at] = i;
    }
  }
  __syncthreads();
  return shared.listed_spans;
}

// Lists the entries of the listed spans that reach the bound; returns how many there are, which may be more
// than fit. Four lanes a span.
__device__ int list_entries(const GroupChoiceParams& p, LongShared& shared, int spans, uint32_t bound) {
  constexpr int kLanes = kSpan / 4;
  for (int i = threadIdx.x; i < kLanes * spans; i += kThreads) {
    const int first = shared.spans[i / kLanes] * kSpan + i % kLanes * 4;
    uint32_t orders[4];
    orders_of_four(p, shared, first, orders);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (orders[j] == 0 || orders[j] < bound) continue;
      const int at = atomicAdd(&shared.listed, 1);
      if (at < kListed) shared.keys[at] = uint64_t{orders[j]} << 32 | ~static_cast<uint32_t>(first + j);
    }
  }
  __syncthreads();
  return shared.listed;
}

// A key that exactly k of the listed ones reach (k from 1 to how many there are): bit by bit from the first
// that may differ, until k are left.
__device__ uint64_t least_key_of(const LongShared& shared, int listed, uint32_t bound, int k) {
  if (listed == k) return 0;
  constexpr int kOwn = kListed / kThreads;
  uint64_t own[kOwn];
#pragma unroll
  for (int j = 0; j < kOwn; ++j) {
    const int i = static_cast<int>(threadIdx.x) + j * kThreads;
    own[j] = i < listed ? shared.keys[i] : 0;
  }
  uint64_t least = 0;
#pragma unroll 1
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t raised = least | uint64_t{1} << bit;
    int count = listed;
    if (raised > uint64_t{bound} << 32) {  // all reach the bound
      count = 0;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        if (j * kThreads < listed) count += __syncthreads_count(own[j] >= raised ? 1 : 0);
      }
    }
    if (count >= k) least = raised;
    if (count == k) break;
  }
  return least;
}

// Writes the listed entries that reach `least` by index. map: a bit for each entry of the row.
__device__ void write_listed(LongShared& shared, uint32_t* map, int listed, uint64_t least, const Choice& p) {
  const int words = ceil_div(p.n, 32), each = ceil_div(words, kThreads), lane = threadIdx.x % kWarp,
            warp = threadIdx.x / kWarp, first = static_cast<int>(threadIdx.x) * each;
  for (int i = threadIdx.x; i < words; i += kThreads) map[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < listed; i += kThreads) {
    const uint32_t entry = ~static_cast<uint32_t>(shared.keys[i]);
    if (shared.keys[i] >= least) atomicOr(&map[entry / 32], 1u << entry % 32);
  }
  __syncthreads();
  int own = 0;
  for (int i = first; i < min(words, first + each); ++i) own += __popc(map[i]);
  int until = own;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, until, step);
    until += lane >= step ? other : 0;
  }
  if (lane == kWarp - 1) shared.choose.above[warp] = until;
  __syncthreads();
  int at = until - own, all = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    at += w < warp ? shared.choose.above[w] : 0;
    all += shared.choose.above[w];
  }
  for (int i = first; own > 0 && i < min(words, first + each); ++i) {
    for (uint32_t bits = map[i]; bits != 0; bits &= bits - 1) p.chosen[at++] = i * 32 + __ffs(bits) - 1;
  }
  for (int k = all + threadIdx.x; k < p.room; k += kThreads) p.chosen[k] = -1;
}

// Chooses row blockIdx.x by all threads of the block. map: space for a bit of each entry, up to kMapBytes.
__device__ void choose_long(const GroupChoiceParams& p, LongShared& shared, uint32_t* map) {
  for (int first = 0; first < p.group; first += kHeadsAtOnce) sum_heads(p, shared, first);
  const Choice choice = p.choice();
  uint32_t largest[kSubsets];
  rank_spans(p, shared, largest);
  const uint32_t bound = choice.limit > 0 ? bound_of(p, largest, choice.limit) : ~0u;
  const int spans = list_spans(p, shared, largest, bound);
  const int listed = spans <= kListedSpans ? list_entries(p, shared, spans, bound) : kListed + 1;
  if (listed <= kListed && p.n <= 8 * kMapBytes) {
    const int wanted = min(listed, choice.limit);
    const uint64_t least = wanted > 0 ? least_key_of(shared, listed, bound, wanted) : ~uint64_t{0};
    return write_listed(shared, map, listed, least, choice);
  }
  // Many are wanted, or many are alike: from all entries, ranked anew whenever they are looked at.
  const auto orders = [&](int i) { return order_of_entry(p, shared, i); };
  int open = 0;
  for (int i = threadIdx.x; i < p.n; i += kThreads) open += orders(i) != 0 ? 1 : 0;
  choose(shared.choose, orders, open, choice);
}

__global__ void __launch_bounds__(kThreads, kBlocks) choose_long_kernel(GroupChoiceParams p) {
  __shared__ LongShared shared;
  extern __shared__ uint32_t map[];
  choose_long(p, shared, map);
}

// ---- short rows -------------------------------------------------------------------------------------------

constexpr int kFew = 512;  // entries, a thread each

struct ShortShared {
  uint32_t orders[kFew];
  float lses[kMostGroup];
  int counts[kFew / kWarp];
};

// Chooses row blockIdx.x by all threads of the block: as many as entries at least.
__device__ void choose_short(const GroupChoiceParams& p, ShortShared& shared) {
  const int i = threadIdx.x, lane = i % kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
  const float* scores = p.row();
  for (int h = i / kWarp; h < p.group; h += warps) {
    RunningSum own;
    for (int j = lane; j < p.n; j += kWarp) own.add(scores[int64_t{h} * p.n + j]);
    const float lse = log_sum_exp(merge_lanes(own));
    if (lane == 0) shared.lses[h] = p.lses[blockIdx.x * int64_t{p.group} + h] = lse;
  }
  __syncthreads();
  float best = kMinusInfinity;
  for (int h = 0; h < p.group && i < p.n; ++h) {
    if (shared.lses[h] != kMinusInfinity) raise(best, scores[int64_t{h} * p.n + i], shared.lses[h]);
  }
  shared.orders[i] = order_of(best);
  __syncthreads();
  const Choice choice = p.choice();
  int before = 0;
  const uint32_t own = shared.orders[i];
  for (int j = 0; j < p.n; ++j)
    before += shared.orders[j] > own || (shared.orders[j] == own && j < i) ? 1 : 0;
  const bool taken = own != 0 && before < choice.limit;
  const unsigned lanes = __ballot_sync(kAllLanes, taken);
  if (lane == 0) shared.counts[i / kWarp] = __popc(lanes);
  __syncthreads();
  int at = __popc(lanes & ((1u << lane) - 1)), all = 0;
  for (int w = 0; w < warps; ++w) {
    at += w < i / kWarp ? shared.counts[w] : 0;
    all += shared.counts[w];
  }
  if (taken) choice.chosen[at] = i;
  for (int k = all + i; k < choice.room; k += static_cast<int>(blockDim.x)) choice.chosen[k] = -1;
}

__global__ void __launch_bounds__(kFew) choose_short_kernel(GroupChoiceParams p) {
  __shared__ ShortShared shared;
  choose_short(p, shared);
}

// Spans of the scores: those given, else summed up in scratch.
const float2* spans_for(Queue& queue, const ChooseGroupsParams& p, const char* op) {
  if (!p.spans.empty()) return device_ptr<float2>(p.spans);
  const int64_t count = p.scores.shape[0] * p.scores.shape[1] * spans_of(p.scores.shape[2]);
  auto* spans = reinterpret_cast<float2*>(scratch_of(queue, count * int64_t{sizeof(float2)}, op));
  sum_spans(queue, p.scores, spans, op);
  return spans;
}

}  // namespace

void choose_groups(Queue& queue, const ChooseGroupsParams& p) {
  constexpr const char* kOp = "choose_groups";
  constexpr int64_t kMostEntries = int64_t{1} << 30;
  const int64_t kv_heads = p.chosen.shape[1], group = p.scores.shape[1] / kv_heads, n = p.scores.shape[2];
  const int64_t rows = p.scores.shape[0] * kv_heads, room = p.chosen.shape[2];
  demand(group <= kMostGroup, kOp, "more than 256 query heads of a KV head have no kernel");
  demand(n <= kMostEntries && room <= kMostEntries, kOp, "rows of more than 2^30 entries have no kernel");
  const bool is_short = n <= kFew;
  const GroupChoiceParams params{device_ptr<float>(p.scores),
                                 is_short ? nullptr : spans_for(queue, p, kOp),
                                 p.limits,
                                 device_ptr<float>(p.lse),
                                 device_ptr<int32_t>(p.chosen),
                                 kv_heads,
                                 static_cast<int>(group),
                                 static_cast<int>(n),
                                 static_cast<int>(spans_of(n)),
                                 static_cast<int>(room)};
  if (is_short) {
    const int threads = static_cast<int>(round_up<int64_t>(n > 0 ? n : 1, kWarp));
    choose_short_kernel<<<grid_x(rows, kOp), threads, 0, stream_of(queue)>>>(params);
  } else {
    const int64_t map = n <= 8 * kMapBytes ? ceil_div<int64_t>(n, 32) * 4 : 0;
    check_cuda(
        cudaFuncSetAttribute(choose_long_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMapBytes),
        kOp);
    choose_long_kernel<<<grid_x(rows, kOp), kThreads, map, stream_of(queue)>>>(params);
  }
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
