// int8 keys and values on Hopper and later: products of bytes, so that keys are never widened and values only
// change places. Query heads come in fours; the 8 columns of mma.m16n8k32 are a low and a high part of each.
// A query is 16 bits a number, as two int8 codes under one scale of its row (off by at most 2^-16 of its
// largest number); weights times the values' scales are 16 bits, as two bytes under one scale of a head's 32
// keys. So a step of 32 keys of 128 numbers takes about 240 instructions, a third of what widening takes.
// Bound: bytes of keys and values, each read once.
#include "kernels/cuda/paged_bulk.cuh"

namespace shadowkv::cuda {

inline constexpr int kLowSteps = 254;  // of a query's low part to a step of the high one
inline constexpr float kMostWeight = 65535.0f;
inline constexpr float kLeastPeak = 1e-33f;  // smaller weights count as 0: their inverse would overflow

namespace {

constexpr int kFour = 4;  // query heads of a product

// c = a b or c += a b, bytes: a [16, 32] signed and b [32, 8] signed or not, c [16, 8] int32.
// With lane = 4 g + t, registers hold: a[0] (g, 4t..4t + 3), a[1] (g + 8, likewise), a[2] (g, 4t + 16..),
// a[3] (g + 8, likewise); b[0] (4t.., g), b[1] (4t + 16.., g); c[0..1] (g, 2t..), c[2..3] (g + 8, 2t..).
[[maybe_unused]] __device__ inline void mma_bytes(int (&c)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
[[maybe_unused]] __device__ inline void mma_unsigned(int (&c)[4], const uint32_t (&a)[4],
                                                     const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%10,%10,%10};\n"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(0));
}

// Row i of the result has byte i of the four words.
[[maybe_unused]] __device__ inline void transpose_4x4(uint32_t (&out)[4], const uint32_t (&rows)[4]) {
  const uint32_t low[2] = {__byte_perm(rows[0], rows[1], 0x5140), __byte_perm(rows[2], rows[3], 0x5140)};
  const uint32_t high[2] = {__byte_perm(rows[0], rows[1], 0x7362), __byte_perm(rows[2], rows[3], 0x7362)};
  out[0] = __byte_perm(low[0], low[1], 0x5410), out[1] = __byte_perm(low[0], low[1], 0x7632);
  out[2] = __byte_perm(high[0], high[1], 0x5410), out[3] = __byte_perm(high[0], high[1], 0x7632);
}

// ---- a warp's attention -----------------------------------------------------------------------------------

// kFours: fours of query heads. With lane = 4 g + t, a lane has scores, weights and sums of heads 4 e + t, of
// keys in rows g + 8 r.
template <int kHeadDim, int kFours>
class Int8Attention {
 public:
  static constexpr int kDim = kHeadDim;
  using Step = BulkStep<32, kHeadDim, true>;

  __device__ Int8Attention() {
#pragma unroll
    for (float& reference : most_) reference = kNothing;
  }

  // queries: [heads, kDim] of the KV head; scale: of scores, to base 2.
  __device__ void load_queries(const Bf16* queries, int heads, float scale) {
#pragma unroll
    for (int e = 0; e < kFours; ++e) {
      const int head = kFour * e + g_ / 2;
      const bool exists = head < heads;
      float peak = 0.0f;
#pragma unroll
      for (int w = 0; w < kKeyWords; ++w) {
        const float4 x = numbers_of(queries + head * kDim, w, exists);
        peak = fmaxf(peak, fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w))));
      }
      peak = warp_reduce<4>(peak, Max{});
      const float inverse = peak > kLeastPeak ? 127.0f / peak : 0.0f;
#pragma unroll
      for (int w = 0; w < 2 * kSteps; ++w)
        queries_[w / 2][e][w % 2] =
            w < kKeyWords ? codes_of(numbers_of(queries + head * kDim, w, exists), inverse) : 0u;
      // Lanes 8 t .. have head 4 e + t.
      factor_[e] = __shfl_sync(kAllLanes, peak, 8 * t_) * scale / (127.0f * kLowSteps);
    }
  }

  // scores_[e][r]: -infinity past the last key.
  __device__ void score(const std::byte* keys, int last) {
    const Scales scales(keys + Step::kPieces * Step::kPieceStride, g_);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t words[2][2 * kSteps];
#pragma unroll
      for (int n = 0; n < 2; ++n) load_key(words[n], keys + Step::offset_of_row(g_, 2 * half + n));
      int products[kFours][4] = {};
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const uint32_t key[4] = {words[0][2 * s], words[1][2 * s], words[0][2 * s + 1], words[1][2 * s + 1]};
#pragma unroll
        for (int e = 0; e < kFours; ++e) mma_bytes(products[e], key, queries_[s][e]);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int r = 2 * half + n;
        const bool exists = Step::key_of_row(g_, r) <= last;
        const float scale = scales.of(r);
#pragma unroll
        for (int e = 0; e < kFours; ++e) {
          const int product = products[e][2 * n + 1] * kLowSteps + products[e][2 * n];
          scores_[e][r] = exists ? static_cast<float>(product) * (factor_[e] * scale) : kNothing;
        }
      }
    }
  }

  // Scores to weights, exp2(score - most_). A head's reference follows its largest score only where that is
  // more than kSlack above: then weights stay finite, and most steps need not find the largest.
  __device__ void soften() {
    bool grew = false;
#pragma unroll
    for (int e = 0; e < kFours; ++e) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) grew = grew || scores_[e][r] > most_[e] + kSlack;
    }
    if (__any_sync(kAllLanes, grew)) grow();
#pragma unroll
    for (int e = 0; e < kFours; ++e) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        scores_[e][r] = exp2_fast(scores_[e][r] - most_[e]);
        total_[e] += scores_[e][r];
      }
    }
  }

  __device__ void add_values(const std::byte* values, int last) {
    uint32_t weights[kFours][2];
    float step[kFours];
    round_weights(values + Step::kPieces * Step::kPieceStride, last, weights, step);
    uint32_t words[2][kRows][kValueWords];  // of rows 2 t and 2 t + 1
#pragma unroll
    for (int i = 0; i < 2 * kRows; ++i) {
      const std::byte* row = values + Step::offset_of_row(2 * t_ + i % 2, i / 2) + g_ * kValueWidth;
#pragma unroll
      for (int j = 0; j < kValueLoads; ++j) {
        uint32_t* to = words[i % 2][i / 2] + j * (kValueWidth / 4);
        if (holds_value(j * kValueWidth))
          load_words<kValueWidth>(to, row + j * 8 * kValueWidth);
        else
          *to = 0;
      }
    }
#pragma unroll
    for (int w = 0; w < kValueWords; ++w) {
      uint32_t first[4], second[4];  // keys in rows 2 t.. of r = 0, 1 and of 2, 3: a word a number
      transpose_4x4(first, {words[0][0][w], words[0][1][w], words[1][0][w], words[1][1][w]});
      transpose_4x4(second, {words[0][2][w], words[0][3][w], words[1][2][w], words[1][3][w]});
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t value[4] = {first[2 * i], first[2 * i + 1], second[2 * i], second[2 * i + 1]};
#pragma unroll
        for (int e = 0; e < kFours; ++e) {
          int products[4];
          mma_unsigned(products, value, weights[e]);
#pragma unroll
          for (int n = 0; n < 2; ++n)
            sums_[2 * w + i][e][n] +=
                static_cast<float>(products[2 * n + 1] * 256 + products[2 * n]) * step[e];
        }
      }
    }
  }

  __device__ void leave(const Shared<kDim>& shared, int heads) const {
#pragma unroll
    for (int e = 0; e < kFours; ++e) {
      const float total = over_keys(total_[e], Sum{});
      const int head = kFour * e + t_;
      if (head >= heads) continue;
      const int row = static_cast<int>(threadIdx.x) / kWarp * heads + head;
      if (g_ == 0) {
        shared.most[row] = most_[e];
        shared.total[row] = total;
      }
#pragma unroll
      for (int i = 0; i < 4 * kValueWords; ++i) {
        if (holds_value(i)) shared.sums[row * kDim + value_number(i)] = sums_[i / 2][e][i % 2];
      }
    }
  }

 private:
  // Which number of a row a lane brings is free as long as queries and sums are permuted alike: of keys, four
  // lanes t bring a row, of values eight lanes g, up to 16 bytes at a time. Where eight lanes do not divide a
  // value, the last of them bring zeros at the end.
  static constexpr int kKeyWidth = widest(kHeadDim, 4, 4);
  static constexpr int kKeyLoads = kHeadDim / (4 * kKeyWidth);
  static constexpr int kKeyWords = kHeadDim / 16;
  static constexpr int kSteps = ceil_div(kKeyWords, 2);  // products of 32 numbers along a key
  static constexpr int kValueWidth = widest(kHeadDim, 8, 4);
  static constexpr int kValueLoads = ceil_div(kHeadDim, 8 * kValueWidth);
  static constexpr int kValueWords = ceil_div(kHeadDim, 32);
  static constexpr int kRows = Step::kKeys / 8;  // keys of a lane
  static_assert(kKeyLoads * 4 * kKeyWidth == kHeadDim);

  // The scales of a piece, of which a lane needs every other one.
  class Scales {
   public:
    __device__ Scales(const std::byte* scales, int g) : half_(g % 2 == 0 ? 0x1044u : 0x3244u) {
      load_words<16>(pairs_, scales + Step::piece_of_row(g) * Step::kPieceKeys * int{sizeof(Bf16)});
    }
    [[nodiscard]] __device__ float of(int r) const {
      return __uint_as_float(__byte_perm(pairs_[r], 0u, half_));
    }

   private:
    uint32_t half_;
    uint32_t pairs_[4];
  };

  // Numbers of word w of what this lane brings of a key.
  [[nodiscard]] __device__ float4 numbers_of(const Bf16* query, int w, bool exists) const {
    const int byte = 4 * w;
    const int first = byte / kKeyWidth * 4 * kKeyWidth + t_ * kKeyWidth + byte % kKeyWidth;
    const uint2 pairs = exists ? *reinterpret_cast<const uint2*>(query + first) : make_uint2(0u, 0u);
    return make_float4(low_of(pairs.x), high_of(pairs.x), low_of(pairs.y), high_of(pairs.y));
  }

  // This lane's part, low or high, of four numbers: number * inverse = high + low / kLowSteps.
  [[nodiscard]] __device__ uint32_t codes_of(float4 x, float inverse) const {
    const float numbers[4] = {x.x * inverse, x.y * inverse, x.z * inverse, x.w * inverse};
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float high = rintf(numbers[i]);
      const int code = __float2int_rn(g_ % 2 == 1 ? high : (numbers[i] - high) * kLowSteps);
      word |= (static_cast<uint32_t>(code) & 0xffu) << (8 * i);
    }
    return word;
  }

  static __device__ void load_key(uint32_t (&words)[2 * kSteps], const std::byte* row) {
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int i = 0; i < kKeyLoads; ++i)
      load_words<kKeyWidth>(words + i * (kKeyWidth / 4), row + (4 * i + t) * kKeyWidth);
    if constexpr (kKeyWords % 2 != 0) words[kKeyWords] = 0;
  }

  // Number that byte i of what this lane brings of a value stands for.
  [[nodiscard]] __device__ int value_number(int i) const {
    return i / kValueWidth * 8 * kValueWidth + g_ * kValueWidth + i % kValueWidth;
  }
  // Whether there is such a number.
  [[nodiscard]] __device__ bool holds_value(int i) const {
    return kHeadDim % 32 == 0 || value_number(i) < kHeadDim;
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
    for (int e = 0; e < kFours; ++e) {
      float peak = most_[e];
#pragma unroll
      for (int r = 0; r < kRows; ++r) peak = fmaxf(peak, scores_[e][r]);
      peak = over_keys(peak, Max{});
      const float factor = exp2_fast(most_[e] - peak);
      most_[e] = peak;
      total_[e] *= factor;
#pragma unroll
      for (int tile = 0; tile < 2 * kValueWords; ++tile)
        sums_[tile][e][0] *= factor, sums_[tile][e][1] *= factor;
    }
  }

  // weights[e]: of head 4 e + g / 2, low or high bytes, in the order of values' words; times step[e], of head
  // 4 e + t.
  __device__ void round_weights(const std::byte* scales, int last, uint32_t (&weights)[kFours][2],
                                float (&step)[kFours]) {
    const Scales scale(scales, g_);
#pragma unroll
    for (int e = 0; e < kFours; ++e) {
      float peak = 0.0f;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        scores_[e][r] *= Step::key_of_row(g_, r) <= last ? scale.of(r) : 0.0f;
        peak = fmaxf(peak, scores_[e][r]);
      }
      peak = over_keys(peak, Max{});
      const float inverse = peak > kLeastPeak ? __fdividef(kMostWeight, peak) : 0.0f;
      step[e] = peak > kLeastPeak ? peak * (1.0f / kMostWeight) : 0.0f;
      uint32_t rounded[kRows];  // in the low 16 bits
#pragma unroll
      for (int r = 0; r < kRows; ++r) rounded[r] = __float_as_uint(fmaf(scores_[e][r], inverse, 8388608.0f));
#pragma unroll
      for (int i = 0; i < 2; ++i)
        weights[e][i] = transpose_8x8(__byte_perm(rounded[2 * i], rounded[2 * i + 1], 0x5140));
    }
  }

  const int g_ = static_cast<int>(threadIdx.x) % kWarp / 4;
  const int t_ = static_cast<int>(threadIdx.x) % 4;
  uint32_t queries_[kSteps][kFours][2];
  float factor_[kFours];                         // of products, to scores
  float most_[kFours];                           // references of weights
  float total_[kFours] = {};                     // this lane's part
  float scores_[kFours][kRows];                  // then weights
  float sums_[2 * kValueWords][kFours][2] = {};  // of bytes 2 i and 2 i + 1 of what a lane brings of a value
};

// ---- launching --------------------------------------------------------------------------------------------

// Blocks of keys, values and scales hold the same tokens, steps of them contiguous and aligned.
bool has_layout(const PagedAttentionParams& params) {
  if (!has_whole_groups(params, DType::i8)) return false;
  const int64_t block_tokens = params.keys.data.block_tokens;
  for (const PagedView* view :
       {&params.keys.data, &params.values.data, &params.keys.scales, &params.values.scales}) {
    if (view->block_tokens != block_tokens || block_tokens % 32 != 0) return false;
    if (view->offset % 16 != 0 || view->head_offset % 16 != 0) return false;
  }
  return params.keys.scales.token_bytes == sizeof(Bf16) && params.values.scales.token_bytes == sizeof(Bf16);
}

template <int kDim>
PartKernel prepare_for(int64_t heads) {
  if (heads <= kFour) return prepare_bulk<Int8Attention<kDim, 1>>(heads);
  if (heads <= 2 * kFour) return prepare_bulk<Int8Attention<kDim, 2>>(heads);
  return prepare_bulk<Int8Attention<kDim, 4>>(heads);
}

}  // namespace

PartKernel find_bulk_int8_kernel(const PagedAttentionParams& params) {
  if (!has_layout(params)) return {};
  const int64_t heads = params.q.shape[1] / params.kv_heads;
  switch (params.q.shape[2]) {
    case 32:
      return prepare_for<32>(heads);
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
