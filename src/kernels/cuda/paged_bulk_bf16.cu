// bfloat16 keys and values on Hopper and later. A warp takes sixteen keys at a time, as the 16 rows of
// mma.m16n8k16; query heads of the KV head are its 8 columns. Which number of a row a lane holds is free as
// long as queries (for keys) and sums (for values) are permuted alike, so every lane reads up to 16 bytes of
// a row at a time. Bound: bytes of keys and values, each read once.
#include "kernels/cuda/paged_bulk.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kEight = 8;  // query heads of a product

// ---- a warp's attention -----------------------------------------------------------------------------------

// kEights: eights of query heads. With lane = 4 g + t, a lane has scores, weights and sums of heads 8 e + 2 t
// and 8 e + 2 t + 1, of keys in rows g and g + 8.
template <int kHeadDim, int kEights>
class Bf16Attention {
 public:
  static constexpr int kDim = kHeadDim;
  using Step = BulkStep<16, kHeadDim* int{sizeof(Bf16)}, false>;

  __device__ Bf16Attention() {
#pragma unroll
    for (int e = 0; e < kEights; ++e) most_[e][0] = most_[e][1] = kNothing;
  }

  // queries: [heads, kDim] of the KV head; scale: of scores, to base 2.
  __device__ void load_queries(const Bf16* queries, int heads, float scale) {
    scale_ = scale;
#pragma unroll
    for (int w = 0; w < kKeyWords; ++w) {
      const int byte = 4 * w;  // within what the lane brings of a key
      const int first = byte / kKeyWidth * 4 * kKeyWidth + t_ * kKeyWidth + byte % kKeyWidth;
#pragma unroll
      for (int e = 0; e < kEights; ++e) {
        const int head = kEight * e + g_;
        const auto* pair = reinterpret_cast<const uint32_t*>(queries + head * kDim + first / 2);
        queries_[w / 2][e][w % 2] = head < heads ? *pair : 0u;
      }
    }
  }

  // scores_[e]: row g of heads 2 t, 2 t + 1, then row g + 8; -infinity past the last key.
  __device__ void score(const std::byte* keys, int last) {
    uint32_t words[2][kKeyWords];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::byte* row = keys + Step::offset_of_row(g_, r) + t_ * kKeyWidth;
#pragma unroll
      for (int i = 0; i < kKeyLoads; ++i)
        load_words<kKeyWidth>(words[r] + i * (kKeyWidth / 4), row + 4 * i * kKeyWidth);
    }
    float products[2][kEights][4] = {};  // two chains, each of half the latency
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const uint32_t key[4] = {words[0][2 * s], words[1][2 * s], words[0][2 * s + 1], words[1][2 * s + 1]};
#pragma unroll
      for (int e = 0; e < kEights; ++e) mma_16x8x16(products[s % 2][e], key, queries_[s][e]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool exists = Step::key_of_row(g_, i / 2) <= last;
#pragma unroll
      for (int e = 0; e < kEights; ++e)
        scores_[e][i] = exists ? (products[0][e][i] + products[1][e][i]) * scale_ : kNothing;
    }
  }

  // Scores to weights, exp2(score - most_). A head's reference follows its largest score only where that is
  // more than kSlack above: then weights stay finite, and most steps need not find the largest.
  __device__ void soften() {
    bool grew = false;
#pragma unroll
    for (int e = 0; e < kEights; ++e) {
#pragma unroll
      for (int i = 0; i < 4; ++i) grew = grew || scores_[e][i] > most_[e][i % 2] + kSlack;
    }
    if (__any_sync(kAllLanes, grew)) grow();
#pragma unroll
    for (int e = 0; e < kEights; ++e) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores_[e][i] = exp2_fast(scores_[e][i] - most_[e][i % 2]);
        total_[e][i % 2] += scores_[e][i];
      }
    }
  }

  __device__ void add_values(std::byte* values, int last) {
    if (last < Step::kKeys - 1) clear_rows(values, last);
    uint32_t weights[kEights][2];
#pragma unroll
    for (int e = 0; e < kEights; ++e) {
      weights[e][0] = transpose_8x8(pack_bf16(scores_[e][0], scores_[e][1]));
      weights[e][1] = transpose_8x8(pack_bf16(scores_[e][2], scores_[e][3]));
    }
    uint32_t words[4][kValueWords];  // of rows 2 t, 2 t + 1, 2 t + 8, 2 t + 9
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::byte* row = values + Step::offset_of_row(2 * t_ + i % 2, i / 2) + g_ * kValueWidth;
#pragma unroll
      for (int j = 0; j < kValueLoads; ++j)
        load_words<kValueWidth>(words[i] + j * (kValueWidth / 4), row + j * 8 * kValueWidth);
    }
#pragma unroll
    for (int w = 0; w < kValueWords; ++w) {
      const uint32_t value[4] = {
          __byte_perm(words[0][w], words[1][w], 0x5410), __byte_perm(words[0][w], words[1][w], 0x7632),
          __byte_perm(words[2][w], words[3][w], 0x5410), __byte_perm(words[2][w], words[3][w], 0x7632)};
#pragma unroll
      for (int e = 0; e < kEights; ++e) mma_16x8x16(sums_[w][e], value, weights[e]);
    }
  }

  __device__ void leave(const Shared<kDim>& shared, int heads) const {
#pragma unroll
    for (int i = 0; i < 2 * kEights; ++i) {
      const int e = i / 2, column = i % 2;
      const float total = over_keys(total_[e][column], Sum{});
      const int head = kEight * e + 2 * t_ + column;
      if (head >= heads) continue;
      const int row = static_cast<int>(threadIdx.x) / kWarp * heads + head;
      if (g_ == 0) {
        shared.most[row] = most_[e][column];
        shared.total[row] = total;
      }
#pragma unroll
      for (int w = 0; w < kValueWords; ++w) {
        float* number = shared.sums + row * kDim + value_number(w);
        number[0] = sums_[w][e][column];
        number[1] = sums_[w][e][column + 2];
      }
    }
  }

 private:
  // Of keys, four lanes t bring a row, of values eight lanes g.
  static constexpr int kKeyWidth = widest(Step::kRowBytes, 4, 4);
  static constexpr int kKeyLoads = Step::kRowBytes / (4 * kKeyWidth);
  static constexpr int kKeyWords = Step::kRowBytes / 16;
  static constexpr int kSteps = kKeyWords / 2;  // products of 16 numbers along a key
  static constexpr int kValueWidth = widest(Step::kRowBytes, 8, 4);
  static constexpr int kValueLoads = Step::kRowBytes / (8 * kValueWidth);
  static constexpr int kValueWords = Step::kRowBytes / 32;
  static_assert(kKeyLoads * 4 * kKeyWidth == Step::kRowBytes && kKeyWords % 2 == 0);
  static_assert(kValueLoads * 8 * kValueWidth == Step::kRowBytes);

  // First number of word w of what this lane brings of a value.
  [[nodiscard]] __device__ int value_number(int w) const {
    const int byte = 4 * w;
    return (byte / kValueWidth * 8 * kValueWidth + g_ * kValueWidth + byte % kValueWidth) / 2;
  }

  // Values past the last weigh nothing, but what lies there need not be finite. No copy follows this step's.
  static __device__ void clear_rows(std::byte* values, int last) {
    for (int i = static_cast<int>(threadIdx.x) % kWarp; i < Step::kKeys * Step::kRowBytes / 4; i += kWarp) {
      const int key = i / (Step::kRowBytes / 4), byte = 4 * i % Step::kRowBytes;
      const int at = key / Step::kPieceKeys * Step::kPieceStride + key % Step::kPieceKeys * Step::kRowBytes;
      if (key > last) *reinterpret_cast<uint32_t*>(values + at + byte) = 0u;
    }
    __syncwarp();
  }

  // Over the lanes of the same heads.
  template <typename Op>
  static __device__ float over_keys(float x, Op op) {
#pragma unroll
    for (int step = 4; step < kWarp; step *= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, step));
    return x;
  }

  __device__ void grow() {
#pragma unroll
    for (int i = 0; i < 2 * kEights; ++i) {
      const int e = i / 2, column = i % 2;
      float& most = most_[e][column];
      const float peak = over_keys(fmaxf(most, fmaxf(scores_[e][column], scores_[e][column + 2])), Max{});
      const float factor = exp2_fast(most - peak);
      most = peak;
      total_[e][column] *= factor;
#pragma unroll
      for (int w = 0; w < kValueWords; ++w) sums_[w][e][column] *= factor, sums_[w][e][column + 2] *= factor;
    }
  }

  const int g_ = static_cast<int>(threadIdx.x) % kWarp / 4;
  const int t_ = static_cast<int>(threadIdx.x) % 4;
  float scale_ = 0.0f;
  uint32_t queries_[kSteps][kEights][2];
  float most_[kEights][2];        // references of weights
  float total_[kEights][2] = {};  // this lane's part
  float scores_[kEights][4];      // then weights
  // First number of word w of what a lane brings of a value, for heads 2 t, 2 t + 1, then the second.
  float sums_[kValueWords][kEights][4] = {};
};

// ---- launching --------------------------------------------------------------------------------------------

template <int kDim>
PartKernel prepare_for(int64_t heads) {
  return heads <= kEight ? prepare_bulk<Bf16Attention<kDim, 1>>(heads)
                         : prepare_bulk<Bf16Attention<kDim, 2>>(heads);
}

}  // namespace

PartKernel find_bulk_bf16_kernel(const PagedAttentionParams& params) {
  if (!has_whole_groups(params, DType::bf16)) return {};
  if (params.keys.data.block_tokens != params.values.data.block_tokens) return {};
  const int64_t heads = params.q.shape[1] / params.kv_heads;
  switch (params.q.shape[2]) {
    case 64:
      return prepare_for<64>(heads);
    case 80:
      return prepare_for<80>(heads);
    case 96:
      return prepare_for<96>(heads);
    case 128:
      return prepare_for<128>(heads);
    case 256:
      return prepare_for<256>(heads);
    default:
      return {};
  }
}

}  // namespace shadowkv::cuda
