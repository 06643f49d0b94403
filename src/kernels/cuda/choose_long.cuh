// Choosing from a long row, by one block. The spans come first: they give the log-sum-exp of each query head,
// and by their largest entries the spans that can hold any of the k best. The k-th largest of the spans'
// largest entries is reached by at least k entries, so whatever lies below it is out; of the spans that reach
// it, few more than k, the entries are read, and of those that reach it the k best are taken. Both times a
// histogram of the shares finds the k-th to within a bin; among the few entries of its bin their ranks
// decide. Bound: bytes of the spans and of k spans' scores, an eighth of the scores and a few; with few rows
// the latency of two loads, one after the other, and of nine barriers.
#pragma once

#include "kernels/cuda/choose_row.cuh"

namespace shadowkv::cuda {

inline constexpr int kLongThreads = 256;
inline constexpr int kLongBlocks = 3;  // of a multiprocessor
inline constexpr int kLongWarps = kLongThreads / kWarp;
inline constexpr int kHeadsAtOnce = 4;
inline constexpr int kOwn = 4;    // spans of a thread at once: with kHeadsAtOnce heads, 16 loads in flight
inline constexpr int kQuads = 3;  // four entries of a span, of a thread at once
inline constexpr int kListedSpans = 1024;
inline constexpr int kListed = 3072;            // entries
inline constexpr int kSettled = kLongThreads;   // entries of one bin
inline constexpr int64_t kMapBytes = 96 << 10;  // of a map of a row's entries, a bit each

struct LongShared {
  ChooseShared<kLongThreads> choose;
  float lses[kMostGroup];
  float2 parts[2][kHeadsAtOnce][kLongWarps];  // largest number and sum of a warp's spans, in turns
  ShareBins span_bins;
  ShareBins entry_bins;
  FoundBin span_bin;
  FoundBin entry_bin;
  ListedEntry entries[kListed];
  ListedEntry close[kSettled];
  int spans[kListedSpans];
  int limit;
  int listed_spans;
  int listed;
  int listed_close;
};

// ---- log-sum-exps -----------------------------------------------------------------------------------------

// Spans of kHeadsAtOnce heads that a thread has read: [j][h], closed where there are none.
struct OwnSpans {
  float2 x[kOwn][kHeadsAtOnce];

  // Spans base + threadIdx.x + j * kLongThreads of heads first + h; beyond the group those of its last head.
  __device__ void load(const GroupChoiceParams& p, int first, int base) {
    const float2* from[kHeadsAtOnce];
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h)
      from[h] = p.row_spans() + int64_t{min(first + h, p.group - 1)} * p.span_count;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int i = base + static_cast<int>(threadIdx.x) + j * kLongThreads;
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) {
        x[j][h] = make_float2(kMinusInfinity, 0.0f);
        if (i < p.span_count) x[j][h] = from[h][i];
      }
    }
  }
};

// Largest number and sum of exp(number - largest) of head h of the spans that a thread has seen.
struct HeadSum {
  float largest = kMinusInfinity;
  float sum = 0.0f;

  __device__ void add(const OwnSpans& spans, int h) {
    float most = largest;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) most = fmaxf(most, spans.x[j][h].x);
    sum *= rescale(largest, most);
#pragma unroll
    for (int j = 0; j < kOwn; ++j) sum += spans.x[j][h].y * rescale(spans.x[j][h].x, most);
    largest = most;
  }
};

// Of four numbers of each lane, over all lanes: lanes 8 i .. 8 i + 7 get that of number i.
template <typename Op>
__device__ inline float reduce_four(const float (&x)[kHeadsAtOnce], Op op) {
  static_assert(kHeadsAtOnce == 4);
  const bool high = (threadIdx.x & 16) != 0, odd = (threadIdx.x & 8) != 0;
  const float even = op(high ? x[2] : x[0], __shfl_xor_sync(kAllLanes, high ? x[0] : x[2], 16));
  const float next = op(high ? x[3] : x[1], __shfl_xor_sync(kAllLanes, high ? x[1] : x[3], 16));
  const float one = op(odd ? next : even, __shfl_xor_sync(kAllLanes, odd ? even : next, 8));
  return warp_reduce<8>(one, op);
}

// Of the heads that the block has summed up, head lane / 8.
__device__ inline HeadLse merge_heads(LongShared& shared, const HeadSum (&own)[kHeadsAtOnce], int turn) {
  const int lane = threadIdx.x % kWarp;
  float x[kHeadsAtOnce];
#pragma unroll
  for (int h = 0; h < kHeadsAtOnce; ++h) x[h] = own[h].largest;
  const float largest = reduce_four(x, Max());
#pragma unroll
  for (int h = 0; h < kHeadsAtOnce; ++h)
    x[h] = own[h].sum * rescale(own[h].largest, __shfl_sync(kAllLanes, largest, 8 * h));
  const float sum = reduce_four(x, Sum());
  if (lane % 8 == 0) shared.parts[turn][lane / 8][threadIdx.x / kWarp] = make_float2(largest, sum);
  __syncthreads();
  float most = kMinusInfinity, all = 0.0f;
#pragma unroll
  for (int w = lane % 8; w < kLongWarps; w += 8) most = fmaxf(most, shared.parts[turn][lane / 8][w].x);
  most = warp_reduce<8>(most, Max());
#pragma unroll
  for (int w = lane % 8; w < kLongWarps; w += 8) {
    const float2 part = shared.parts[turn][lane / 8][w];
    all += part.y * rescale(part.x, most);
  }
  return {most, log_sum_exp({most, warp_reduce<8>(all, Sum())})};
}

// A row's largest share, and the log-sum-exp of head lane / 8 of the last ones, whose spans `spans` holds.
struct RowSum {
  float largest = kMinusInfinity;
  float lse;
};

// Sums up all heads: writes their log-sum-exps, also to shared (to be read after a barrier). spans: the first
// ones, loaded; then the last ones.
__device__ inline RowSum sum_heads(const GroupChoiceParams& p, LongShared& shared, OwnSpans& spans) {
  RowSum row;
  for (int first = 0; first < p.group; first += kHeadsAtOnce) {
    HeadSum own[kHeadsAtOnce];
    for (int base = 0; base < p.span_count; base += kOwn * kLongThreads) {
      if (first + base > 0) spans.load(p, first, base);
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) own[h].add(spans, h);
    }
    const HeadLse head = merge_heads(shared, own, first / kHeadsAtOnce % 2);
    row.lse = head.lse;
    raise_by(row.largest, head.largest, head.lse);
    if (threadIdx.x < kWarp && threadIdx.x % 8 == 0) {
      const int h = first + static_cast<int>(threadIdx.x) / 8;
      shared.lses[h] = head.lse;
      if (h < p.group) p.lses[blockIdx.x * int64_t{p.group} + h] = head.lse;
    }
  }
  row.largest = fmaxf(row.largest, __shfl_xor_sync(kAllLanes, row.largest, 8));
  row.largest = fmaxf(row.largest, __shfl_xor_sync(kAllLanes, row.largest, 16));
  return row;
}

// ---- spans ------------------------------------------------------------------------------------------------

// Shares of the best entries of the spans base + threadIdx.x + j * kLongThreads: exactly those of the
// entries, as subtraction keeps order.
struct SpanShares {
  float best[kOwn];

  __device__ void rank(const GroupChoiceParams& p, const LongShared& shared, int base) {
#pragma unroll
    for (float& x : best) x = kMinusInfinity;
#pragma unroll 4
    for (int h = 0; h < p.group; ++h) {
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        const int i = base + static_cast<int>(threadIdx.x) + j * kLongThreads;
        if (i < p.span_count)
          raise_by(best[j], p.row_spans()[int64_t{h} * p.span_count + i].x, shared.lses[h]);
      }
    }
  }
  // Of spans that are held, by the log-sum-exp of head lane / 8.
  __device__ void rank(const OwnSpans& spans, float lse) {
#pragma unroll
    for (float& x : best) x = kMinusInfinity;
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      const float of_head = __shfl_sync(kAllLanes, lse, 8 * h);
#pragma unroll
      for (int j = 0; j < kOwn; ++j) raise_by(best[j], spans.x[j][h].x, of_head);
    }
  }
};

// A thread then holds all of its spans from first to last.
__device__ inline bool holds_spans(const GroupChoiceParams& p) {
  return p.group <= kHeadsAtOnce && p.span_count <= kOwn * kLongThreads;
}

// Counts all spans with any open entry.
__device__ inline void count_spans(const GroupChoiceParams& p, LongShared& shared, float largest,
                                   SpanShares& shares) {
  for (int base = 0; base < p.span_count; base += kOwn * kLongThreads) {
    if (!holds_spans(p)) shares.rank(p, shared, base);
#pragma unroll
    for (const float share : shares.best) {
      if (share > kMinusInfinity) shared.span_bins.count(bin_of(apart(largest, share)));
    }
  }
}

// Places for `own` items of each lane at the end of a list, one after the other; the lane's first. All lanes
// of the warp take part.
__device__ inline int append(int& listed, int own) {
  const int until = scan_lanes(own), lane = threadIdx.x % kWarp;
  int at = 0;
  if (lane == kWarp - 1 && until > 0) at = atomicAdd(&listed, until);
  return __shfl_sync(kAllLanes, at, kWarp - 1) + until - own;
}

// Lists the spans that are less than `end` apart from the largest share, up to those that fit.
__device__ inline void list_spans(const GroupChoiceParams& p, LongShared& shared, float largest, float end,
                                  SpanShares& shares) {
  for (int base = 0; base < p.span_count; base += kOwn * kLongThreads) {
    if (!holds_spans(p)) shares.rank(p, shared, base);
    int own = 0;
#pragma unroll
    for (const float share : shares.best) own += apart(largest, share) < end ? 1 : 0;
    int at = append(shared.listed_spans, own);
    if (at + own > kListedSpans) continue;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      if (apart(largest, shares.best[j]) < end)
        shared.spans[at++] = base + static_cast<int>(threadIdx.x) + j * kLongThreads;
    }
  }
}

// ---- entries ----------------------------------------------------------------------------------------------

// Shares of fours of entries from first[q] on; p.n where a thread has no more.
struct QuadShares {
  int first[kQuads];
  float best[kQuads][4];

  // Fours base + threadIdx.x + q * kLongThreads of the listed spans; kVectors: rows start at multiples of 16
  // bytes.
  template <bool kVectors>
  __device__ void rank(const GroupChoiceParams& p, const LongShared& shared, int spans, int base) {
    constexpr int kLanes = kSpan / 4;  // of a span
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      const int i = base + static_cast<int>(threadIdx.x) + q * kLongThreads;
      first[q] = i < kLanes * spans ? min(shared.spans[i / kLanes] * kSpan + i % kLanes * 4, p.n) : p.n;
#pragma unroll
      for (float& x : best[q]) x = kMinusInfinity;
    }
    for (int h = 0; h < p.group; h += kHeadsAtOnce) raise_by_heads<kVectors>(p, shared, h);
  }

 private:
  // By heads head + h, beyond the group by its last one again.
  template <bool kVectors>
  __device__ void raise_by_heads(const GroupChoiceParams& p, const LongShared& shared, int head) {
    float4 x[kQuads][kHeadsAtOnce];
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      const float* from = p.row() + int64_t{min(head + h, p.group - 1)} * p.n;
#pragma unroll
      for (int q = 0; q < kQuads; ++q) x[q][h] = load_four<kVectors>(from, first[q], p.n);
    }
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      const float lse = shared.lses[head + h];
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        raise_by(best[q][0], x[q][h].x, lse), raise_by(best[q][1], x[q][h].y, lse);
        raise_by(best[q][2], x[q][h].z, lse), raise_by(best[q][3], x[q][h].w, lse);
      }
    }
  }
};

// Lists the entries of the listed spans that are less than `end` apart from the largest share, up to those
// that fit.
template <bool kVectors>
__device__ inline void list_entries(const GroupChoiceParams& p, LongShared& shared, int spans, float largest,
                                    float end) {
  for (int base = 0; base < kSpan / 4 * spans; base += kQuads * kLongThreads) {
    QuadShares shares = {};
    shares.rank<kVectors>(p, shared, spans, base);
    const auto takes = [&](int i) {
      return shares.first[i / 4] < p.n && apart(largest, shares.best[i / 4][i % 4]) < end;
    };
    int own = 0;
#pragma unroll
    for (int i = 0; i < 4 * kQuads; ++i) own += takes(i) ? 1 : 0;
    int at = append(shared.listed, own);
    if (at + own > kListed) continue;
#pragma unroll
    for (int i = 0; i < 4 * kQuads; ++i) {
      if (takes(i)) shared.entries[at++] = {shares.best[i / 4][i % 4], shares.first[i / 4] + i % 4};
    }
  }
}

__device__ inline void count_entries(LongShared& shared, int listed, float largest) {
  for (int i = threadIdx.x; i < listed; i += kLongThreads)
    shared.entry_bins.count(bin_of(apart(largest, shared.entries[i].share)));
}

// A key that exactly k of the listed ones reach (k from 1 to how many there are): bit by bit until k are
// left.
__device__ inline uint64_t least_key_of(const LongShared& shared, int listed, int k) {
  constexpr int kOwnKeys = kListed / kLongThreads;
  uint64_t own[kOwnKeys];
#pragma unroll
  for (int j = 0; j < kOwnKeys; ++j) {
    const int i = static_cast<int>(threadIdx.x) + j * kLongThreads;
    own[j] = i < listed ? shared.entries[i].key() : 0;
  }
  uint64_t least = 0;
#pragma unroll 1
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t raised = least | uint64_t{1} << bit;
    int count = 0;
#pragma unroll
    for (int j = 0; j < kOwnKeys; ++j) {
      if (j * kLongThreads < listed) count += __syncthreads_count(own[j] >= raised ? 1 : 0);
    }
    if (count >= k) least = raised;
    if (count == k) break;
  }
  return least;
}

__device__ inline void mark(uint32_t* map, int entry) {
  atomicOr(&map[entry / 32], 1u << entry % 32);
}

// Marks the k best (from 1) of the listed entries: those of larger shares than the k-th one's bin, then the
// best of that bin.
__device__ inline void mark_best(LongShared& shared, uint32_t* map, int listed, float largest, int k) {
  const FoundBin found = shared.entry_bin;
  const int left = k - found.larger;  // of the bin
  if (left < found.count && found.count > kSettled) {
    const uint64_t least = least_key_of(shared, listed, k);
    for (int i = threadIdx.x; i < listed; i += kLongThreads) {
      if (shared.entries[i].key() >= least) mark(map, shared.entries[i].index);
    }
    return;
  }
  const float end = end_of_bin(found.bin), sure = left < found.count ? end_of_bin(found.bin - 1) : end;
  for (int i = threadIdx.x; i < listed; i += kLongThreads) {
    const ListedEntry entry = shared.entries[i];
    const float below = apart(largest, entry.share);
    if (below < sure)
      mark(map, entry.index);
    else if (below < end)
      shared.close[atomicAdd(&shared.listed_close, 1)] = entry;
  }
  if (left == found.count) return;
  __syncthreads();
  if (threadIdx.x >= found.count) return;
  const ListedEntry own = shared.close[threadIdx.x];
  if (count_before(shared.close, found.count, own) < left) mark(map, own.index);
}

// Writes the marked entries by index.
__device__ inline void write_marked(LongShared& shared, const uint32_t* map, const Choice& p) {
  const int words = ceil_div(p.n, 32), each = ceil_div(words, kLongThreads), lane = threadIdx.x % kWarp,
            warp = threadIdx.x / kWarp, first = static_cast<int>(threadIdx.x) * each;
  int own = 0;
  for (int i = first; i < min(words, first + each); ++i) own += __popc(map[i]);
  const int until = scan_lanes(own);
  if (lane == kWarp - 1) shared.choose.above[warp] = until;
  __syncthreads();
  int at = until - own, all = 0;
#pragma unroll
  for (int w = 0; w < kLongWarps; ++w) {
    at += w < warp ? shared.choose.above[w] : 0;
    all += shared.choose.above[w];
  }
  for (int i = first; own > 0 && i < min(words, first + each); ++i) {
    for (uint32_t bits = map[i]; bits != 0; bits &= bits - 1) p.chosen[at++] = i * 32 + __ffs(bits) - 1;
  }
  for (int k = all + static_cast<int>(threadIdx.x); k < p.room; k += kLongThreads) p.chosen[k] = -1;
}

// ---- rows -------------------------------------------------------------------------------------------------

__device__ inline bool has_map(const GroupChoiceParams& p) {
  return p.n <= 8 * kMapBytes;
}
inline int64_t map_bytes(int64_t n) {
  return n <= 8 * kMapBytes ? ceil_div<int64_t>(n, 128) * 16 : 0;
}

// Clears what is counted and marked; whole 16 bytes of the map, beyond its entries too.
__device__ inline void clear(const GroupChoiceParams& p, LongShared& shared, uint32_t* map) {
  shared.span_bins.clear(kLongThreads);
  shared.entry_bins.clear(kLongThreads);
  if (threadIdx.x == 0) shared.listed_spans = shared.listed = shared.listed_close = 0;
  if (!has_map(p)) return;
#pragma unroll 1
  for (int i = threadIdx.x; i < ceil_div(p.n, 128); i += kLongThreads)
    reinterpret_cast<int4*>(map)[i] = make_int4(0, 0, 0, 0);
}

// Lists every entry that may be among the `limit` best (from 1) of the spans counted; returns how many there
// are, which may be more than fit.
__device__ inline int list_candidates(const GroupChoiceParams& p, LongShared& shared, float largest,
                                      SpanShares& shares, int limit) {
  if (threadIdx.x < kWarp) find_bin(shared.span_bins, limit, shared.span_bin);
  __syncthreads();
  const float end = end_of_bin(shared.span_bin.bin);
  list_spans(p, shared, largest, end, shares);
  __syncthreads();
  const int spans = shared.listed_spans;
  if (spans > kListedSpans) return kListed + 1;
  if (p.n % 4 == 0)
    list_entries<true>(p, shared, spans, largest, end);
  else
    list_entries<false>(p, shared, spans, largest, end);
  __syncthreads();
  return shared.listed;
}

__device__ inline float share_of_entry(const GroupChoiceParams& p, const LongShared& shared, int i) {
  float best = kMinusInfinity;
#pragma unroll 4
  for (int h = 0; h < p.group; ++h) raise_by(best, p.row()[int64_t{h} * p.n + i], shared.lses[h]);
  return best;
}

// Many are wanted, or many are alike: from all entries, ranked anew whenever they are looked at.
__device__ inline void choose_from_all(const GroupChoiceParams& p, LongShared& shared, const Choice& choice) {
  const auto orders = [&](int i) { return order_of(share_of_entry(p, shared, i)); };
  int open = 0;
  for (int i = threadIdx.x; i < p.n; i += kLongThreads) open += orders(i) != 0 ? 1 : 0;
  choose(shared.choose, orders, open, choice);
}

// Chooses row blockIdx.x by all kLongThreads threads of the block. map: map_bytes() of space, 16-byte
// aligned. meanwhile(): called while the first loads are under way.
template <typename Meanwhile>
__device__ void choose_long(const GroupChoiceParams& p, LongShared& shared, uint32_t* map, int32_t* chosen,
                            const Meanwhile& meanwhile) {
  OwnSpans spans;
  spans.load(p, 0, 0);
  meanwhile();
  const int own_limit = threadIdx.x == 0 ? p.limit() : 0;  // in flight with the spans
  clear(p, shared, map);
  const RowSum row = sum_heads(p, shared, spans);
  SpanShares shares;
  if (holds_spans(p))
    shares.rank(spans, row.lse);
  else
    __syncthreads();
  count_spans(p, shared, row.largest, shares);
  if (threadIdx.x == 0) shared.limit = own_limit;
  __syncthreads();
  const Choice choice = p.choice(shared.limit, chosen);
  const int listed = choice.limit > 0 ? list_candidates(p, shared, row.largest, shares, choice.limit) : 0;
  if (listed > kListed || !has_map(p)) return choose_from_all(p, shared, choice);
  const int wanted = min(listed, choice.limit);
  if (wanted > 0) {
    count_entries(shared, listed, row.largest);
    __syncthreads();
    if (threadIdx.x < kWarp) find_bin(shared.entry_bins, wanted, shared.entry_bin);
    __syncthreads();
    mark_best(shared, map, listed, row.largest, wanted);
  }
  __syncthreads();
  write_marked(shared, map, choice);
}

}  // namespace shadowkv::cuda
