// Up to 16 query heads of one KV head against rows of bfloat16 keys, on tensor cores, straight from memory to
// registers. A dot product does not mind the order of its terms, so the numbers of a head are dealt out such
// that each lane's operands lie side by side: with lane = 4 g + t, lane t of a row holds numbers 8 t .. 8 t +
// 7 of each 32, and of a last 16 numbers 4 t .. 4 t + 3.
#pragma once

#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {

inline constexpr int kTileHeads = 16;
inline constexpr float kLog2e = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;
inline constexpr float kMinusInfinity = -__builtin_huge_valf();

// 2^x to 2 ulp; numbers below 2^-126 become 0. exp2f would spend three more instructions on those.
__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// One lane's part of a row of kDim bfloat16 numbers; the row is 16-byte aligned.
template <int kDim>
struct KeyPart {
  static_assert(kDim % 16 == 0);
  static constexpr int kWide = kDim / 32;
  static constexpr bool kTail = kDim % 32 != 0;
  uint4 wide[kWide > 0 ? kWide : 1];
  uint2 tail;

  // at(byte): where a byte of the row lies, pieces of 16 bytes in one place.
  template <typename At>
  __device__ void load(const At& at, int t) {
#pragma unroll
    for (int i = 0; i < kWide; ++i) wide[i] = *reinterpret_cast<const uint4*>(at(64 * i + 16 * t));
    if constexpr (kTail) tail = *reinterpret_cast<const uint2*>(at(64 * kWide + 8 * t));
  }
  // Zeros where `valid` is false; the row is then not read.
  __device__ void load(const std::byte* row, int t, bool valid) {
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      wide[i] = valid ? *reinterpret_cast<const uint4*>(row + 64 * i + 16 * t) : make_uint4(0, 0, 0, 0);
    }
    if constexpr (kTail) {
      tail = valid ? *reinterpret_cast<const uint2*>(row + 64 * kWide + 8 * t) : make_uint2(0, 0);
    }
  }
};

template <int kDim>
class QueryTile {
 public:
  // q: [heads, kDim] of one KV head; heads beyond `heads` are zeros. All lanes of a warp take part.
  __device__ void load(const Bf16* q, int heads) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
    KeyPart<kDim> low, high;
    low.load(reinterpret_cast<const std::byte*>(q + g * kDim), t, g < heads);
    high.load(reinterpret_cast<const std::byte*>(q + (g + 8) * kDim), t, g + 8 < heads);
#pragma unroll
    for (int i = 0; i < KeyPart<kDim>::kWide; ++i) {
      set(2 * i, low.wide[i].x, high.wide[i].x, low.wide[i].y, high.wide[i].y);
      set(2 * i + 1, low.wide[i].z, high.wide[i].z, low.wide[i].w, high.wide[i].w);
    }
    if constexpr (KeyPart<kDim>::kTail) set(kSteps - 1, low.tail.x, high.tail.x, low.tail.y, high.tail.y);
  }

  // products[0..1] = head g with keys 2 t, 2 t + 1; products[2..3] = head g + 8 with them. `key`: key g of 8.
  __device__ void multiply(const KeyPart<kDim>& key, float (&products)[4]) const {
#pragma unroll
    for (float& x : products) x = 0.0f;
#pragma unroll
    for (int i = 0; i < KeyPart<kDim>::kWide; ++i) {
      const uint32_t first[2] = {key.wide[i].x, key.wide[i].y}, second[2] = {key.wide[i].z, key.wide[i].w};
      mma_16x8x16(products, a_[2 * i], first);
      mma_16x8x16(products, a_[2 * i + 1], second);
    }
    if constexpr (KeyPart<kDim>::kTail) {
      const uint32_t last[2] = {key.tail.x, key.tail.y};
      mma_16x8x16(products, a_[kSteps - 1], last);
    }
  }

 private:
  static constexpr int kSteps = kDim / 16;

  __device__ void set(int step, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3) {
    a_[step][0] = a0, a_[step][1] = a1, a_[step][2] = a2, a_[step][3] = a3;
  }

  uint32_t a_[kSteps][4];
};

// Calls body with std::integral_constant<int, head_dim> where tensor-core kernels exist for it; false where
// not.
template <int kDim>
struct HeadDim {
  static constexpr int value = kDim;
};
template <typename Body>
bool with_head_dim(int64_t head_dim, const Body& body) {
  switch (head_dim) {
    case 16:
      return body(HeadDim<16>()), true;
    case 32:
      return body(HeadDim<32>()), true;
    case 64:
      return body(HeadDim<64>()), true;
    case 80:
      return body(HeadDim<80>()), true;
    case 96:
      return body(HeadDim<96>()), true;
    case 128:
      return body(HeadDim<128>()), true;
    case 256:
      return body(HeadDim<256>()), true;
    default:
      return false;
  }
}

// Any head_dim up to 256, number by number: lane i of a warp holds numbers i, i + 32, ..
inline constexpr int kLaneNumbers = 8;
inline constexpr int kMostHeadDim = kLaneNumbers * kWarp;

inline void demand_activations(const TensorView& x, const char* op) {
  demand(x.dtype == DType::bf16, op, "activations must be bfloat16 on a GPU");
}
inline void demand_head_dim(int64_t head_dim, const char* op) {
  demand(head_dim <= kMostHeadDim, op,
         "heads of more than 256 numbers have no kernel; use a smaller head_dim");
}

// Dot product of two rows by one warp; every lane gets it.
template <typename ReadA, typename ReadB>
__device__ inline float warp_dot(int head_dim, const ReadA& a, const ReadB& b) {
  float sum = 0.0f;
  for (int i = threadIdx.x % kWarp; i < head_dim; i += kWarp) sum += a(i) * b(i);
  return warp_reduce(sum, Sum());
}

}  // namespace shadowkv::cuda
