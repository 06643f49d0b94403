// Ranking, exact top-k and exact scores of candidates. rank_groups reads the scores twice (the second time
// from the L2 cache), long rows in parts of a fixed size, a block each. top_k gives every row of a KV head
// one block: a radix selection over the row in shared memory. candidate_scores reads each candidate's keys
// once for all query heads; bound: their bytes.
#include "kernels/cuda/query_tile.cuh"
#include "kernels/cuda/selection.cuh"

namespace shadowkv::cuda {
namespace {

// ---- ranking ----------------------------------------------------------------------------------------------

struct RankParams {
  const float* scores;  // [B, H, n]
  float* ranking;       // [B, G, n]
  int group;
  int64_t n;
  float2* parts;  // [B, H, splits] largest number and sum of each part of a row
  int64_t splits;

  // Rows then start at multiples of 16 bytes.
  __device__ bool vectors() const { return n % 4 == 0; }
};

constexpr int kRankThreads = 128;
constexpr int kPartVectors = 4;                                    // of a thread
constexpr int64_t kPartEntries = 4 * kPartVectors * kRankThreads;  // of a part, whatever the batch

// Ranking of entries [first, end) of KV head row `row`. lses: of the query heads; those of -infinity have no
// say.
__device__ void rank_entries(const RankParams& p, const float* lses, int64_t row, int64_t first,
                             int64_t end) {
  const float* scores = p.scores + row * p.group * p.n;
  float* ranking = p.ranking + row * p.n;
  if (p.vectors()) {
    for (int64_t i = first / 4 + threadIdx.x; i < end / 4; i += kRankThreads) {
      float4 best = make_float4(kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity);
#pragma unroll 4
      for (int h = 0; h < p.group; ++h) {
        const float4 x = reinterpret_cast<const float4*>(scores + h * p.n)[i];
        if (lses[h] == kMinusInfinity) continue;
        raise(best.x, x.x, lses[h]), raise(best.y, x.y, lses[h]);
        raise(best.z, x.z, lses[h]), raise(best.w, x.w, lses[h]);
      }
      reinterpret_cast<float4*>(ranking)[i] = best;
    }
    return;
  }
  for (int64_t i = first + threadIdx.x; i < end; i += kRankThreads) {
    float best = kMinusInfinity;
    for (int h = 0; h < p.group; ++h) {
      if (lses[h] != kMinusInfinity) raise(best, scores[h * p.n + i], lses[h]);
    }
    ranking[i] = best;
  }
}

// Short rows: one block a sequence and KV head, a warp a query head. shared: [group] log-sum-exps.
__global__ void __launch_bounds__(kRankThreads) rank_rows_kernel(RankParams p) {
  extern __shared__ float lses[];
  const int lane = threadIdx.x % kWarp;
  for (int h = threadIdx.x / kWarp; h < p.group; h += kRankThreads / kWarp) {
    const float* scores = p.scores + (int64_t{blockIdx.x} * p.group + h) * p.n;
    RunningSum own;
    if (p.vectors()) {
      for (int64_t i = lane; i < p.n / 4; i += kWarp) own.add(reinterpret_cast<const float4*>(scores)[i]);
    } else {
      for (int64_t i = lane; i < p.n; i += kWarp) own.add(scores[i]);
    }
    const float lse = log_sum_exp(merge_lanes(own));
    if (lane == 0) lses[h] = lse;
  }
  __syncthreads();
  rank_entries(p, lses, blockIdx.x, 0, p.n);
}

// Long rows, first pass: one block a part of a query head's row.
__global__ void __launch_bounds__(kRankThreads) sum_parts_kernel(RankParams p) {
  __shared__ float shared[kRankThreads / kWarp];
  const int64_t row = blockIdx.x / p.splits, first = blockIdx.x % p.splits * kPartEntries;
  const int64_t count = p.n - first < kPartEntries ? p.n - first : kPartEntries;
  const float* scores = p.scores + row * p.n + first;
  RunningSum own;
  if (p.vectors()) {
    float4 x[kPartVectors];
#pragma unroll
    for (int v = 0; v < kPartVectors; ++v) {
      const int64_t i = threadIdx.x + v * kRankThreads;
      x[v] = make_float4(kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity);
      if (i < count / 4) x[v] = reinterpret_cast<const float4*>(scores)[i];
    }
#pragma unroll
    for (const float4& each : x) own.add(each);
  } else {
    for (int64_t i = threadIdx.x; i < count; i += kRankThreads) own.add(scores[i]);
  }
  const float largest = block_reduce<kRankThreads>(own.largest, Max(), shared);
  const float share = own.largest == kMinusInfinity ? 0.0f : own.sum * expf(own.largest - largest);
  const float sum = block_reduce<kRankThreads>(share, Sum(), shared);
  if (threadIdx.x == 0) p.parts[blockIdx.x] = make_float2(largest, sum);
}

// Second pass: one block a part of a KV head's row. shared: [group] log-sum-exps.
__global__ void __launch_bounds__(kRankThreads) rank_parts_kernel(RankParams p) {
  extern __shared__ float lses[];
  const int64_t row = blockIdx.x / p.splits, first = blockIdx.x % p.splits * kPartEntries;
  const int lane = threadIdx.x % kWarp;
  for (int h = threadIdx.x / kWarp; h < p.group; h += kRankThreads / kWarp) {
    const float2* parts = p.parts + (row * p.group + h) * p.splits;
    RunningSum own;
    for (int64_t i = lane; i < p.splits; i += kWarp) {
      const float2 part = parts[i];
      if (part.x == kMinusInfinity) continue;
      const float largest = fmaxf(own.largest, part.x);
      own.sum = own.sum * expf(own.largest - largest) + part.y * expf(part.x - largest);
      own.largest = largest;
    }
    const float lse = log_sum_exp(merge_lanes(own));
    if (lane == 0) lses[h] = lse;
  }
  __syncthreads();
  const int64_t end = p.n - first < kPartEntries ? p.n : first + kPartEntries;
  rank_entries(p, lses, row, first, end);
}

// ---- spans ------------------------------------------------------------------------------------------------

constexpr int kSpanThreads = 256;
constexpr int kSpanLanes = 4;  // of a span, kSpan / kSpanLanes scores each

// kSpanLanes lanes a span, spans of a row one after the other.
__global__ void __launch_bounds__(kSpanThreads)
    sum_spans_kernel(const float* scores, int64_t n, int64_t spans, int64_t all, float2* out) {
  static_assert(kSpan == 4 * kSpanLanes);
  const int64_t span = (blockIdx.x * int64_t{kSpanThreads} + threadIdx.x) / kSpanLanes;
  const int64_t row = span / spans, first = span % spans * kSpan + threadIdx.x % kSpanLanes * 4;
  float4 x = make_float4(kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity);
  const float* from = scores + row * n + first;
  if (span < all && n % 4 == 0) {
    if (first < n) x = *reinterpret_cast<const float4*>(from);
  } else if (span < all) {
    if (first < n) x.x = from[0];
    if (first + 1 < n) x.y = from[1];
    if (first + 2 < n) x.z = from[2];
    if (first + 3 < n) x.w = from[3];
  }
  RunningSum own;
  own.add(x);
  const float largest = warp_reduce<kSpanLanes>(own.largest, Max());
  const float share = own.largest == kMinusInfinity ? 0.0f : own.sum * expf(own.largest - largest);
  const float sum = warp_reduce<kSpanLanes>(share, Sum());
  if (span < all && threadIdx.x % kSpanLanes == 0) out[span] = make_float2(largest, sum);
}

// ---- top-k ------------------------------------------------------------------------------------------------

// Rows of up to kFewEntries: every thread counts how many entries come before its own.
constexpr int kFewEntries = 512;

__global__ void __launch_bounds__(kFewEntries)
    choose_few_kernel(const float* ranking, const int32_t* limits, int64_t heads, int n, int32_t* chosen,
                      int room) {
  __shared__ uint32_t orders[kFewEntries];
  __shared__ int counts[kFewEntries / kWarp];
  const int i = threadIdx.x, warp = i / kWarp;
  const uint32_t own = i < n ? order_of(ranking[blockIdx.x * static_cast<int64_t>(n) + i]) : 0u;
  orders[i] = own;
  __syncthreads();
  int before = 0;
  for (int j = 0; j < n; ++j) before += orders[j] > own || (orders[j] == own && j < i) ? 1 : 0;
  const int limit = min(limits[blockIdx.x / heads], room);
  const bool taken = own != 0 && before < limit;
  const unsigned lanes = __ballot_sync(kAllLanes, taken);
  if (i % kWarp == 0) counts[warp] = __popc(lanes);
  __syncthreads();
  int at = lanes_below(lanes), all = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
    at += w < warp ? counts[w] : 0;
    all += counts[w];
  }
  chosen += blockIdx.x * static_cast<int64_t>(room);
  if (taken) chosen[at] = i;
  for (int k = all + i; k < room; k += blockDim.x) chosen[k] = -1;
}

constexpr int kChooseThreads = 1024;
constexpr int64_t kMostShared = 160 << 10;  // bytes of a row held in shared memory

struct ChooseParams {
  const float* ranking;
  const int32_t* limits;
  int64_t heads;
  int n;
  int32_t* chosen;
  int room;
};

// One block a row; with kHeld the row's orders lie in dynamic shared memory.
template <bool kHeld>
__global__ void __launch_bounds__(kChooseThreads) choose_kernel(ChooseParams p) {
  extern __shared__ uint32_t held[];
  __shared__ ChooseShared<kChooseThreads> shared;
  const float* ranking = p.ranking + blockIdx.x * static_cast<int64_t>(p.n);
  const Choice choice{p.n, p.limits[blockIdx.x / p.heads], p.room,
                      p.chosen + blockIdx.x * static_cast<int64_t>(p.room)};
  int open = 0;
  if constexpr (kHeld) {
    for (int i = threadIdx.x; i < p.n; i += kChooseThreads) {
      held[i] = order_of(ranking[i]);
      open += held[i] != 0 ? 1 : 0;
    }
    __syncthreads();
    choose(
        shared, [](int i) { return held[i]; }, open, choice);
  } else {
    for (int i = threadIdx.x; i < p.n; i += kChooseThreads) open += order_of(ranking[i]) != 0 ? 1 : 0;
    choose(
        shared, [=](int i) { return order_of(ranking[i]); }, open, choice);
  }
}

// ---- candidates -------------------------------------------------------------------------------------------

struct CandidateParams {
  const Bf16* q;  // [B, H, D]
  DecodeBatch batch;
  const int32_t* chunks;     // [B, G, M]
  const int32_t* found;      // [B, G, M]
  const std::byte* rebuilt;  // [B, G, M, chunk * D]
  DType rebuilt_dtype;
  SlotView slots;
  int64_t group;
  int candidates;
  float scale;
  float* scores;  // [B, H, M]
  int ahead;      // times 8 columns of keys that a warp asks for at once, at most kAhead

  // Keys of a candidate of entry (b, g); null where there is none.
  __device__ const std::byte* keys(int64_t b, int64_t g, int candidate, DType* dtype) const {
    if (candidate >= candidates) return nullptr;
    const int64_t entry = (b * slots.kv_heads + g) * candidates + candidate;
    if (chunks[entry] < 0) return nullptr;
    const int32_t slot = found[entry];
    *dtype = slot >= 0 ? slots.dtype : rebuilt_dtype;
    if (slot >= 0) return slots.keys(batch.rows[b], g, slot);
    return rebuilt + entry * slots.chunk * slots.head_dim * size_of(rebuilt_dtype);
  }
};

constexpr int kScoreWarps = 4;

// Eight columns of scores of one head, two a lane (t = lane % 4), in runs of `width` columns (a power of
// two): every lane of a run gets its largest and its sum of exp2(score - largest) over columns that count.
struct ColumnSums {
  float largest;
  float sum;
};
template <int kWidth>
__device__ ColumnSums reduce_pair(float a, float b) {
  float most = fmaxf(a, b);
  if constexpr (kWidth > 2) most = warp_reduce<kWidth / 2>(most, Max());
  const float base = most == kMinusInfinity ? 0.0f : most;
  float sum = fast_exp2(a - base) + fast_exp2(b - base);
  if constexpr (kWidth > 2) sum = warp_reduce<kWidth / 2>(sum, Sum());
  return {most, sum};
}

// A warp scores as many candidates as fill 8 columns, `ahead` times: kWidth columns each, a token a column;
// chunks of more than 8 tokens, or of a number that is no power of two, take kWidth 8 and several rounds.
template <int kDim>
inline constexpr int kAhead = kDim <= 128 ? 4 : 2;

// KeyPart::load() of a row whose whole 256 bytes other lanes and loads are about to read.
template <int kDim>
__device__ void load_key(const std::byte* row, int t, bool valid, KeyPart<kDim>& key) {
#pragma unroll
  for (int i = 0; i < KeyPart<kDim>::kWide; ++i) {
    uint4& to = key.wide[i];
    to = make_uint4(0, 0, 0, 0);
    if (!valid) continue;
    asm volatile("ld.global.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                 : "l"(row + 64 * i + 16 * t));
  }
  if constexpr (KeyPart<kDim>::kTail) {
    key.tail =
        valid ? *reinterpret_cast<const uint2*>(row + 64 * KeyPart<kDim>::kWide + 8 * t) : make_uint2(0, 0);
  }
}

// A lane's key of a column of each of a warp's rounds of candidates; null where there is none.
template <int kDim, int kWidth>
struct CandidateKeys {
  const std::byte* rows[kAhead<kDim>];  // of its candidate's first token

  __device__ void find(const CandidateParams& p, int64_t b, int64_t g, int first, int column) {
    const int64_t base = (b * p.slots.kv_heads + g) * p.candidates;
    const int64_t chunk_bytes = p.slots.chunk * kDim * 2;
    const std::byte* slots = p.slots.keys(p.batch.rows[b], g, 0);
    int chunk[kAhead<kDim>], slot[kAhead<kDim>];
#pragma unroll
    for (int i = 0; i < kAhead<kDim>; ++i) {
      const int candidate = i < p.ahead ? first + i * (8 / kWidth) + column / kWidth : p.candidates;
      chunk[i] = candidate < p.candidates ? p.chunks[base + candidate] : -1;
      slot[i] = candidate < p.candidates ? p.found[base + candidate] : -1;
    }
#pragma unroll
    for (int i = 0; i < kAhead<kDim>; ++i) {
      const int64_t candidate = base + first + i * (8 / kWidth) + column / kWidth;
      const std::byte* rebuilt = p.rebuilt + candidate * chunk_bytes;
      rows[i] = chunk[i] < 0 ? nullptr : slot[i] >= 0 ? slots + slot[i] * chunk_bytes : rebuilt;
    }
  }
};

// Log-sums of a head's scores in the making.
template <int kWidth>
__device__ void add_columns(ColumnSums& total, float a, float b) {
  if constexpr (kWidth == 1) {  // each column is a whole chunk
    total = {a, b};
  } else {
    const ColumnSums now = reduce_pair<kWidth>(a, b);
    const float most = fmaxf(total.largest, now.largest);
    total.sum = total.sum * fast_exp2(total.largest - most) + now.sum * fast_exp2(now.largest - most);
    total.largest = most;
  }
}

// Scores of one head for the candidates of 8 columns, from `first` on.
template <int kWidth>
__device__ void write_scores(const CandidateParams& p, float* scores, int first, const ColumnSums& total,
                             bool exists, bool next_exists) {
  const int t = threadIdx.x % 4;
  if constexpr (kWidth == 1) {
    if (first + 2 * t < p.candidates) scores[2 * t] = exists ? total.largest * kLn2 : kMinusInfinity;
    if (first + 2 * t + 1 < p.candidates) scores[2 * t + 1] = next_exists ? total.sum * kLn2 : kMinusInfinity;
  } else {
    const int nth = 2 * t / kWidth;
    if (2 * t % kWidth != 0 || first + nth >= p.candidates) return;
    scores[nth] = exists ? (total.largest + log2f(total.sum)) * kLn2 : kMinusInfinity;
  }
}

template <int kDim, int kWidth>
__global__ void __launch_bounds__(kScoreWarps* kWarp) score_candidates_kernel(CandidateParams p) {
  constexpr int kEach = 8 / kWidth;
  const int64_t b = blockIdx.z, g = blockIdx.y;
  const int lane = threadIdx.x % kWarp, column = lane / 4, t = lane % 4;
  const int chunk = static_cast<int>(p.slots.chunk);
  const int first = (blockIdx.x * kScoreWarps + threadIdx.x / kWarp) * kEach * p.ahead;
  if (first >= p.candidates) return;
  CandidateKeys<kDim, kWidth> keys;
  keys.find(p, b, g, first, column);
  const int64_t heads = p.slots.kv_heads * p.group;
  for (int64_t tile = 0; tile < p.group; tile += kTileHeads) {
    const int count = static_cast<int>(p.group - tile < kTileHeads ? p.group - tile : kTileHeads);
    const int64_t head = b * heads + g * p.group + tile;
    QueryTile<kDim> query;
    query.load(p.q + head * kDim, count);
    ColumnSums total[kAhead<kDim>][2];
#pragma unroll
    for (auto& both : total) both[0] = both[1] = {kMinusInfinity, 0.0f};
    for (int from = 0; from < chunk; from += kWidth) {
      const int token = from + column % kWidth;
      const bool held = from + 2 * t % kWidth < chunk, next_held = from + (2 * t + 1) % kWidth < chunk;
      KeyPart<kDim> key[kAhead<kDim>];
#pragma unroll
      for (int i = 0; i < kAhead<kDim>; ++i) {
        load_key(keys.rows[i] + token * 2 * kDim, t, keys.rows[i] != nullptr && token < chunk, key[i]);
      }
#pragma unroll
      for (int i = 0; i < kAhead<kDim>; ++i) {
        if (i >= p.ahead) break;
        float x[4];
        query.multiply(key[i], x);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float a = held ? x[2 * half] * p.scale * kLog2e : kMinusInfinity;
          const float c = next_held ? x[2 * half + 1] * p.scale * kLog2e : kMinusInfinity;
          add_columns<kWidth>(total[i][half], a, c);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead<kDim>; ++i) {
      if (i >= p.ahead) break;
      // Whether the candidates of this lane's columns 2 t and 2 t + 1 exist.
      const int mine = keys.rows[i] != nullptr ? 1 : 0;
      const bool exists = __shfl_sync(kAllLanes, mine, 2 * t * 4) != 0;
      const bool next_exists = __shfl_sync(kAllLanes, mine, (2 * t + 1) * 4) != 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int h = column + 8 * half, at = first + i * kEach;
        if (h >= count) continue;
        write_scores<kWidth>(p, p.scores + (head + h) * p.candidates + at, at, total[i][half], exists,
                             next_exists);
      }
    }
  }
}

// One warp a candidate, number by number.
__global__ void __launch_bounds__(kScoreWarps* kWarp) score_plainly_kernel(CandidateParams p) {
  const int64_t b = blockIdx.z, g = blockIdx.y;
  const int candidate = blockIdx.x * kScoreWarps + threadIdx.x / kWarp;
  if (candidate >= p.candidates) return;
  const int n = static_cast<int>(p.slots.head_dim);
  DType dtype = DType::f32;
  const std::byte* keys = p.keys(b, g, candidate, &dtype);
  for (int64_t h = 0; h < p.group; ++h) {
    const int64_t head = (b * p.slots.kv_heads + g) * p.group + h;
    const Bf16* q = p.q + head * n;
    RunningSum running;
    for (int64_t t = 0; keys != nullptr && t < p.slots.chunk; ++t) {
      const float product = warp_dot(
          n, [&](int d) { return to_float(q[d]); },
          [&](int d) { return read_number(keys, dtype, t * n + d); });
      running.add(p.scale * product);
    }
    if (threadIdx.x % kWarp != 0) continue;
    p.scores[head * p.candidates + candidate] =
        keys == nullptr ? kMinusInfinity : running.largest + logf(running.sum);
  }
}

// ---- launchers --------------------------------------------------------------------------------------------

template <int kDim, int kWidth>
void score_candidates(Queue& queue, CandidateParams p, int64_t kv_heads, const char* op) {
  constexpr int64_t kBusy = 16;  // warps a multiprocessor from which on each may take more
  const int64_t eights = ceil_div<int64_t>(p.candidates, 8 / kWidth);
  const int64_t most = p.batch.size * kv_heads * eights / (kBusy * device_of(queue).multiprocessors());
  p.ahead = static_cast<int>(most < 1 ? 1 : most < kAhead<kDim> ? most : kAhead<kDim>);
  const dim3 grid(grid_x(ceil_div<int64_t>(eights, kScoreWarps * p.ahead), op), grid_yz(kv_heads, op),
                  grid_yz(p.batch.size, op));
  score_candidates_kernel<kDim, kWidth><<<grid, kScoreWarps * kWarp, 0, stream_of(queue)>>>(p);
}

}  // namespace

void sum_spans(Queue& queue, const TensorView& scores, float2* spans, const char* op) {
  const int64_t n = scores.shape[2], each = spans_of(n), all = scores.shape[0] * scores.shape[1] * each;
  if (all == 0) return;
  const unsigned blocks = grid_x(ceil_div<int64_t>(all * kSpanLanes, kSpanThreads), op);
  sum_spans_kernel<<<blocks, kSpanThreads, 0, stream_of(queue)>>>(device_ptr<float>(scores), n, each, all,
                                                                  spans);
  check_launch(op);
}

void rank_groups(Queue& queue, const RankGroupsParams& p) {
  constexpr const char* kOp = "rank_groups";
  const int64_t kv_heads = p.ranking.shape[1], group = p.scores.shape[1] / kv_heads, n = p.scores.shape[2];
  // In fours: the unrolled loops over a group's heads may read ahead to the next multiple.
  const int64_t rows = p.scores.shape[0] * kv_heads, shared = round_up<int64_t>(group, 4) * 4;
  const auto stream = stream_of(queue);
  RankParams params{
      device_ptr<float>(p.scores), device_ptr<float>(p.ranking), static_cast<int>(group), n, nullptr,
      ceil_div(n, kPartEntries)};
  if (n <= kPartEntries / 2) {
    rank_rows_kernel<<<grid_x(rows, kOp), kRankThreads, shared, stream>>>(params);
  } else {
    const int64_t parts = rows * group * params.splits;
    params.parts =
        reinterpret_cast<float2*>(scratch_of(queue, parts * static_cast<int64_t>(sizeof(float2)), kOp));
    sum_parts_kernel<<<grid_x(parts, kOp), kRankThreads, 0, stream>>>(params);
    rank_parts_kernel<<<grid_x(rows * params.splits, kOp), kRankThreads, shared, stream>>>(params);
  }
  check_launch(kOp);
}

void top_k(Queue& queue, const TopKParams& p) {
  constexpr const char* kOp = "top_k";
  const int64_t heads = p.ranking.shape[1], n = p.ranking.shape[2], room = p.chosen.shape[2];
  const unsigned rows = grid_x(p.ranking.shape[0] * heads, kOp);
  demand(n <= 0x7fffffff - kChooseThreads && room <= 0x7fffffff - kChooseThreads, kOp,
         "rows of more than 2^31 entries have no kernel");
  const ChooseParams params{
      device_ptr<float>(p.ranking), p.limits, heads, static_cast<int>(n), device_ptr<int32_t>(p.chosen),
      static_cast<int>(room)};
  if (n <= kFewEntries) {
    const int threads = static_cast<int>(round_up<int64_t>(n > 0 ? n : 1, kWarp));
    choose_few_kernel<<<rows, threads, 0, stream_of(queue)>>>(params.ranking, params.limits, heads, params.n,
                                                              params.chosen, params.room);
  } else if (n * 4 <= kMostShared && n * 4 + static_cast<int64_t>(sizeof(ChooseShared<kChooseThreads>)) <=
                                         device_of(queue).shared_bytes_per_block()) {
    allow_shared(choose_kernel<true>, n * 4, kOp);
    choose_kernel<true><<<rows, kChooseThreads, n * 4, stream_of(queue)>>>(params);
  } else {
    choose_kernel<false><<<rows, kChooseThreads, 0, stream_of(queue)>>>(params);
  }
  check_launch(kOp);
}

void candidate_scores(Queue& queue, const CandidateScoresParams& p) {
  constexpr const char* kOp = "candidate_scores";
  demand_activations(p.q, kOp);
  const SlotView& slots = p.slots;
  const CandidateParams params{device_ptr<Bf16>(p.q),
                               p.batch,
                               device_ptr<int32_t>(p.chunks),
                               device_ptr<int32_t>(p.found),
                               p.rebuilt.data,
                               p.rebuilt.dtype,
                               slots,
                               p.q.shape[1] / slots.kv_heads,
                               static_cast<int>(p.chunks.shape[2]),
                               p.scale,
                               device_ptr<float>(p.scores),
                               1};
  const bool vectors = slots.dtype == DType::bf16 && p.rebuilt.dtype == DType::bf16;
  const bool taken = vectors && with_head_dim(slots.head_dim, [&](auto dim) {
                       constexpr int kDim = decltype(dim)::value;
                       if (slots.chunk == 1)
                         return score_candidates<kDim, 1>(queue, params, slots.kv_heads, kOp);
                       if (slots.chunk == 2)
                         return score_candidates<kDim, 2>(queue, params, slots.kv_heads, kOp);
                       if (slots.chunk == 4)
                         return score_candidates<kDim, 4>(queue, params, slots.kv_heads, kOp);
                       score_candidates<kDim, 8>(queue, params, slots.kv_heads, kOp);
                     });
  if (!taken) {
    const dim3 grid(grid_x(ceil_div<int64_t>(params.candidates, kScoreWarps), kOp),
                    grid_yz(slots.kv_heads, kOp), grid_yz(p.batch.size, kOp));
    score_plainly_kernel<<<grid, kScoreWarps * kWarp, 0, stream_of(queue)>>>(params);
  }
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
