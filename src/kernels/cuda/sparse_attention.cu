// Attention over slots and resident tokens. A block takes one sequence, KV head and up to 16 query heads; its
// warps walk 16 tokens at a time, whose rows come to shared memory one step ahead, with an online softmax in
// registers, and are merged in shared memory, slots also with what is kept of other tokens. Bound: the bytes
// of the keys and values, each read once for all query heads. What lies between heads of other sizes or
// float32 storage goes number by number.
#include "kernels/cuda/bulk_copies.cuh"
#include "kernels/cuda/query_tile.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kStepTokens = 16;
constexpr int kWarps = 4;  // of a block; the same for any batch, so that sums add up in the same order

// ---- which tokens -----------------------------------------------------------------------------------------

// Tokens of one KV head: entry(i) is the row of the i-th in both keys and values, -1: none.
struct SlotWalk {
  const std::byte* keys;
  const std::byte* values;
  const int32_t* assigned;
  int chunk;
  int count;

  __device__ int entry(int i) const {
    const int slot = assigned[i / chunk];
    return slot < 0 ? -1 : slot * chunk + i % chunk;
  }
};

struct SlotTokens {
  SlotView slots;
  const int32_t* assigned;  // [B, G, entries]
  int64_t entries;

  __device__ SlotWalk walk(const DecodeBatch& batch, int64_t b, int64_t g) const {
    const int64_t row = batch.rows[b];
    return {slots.keys(row, g, 0), slots.values(row, g, 0), assigned + (b * slots.kv_heads + g) * entries,
            static_cast<int>(slots.chunk), static_cast<int>(entries * slots.chunk)};
  }
};

// First chunk, then outlier chunks, then the ring's tokens from the first unsealed one on.
struct ResidentWalk {
  const std::byte* keys;
  const std::byte* values;
  const int32_t* outliers;
  int first_tokens;   // held of the first chunk
  int outlier_end;    // tokens before the ring's
  int ring_position;  // position of the first token taken from the ring
  int ring_tokens;
  int ring_entry;  // row of the ring's start
  int chunk;
  int count;

  __device__ int entry(int i) const {
    if (i < first_tokens) return i;
    if (i < outlier_end) {
      const int nth = (i - first_tokens) / chunk;
      return outliers[nth] < 0 ? -1 : chunk + i - first_tokens;
    }
    return ring_entry + (ring_position + i - outlier_end) % ring_tokens;
  }
};

struct ResidentTokens {
  ResidentView resident;

  __device__ ResidentWalk walk(const DecodeBatch& batch, int64_t b, int64_t g) const {
    const int64_t row = batch.rows[b], tokens = batch.tokens[b], chunk = resident.chunk;
    const int64_t sealed = sealed_chunks(tokens, chunk, resident.local_window) * chunk;
    const int64_t first = tokens < chunk ? tokens : chunk, outliers = resident.outliers[row] * chunk;
    const int64_t ring = tokens > sealed ? tokens - sealed : 0;
    return {resident.keys(row, g, 0),
            resident.values(row, g, 0),
            resident.outlier_chunks(row, g),
            static_cast<int>(first),
            static_cast<int>(first + outliers),
            static_cast<int>(sealed),
            static_cast<int>(resident.ring_tokens),
            static_cast<int>(chunk + outliers),
            static_cast<int>(chunk),
            static_cast<int>(first + outliers + ring)};
  }
};

struct AttendParams {
  const Bf16* q;  // [B, H, D]
  DecodeBatch batch;
  int64_t kv_heads;
  int64_t group;  // query heads of a KV head
  int64_t head_dim;
  DType dtype;  // of keys and values
  float scale;
  Bf16* out;    // [B, H, D]
  float* lse;   // [B, H]
  bool merges;  // with what `out` and `lse` hold
  bool early;   // lets the next kernel be set up meanwhile
};

// ---- merging ----------------------------------------------------------------------------------------------

// What the warps found for a query head: largest score (base 2) and sum of weights over all of them.
struct Merged {
  float largest = kMinusInfinity;
  float sum = 0.0f;

  // largest, sums: [warps][16]
  __device__ Merged(const float* all_largest, const float* sums, int h) {
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, all_largest[w * kTileHeads + h]);
    for (int w = 0; w < kWarps; ++w) sum += share(all_largest[w * kTileHeads + h]) * sums[w * kTileHeads + h];
  }
  __device__ float share(float of_warp) const {
    return of_warp == kMinusInfinity ? 0.0f : fast_exp2(of_warp - largest);
  }
  __device__ float lse() const { return sum > 0.0f ? (largest + log2f(sum)) * kLn2 : kMinusInfinity; }
};

// Writes `value` of a head with log-sum-exp `lse`, merged with what is there (`kept`: its log-sum-exp); to
// the bit as it was where one of both is over no token.
__device__ inline void merge_number(float value, float lse, float kept, Bf16* out) {
  if (lse == kMinusInfinity && kept != kMinusInfinity) return;
  if (kept != kMinusInfinity) {
    const float share = 1.0f / (1.0f + expf(kept - lse)), kept_share = 1.0f / (1.0f + expf(lse - kept));
    value = value * share + to_float(*out) * kept_share;
  }
  *out = __float2bfloat16_rn(value);
}

// Log-sum-exp over two sets of tokens.
__device__ inline float merge_lse(float a, float b) {
  const float most = fmaxf(a, b);
  return most == kMinusInfinity ? most : most + log1pf(expf(-fabsf(a - b)));
}

// Adds up what every warp found for `heads` query heads: largest score (base 2) and sum of weights
// [warps][16], weighted values [warps][heads][head_dim].
__device__ void merge_warps(const AttendParams& p, const float* largest, const float* sums,
                            const float* values, int heads, int64_t first_head) {
  const int head_dim = static_cast<int>(p.head_dim);
  Bf16* out = p.out + first_head * head_dim;
  float* lse = p.lse + first_head;
  for (int i = threadIdx.x; i < heads * head_dim; i += blockDim.x) {
    const int h = i / head_dim;
    const Merged all(largest, sums, h);
    float value = 0.0f;
    for (int w = 0; w < kWarps; ++w)
      value += all.share(largest[w * kTileHeads + h]) * values[w * heads * head_dim + i];
    const float kept = p.merges ? lse[h] : kMinusInfinity;
    merge_number(all.sum > 0.0f ? value / all.sum : 0.0f, all.lse(), kept, out + i);
  }
  __syncthreads();  // every thread has read what was kept
  for (int h = threadIdx.x; h < heads; h += blockDim.x) {
    const float own = Merged(largest, sums, h).lse();
    lse[h] = p.merges ? merge_lse(own, lse[h]) : own;
  }
}

// ---- on tensor cores --------------------------------------------------------------------------------------

template <int kWords>
struct Words;
template <>
struct Words<1> {
  using Vector = uint32_t;
};
template <>
struct Words<2> {
  using Vector = uint2;
};
template <>
struct Words<4> {
  using Vector = uint4;
};

// 2 kWords numbers a lane of four tokens' values: numbers 2 kWords g .. of a stretch of 16 kWords.
template <int kWords>
struct ValuePart {
  union {
    typename Words<kWords>::Vector vector[4];
    uint32_t words[4][kWords];
  };

  // Rows 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of a stage.
  template <typename Rows>
  __device__ void load(const Rows& rows, int first) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::byte* from = rows.value(8 * (i / 2) + 2 * t + i % 2, 2 * first + 4 * kWords * g);
      vector[i] = *reinterpret_cast<const typename Words<kWords>::Vector*>(from);
    }
  }

  // sums: 2 kWords accumulator tiles; column n of tile i is number 2 kWords n + i of the stretch.
  __device__ void add(const uint32_t (&weights)[4], float (*sums)[4]) const {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t even[2] = {__byte_perm(words[0][w], words[1][w], 0x5410),
                                __byte_perm(words[2][w], words[3][w], 0x5410)};
      const uint32_t odd[2] = {__byte_perm(words[0][w], words[1][w], 0x7632),
                               __byte_perm(words[2][w], words[3][w], 0x7632)};
      mma_16x8x16(sums[2 * w], weights, even);
      mma_16x8x16(sums[2 * w + 1], weights, odd);
    }
  }

  __device__ static void write(const float (*sums)[4], int half, float* row, int first) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2 * kWords; ++i) {
      row[first + 2 * kWords * (2 * t) + i] = sums[i][2 * half];
      row[first + 2 * kWords * (2 * t + 1) + i] = sums[i][2 * half + 1];
    }
  }
};

// One lane's values of four tokens: stretches of 64 numbers, then one of 32, then one of 16, as kDim has
// them.
template <int kDim>
struct ValueRows {
  static constexpr int kWide = kDim / 64;
  static constexpr bool kHasHalf = kDim % 64 >= 32, kHasTail = kDim % 32 != 0;
  __device__ static constexpr int half_at() { return 64 * kWide; }
  __device__ static constexpr int tail_at() { return half_at() + (kHasHalf ? 32 : 0); }
  ValuePart<4> wide[kWide > 0 ? kWide : 1];
  ValuePart<2> half;
  ValuePart<1> tail;

  template <typename Rows>
  __device__ void load(const Rows& rows) {
#pragma unroll
    for (int i = 0; i < kWide; ++i) wide[i].load(rows, 64 * i);
    if constexpr (kHasHalf) half.load(rows, half_at());
    if constexpr (kHasTail) tail.load(rows, tail_at());
  }
  __device__ void add(const uint32_t (&weights)[4], float (&sums)[kDim / 8][4]) const {
#pragma unroll
    for (int i = 0; i < kWide; ++i) wide[i].add(weights, sums + 8 * i);
    if constexpr (kHasHalf) half.add(weights, sums + half_at() / 8);
    if constexpr (kHasTail) tail.add(weights, sums + tail_at() / 8);
  }
  __device__ static void write(const float (&sums)[kDim / 8][4], int which, float* row) {
#pragma unroll
    for (int i = 0; i < kWide; ++i) ValuePart<4>::write(sums + 8 * i, which, row, 64 * i);
    if constexpr (kHasHalf) ValuePart<2>::write(sums + half_at() / 8, which, row, half_at());
    if constexpr (kHasTail) ValuePart<1>::write(sums + tail_at() / 8, which, row, tail_at());
  }
};

// What a lane knows of two heads (g and g + 8): largest score (base 2), its part of the sum of weights, and
// weighted values.
template <int kDim>
struct Softmax {
  float largest[2] = {kMinusInfinity, kMinusInfinity};
  float sum[2] = {0.0f, 0.0f};
  float values[kDim / 8][4] = {};

  // scores[tile][..] of tokens 2 t, 2 t + 1 of each 8; turned into weights as an operand.
  __device__ void take(float (&scores)[2][4], uint32_t (&weights)[4]) {
    float keep[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = fmaxf(fmaxf(scores[0][2 * half], scores[0][2 * half + 1]),
                         fmaxf(scores[1][2 * half], scores[1][2 * half + 1]));
      most = fmaxf(largest[half], warp_reduce<4>(most, Max()));
      const float base = most == kMinusInfinity ? 0.0f : most;
      keep[half] = fast_exp2(largest[half] - base);
      largest[half] = most;
      sum[half] *= keep[half];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        float& a = scores[tile][2 * half];
        float& b = scores[tile][2 * half + 1];
        a = fast_exp2(a - base), b = fast_exp2(b - base);
        sum[half] += a + b;
        weights[2 * tile + half] = pack_bf16(a, b);
      }
    }
#pragma unroll
    for (auto& tile : values) tile[0] *= keep[0], tile[1] *= keep[0], tile[2] *= keep[1], tile[3] *= keep[1];
  }
};

// Keys and values of 16 tokens in shared memory, row after row. Pieces of 16 bytes change places within 128
// bytes so that the lanes of a warp that read together meet all banks: keys are read by four lanes a row in
// rows side by side, values by eight lanes a row in every second row.
template <int kDim>
struct StagedRows {
  static constexpr int kPieces = 2 * kDim / 16;
  static constexpr int kRowBytes = round_up(2 * kDim, 128);
  static constexpr int kBytes = 2 * kStepTokens * kRowBytes;
  std::byte* memory;

  __device__ std::byte* key(int row, int byte) const {
    return memory + row * kRowBytes + (byte ^ (row % 2 * 64));
  }
  __device__ std::byte* value(int row, int byte) const {
    return memory + (kStepTokens + row) * kRowBytes + (byte ^ (row / 2 % 4 * 32));
  }
  // Sends for rows whose places lanes 0 .. 15 hold; zeros where there is none.
  template <typename Walk>
  __device__ void send(const Walk& walk, int entry) const {
    constexpr int kLanes = kPieces < kWarp ? kPieces : kWarp, kRows = kWarp / kLanes;
    const int lane = threadIdx.x % kWarp, own = lane / kLanes;
#pragma unroll
    for (int first = 0; first < kStepTokens; first += kRows) {
      const int row = first + own;
      const int from = __shfl_sync(kAllLanes, entry, row % kStepTokens);
      const bool sends = own < kRows && row < kStepTokens;
      if (sends) {
        const int byte = lane % kLanes * 16;
        const int64_t at = from < 0 ? 0 : int64_t{from} * (2 * kDim) + byte;
        copy_async_16(key(row, byte), walk.keys + at, from >= 0);
        copy_async_16(value(row, byte), walk.values + at, from >= 0);
      }
    }
  }
};

// entry: of tokens in lanes 0 .. 15.
template <int kDim>
__device__ void attend_step(const StagedRows<kDim>& rows, int entry, const QueryTile<kDim>& query,
                            float scale, Softmax<kDim>& softmax) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  float scores[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    KeyPart<kDim> key;
    const int row = g + 8 * half;
    key.load([&](int byte) { return rows.key(row, byte); }, t);
    query.multiply(key, scores[half]);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int column = __shfl_sync(kAllLanes, entry, 8 * (i / 4) + 2 * t + i % 2);
    float& x = scores[i / 4][i % 4];
    x = column < 0 ? kMinusInfinity : x * scale;
  }
  uint32_t weights[4];
  softmax.take(scores, weights);
  ValueRows<kDim> values;
  values.load(rows);
  values.add(weights, softmax.values);
}

constexpr int kStages = 2;

// A warp's share of the tokens: steps of 16, kWarps apart. ring: kStages stages of this warp alone.
template <int kDim, typename Walk>
__device__ void attend_all(const Walk& walk, const QueryTile<kDim>& query, float scale, std::byte* ring,
                           Softmax<kDim>& softmax) {
  constexpr int kStep = kWarps * kStepTokens;
  const int lane = threadIdx.x % kWarp, first = threadIdx.x / kWarp * kStepTokens;
  const auto entry_at = [&](int base) {
    const int token = base + lane;
    return lane < kStepTokens && token < walk.count ? walk.entry(token) : -1;
  };
  const auto stage = [&](int nth) {
    return StagedRows<kDim>{ring + nth % kStages * StagedRows<kDim>::kBytes};
  };
  int entries[kStages];  // of the stages on their way, the next to be used first
#pragma unroll
  for (int i = 0; i < kStages; ++i) {
    entries[i] = entry_at(first + i * kStep);
    stage(i).send(walk, entries[i]);
    commit_copies();
  }
  int ahead = entry_at(first + kStages * kStep);
  for (int base = first, nth = 0; base < walk.count; base += kStep, ++nth) {
    wait_for_copies<kStages - 1>();
    __syncwarp();
    attend_step(stage(nth), entries[0], query, scale, softmax);
    __syncwarp();
#pragma unroll
    for (int i = 0; i + 1 < kStages; ++i) entries[i] = entries[i + 1];
    entries[kStages - 1] = ahead;
    stage(nth).send(walk, ahead);
    commit_copies();
    ahead = entry_at(base + (kStages + 1) * kStep);
  }
  wait_for_copies<0>();
}

template <int kDim, typename Tokens>
__global__ void __launch_bounds__(kWarps* kWarp, kDim <= 128 ? 3 : 1)
    attend_kernel(AttendParams p, Tokens tokens) {
  extern __shared__ __align__(16) float shared[];
  if (p.early) let_next_kernel_start();
  const int64_t b = blockIdx.z, g = blockIdx.y;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int first = blockIdx.x * kTileHeads;
  const int left = static_cast<int>(p.group) - first, heads = left < kTileHeads ? left : kTileHeads;
  const int64_t head = b * p.kv_heads * p.group + g * p.group + first;
  const auto walk = tokens.walk(p.batch, b, g);
  QueryTile<kDim> query;
  query.load(p.q + head * kDim, heads);
  Softmax<kDim> softmax;
  auto* rings = reinterpret_cast<std::byte*>(shared);
  constexpr int kRing = kStages * StagedRows<kDim>::kBytes;
  attend_all(walk, query, p.scale * kLog2e, rings + warp * kRing, softmax);
  float* largest = reinterpret_cast<float*>(rings + kWarps * kRing);
  float* sums = largest + kWarps * kTileHeads;
  float* values = sums + kWarps * kTileHeads;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int h = lane / 4 + 8 * half;
    const float sum = warp_reduce<4>(softmax.sum[half], Sum());
    if (h >= heads) continue;
    largest[warp * kTileHeads + h] = softmax.largest[half];
    sums[warp * kTileHeads + h] = sum;
    ValueRows<kDim>::write(softmax.values, half, values + (warp * heads + h) * kDim);
  }
  __syncthreads();
  merge_warps(p, largest, sums, values, heads, head);
}

// ---- number by number -------------------------------------------------------------------------------------

// One block a query head.
template <typename Tokens>
__global__ void __launch_bounds__(kWarps* kWarp) attend_plainly_kernel(AttendParams p, Tokens tokens) {
  extern __shared__ __align__(16) float shared[];
  const int64_t b = blockIdx.z, g = blockIdx.y;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int n = static_cast<int>(p.head_dim);
  const int64_t head = (b * p.kv_heads + g) * p.group + blockIdx.x, row_bytes = n * size_of(p.dtype);
  const auto walk = tokens.walk(p.batch, b, g);
  const Bf16* q = p.q + head * n;
  float largest = kMinusInfinity, sum = 0.0f, values[kLaneNumbers] = {};
  for (int i = warp; i < walk.count; i += kWarps) {
    const int entry = walk.entry(i);
    if (entry < 0) continue;
    const std::byte* key = walk.keys + entry * row_bytes;
    const std::byte* value = walk.values + entry * row_bytes;
    const float score =
        p.scale * kLog2e *
        warp_dot(
            n, [&](int d) { return to_float(q[d]); }, [&](int d) { return read_number(key, p.dtype, d); });
    const float most = fmaxf(largest, score), keep = fast_exp2(largest - most),
                weight = fast_exp2(score - most);
    largest = most;
    sum = sum * keep + weight;
#pragma unroll
    for (int j = 0; j < kLaneNumbers; ++j) {
      const int d = lane + j * kWarp;
      if (d < n) values[j] = values[j] * keep + weight * read_number(value, p.dtype, d);
    }
  }
  float* most = shared;
  float* sums = most + kWarps * kTileHeads;
  float* partial = sums + kWarps * kTileHeads;
  if (lane == 0) most[warp * kTileHeads] = largest, sums[warp * kTileHeads] = sum;
#pragma unroll
  for (int j = 0; j < kLaneNumbers; ++j) {
    if (lane + j * kWarp < n) partial[warp * n + lane + j * kWarp] = values[j];
  }
  __syncthreads();
  merge_warps(p, most, sums, partial, 1, head);
}

// ---- launchers --------------------------------------------------------------------------------------------

template <typename Tokens>
void attend(Queue& queue, const AttendParams& p, const Tokens& tokens, const char* op) {
  demand_head_dim(p.head_dim, op);
  const unsigned heads = grid_yz(p.kv_heads, op), sequences = grid_yz(p.batch.size, op);
  const bool taken =
      p.dtype == DType::bf16 && with_head_dim(p.head_dim, [&](auto dim) {
        constexpr int kDim = decltype(dim)::value;
        const int64_t tiles = ceil_div<int64_t>(p.group, kTileHeads);
        const int64_t rows = p.group < kTileHeads ? p.group : kTileHeads;
        const int64_t shared =
            kWarps * (kStages * int64_t{StagedRows<kDim>::kBytes} + (2 * kTileHeads + rows * kDim) * 4);
        allow_shared(attend_kernel<kDim, Tokens>, shared, op);
        attend_kernel<kDim, Tokens>
            <<<dim3(grid_x(tiles, op), heads, sequences), kWarps * kWarp, shared, stream_of(queue)>>>(p,
                                                                                                      tokens);
      });
  if (!taken) {
    const int64_t shared = kWarps * (2 * kTileHeads + p.head_dim) * 4;
    attend_plainly_kernel<Tokens>
        <<<dim3(grid_x(p.group, op), heads, sequences), kWarps * kWarp, shared, stream_of(queue)>>>(p,
                                                                                                    tokens);
  }
  check_launch(op);
}

template <typename Params>
AttendParams attend_params(const Params& p, int64_t kv_heads, DType dtype, bool merges, const char* op) {
  demand_activations(p.q, op);
  demand_activations(p.out, op);
  return {device_ptr<Bf16>(p.q),
          p.batch,
          kv_heads,
          p.q.shape[1] / kv_heads,
          p.q.shape[2],
          dtype,
          p.scale,
          device_ptr<Bf16>(p.out),
          device_ptr<float>(p.lse),
          merges,
          false};
}

// Whether the kernel that comes next, a product, may take the device while this one runs: where few blocks
// leave most of it idle, and on the device's first queue, on which nothing of a step is that runs beside
// other things.
bool leaves_room(Queue& queue, const SlotAttentionParams& p) {
  CudaDevice& device = device_of(queue);
  return &queue == &device.compute() && 4 * p.batch.size * p.slots.kv_heads <= device.multiprocessors();
}

}  // namespace

void resident_attention(Queue& queue, const ResidentAttentionParams& p) {
  constexpr const char* kOp = "resident_attention";
  attend(queue, attend_params(p, p.resident.kv_heads, p.resident.dtype, false, kOp),
         ResidentTokens{p.resident}, kOp);
}

void slot_attention(Queue& queue, const SlotAttentionParams& p) {
  constexpr const char* kOp = "slot_attention";
  const SlotTokens tokens{p.slots, device_ptr<int32_t>(p.assigned), p.assigned.shape[2]};
  AttendParams params = attend_params(p, p.slots.kv_heads, p.slots.dtype, true, kOp);
  params.early = leaves_room(queue, p);
  attend(queue, params, tokens, kOp);
}

}  // namespace shadowkv::cuda
