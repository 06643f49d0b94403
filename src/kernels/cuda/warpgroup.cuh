// Products of a warpgroup (four warps, whole and together) from tiles in shared memory: Hopper alone,
// compiled for sm_90a. Elsewhere nothing is declared and SHADOWKV_WARPGROUPS is 0.
#pragma once

#include "kernels/cuda/common.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define SHADOWKV_WARPGROUPS 1
#else
#define SHADOWKV_WARPGROUPS 0
#endif

namespace shadowkv::cuda {

inline constexpr int kWarpgroup = 4 * kWarp;
inline constexpr int kTileColumns = 64;  // bfloat16 numbers of a tile's row
inline constexpr int kTileRowBytes = kTileColumns * int{sizeof(Bf16)};
inline constexpr uint32_t kTileAlignment = 8 * kTileRowBytes;

#if SHADOWKV_WARPGROUPS
// A tile's rows of 128 bytes as the tensor copies' 128-byte swizzle leaves them; `address` is that of a row
// that is a multiple of 8 of a tile at a multiple of kTileAlignment. Sixteen columns on is 2 more.
__device__ inline uint64_t tile_at(uint32_t address) {
  constexpr uint64_t kEightRows = kTileAlignment / 16, kSwizzle128 = 1;
  return uint64_t{(address >> 4) & 0x3fff} | uint64_t{1} << 16 | kEightRows << 32 | kSwizzle128 << 62;
}

// Before the first product after the sums were written otherwise; then products; then finish_products(),
// after which sums may be read and tiles written.
__device__ inline void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ inline void send_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Waits until at most kLeft of what send_products() ended are still under way.
template <int kLeft>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kLeft) : "memory");
}
__device__ inline void finish_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n" ::: "memory");
}

// c += a b^T of a [64, 16] and b [kRows, 16], kRows 8, 16, 32 or 64. With lane = 4 g + t, warp w of the four
// holds in c[i]: (16 w + g, 8 i + 2 t..) and (16 w + g + 8, 8 i + 2 t..).
template <int kRows>
__device__ inline void multiply_tiles(float (*c)[4], uint64_t a, uint64_t b) {
#define SHADOWKV_SUMS(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
  if constexpr (kRows == 8) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;\n"
                 : SHADOWKV_SUMS(0)
                 : "l"(a), "l"(b));
  } else if constexpr (kRows == 16) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, 1, 1, 1, 0, "
        "0;\n"
        : SHADOWKV_SUMS(0), SHADOWKV_SUMS(1)
        : "l"(a), "l"(b));
  } else if constexpr (kRows == 32) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,"
        "%13,%14,%15}, %16, %17, 1, 1, 1, 0, 0;\n"
        : SHADOWKV_SUMS(0), SHADOWKV_SUMS(1), SHADOWKV_SUMS(2), SHADOWKV_SUMS(3)
        : "l"(a), "l"(b));
  } else {
    static_assert(kRows == 64);
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,"
        "%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, 1, 1, 1, 0, "
        "0;\n"
        : SHADOWKV_SUMS(0), SHADOWKV_SUMS(1), SHADOWKV_SUMS(2), SHADOWKV_SUMS(3), SHADOWKV_SUMS(4),
          SHADOWKV_SUMS(5), SHADOWKV_SUMS(6), SHADOWKV_SUMS(7)
        : "l"(a), "l"(b));
  }
#undef SHADOWKV_SUMS
}

// c += a b^T as multiply_tiles(), kRows 8, 16, 24, 32, 48 or 64, with a in registers: as mma_16x8x16() has
// it, warp w of the four with its rows 16 w on. What is in `a` must stay until the products have ended.
template <int kRows>
__device__ inline void multiply_held(float (&c)[kRows / 8][4], const uint32_t (&a)[4], uint64_t b) {
#define SHADOWKV_SUMS(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define SHADOWKV_HELD "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
  if constexpr (kRows == 8) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1, 1, 1, 0;\n"
        : SHADOWKV_SUMS(0)
        : SHADOWKV_HELD);
  } else if constexpr (kRows == 16) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11}, "
        "%12, 1, 1, 1, 0;\n"
        : SHADOWKV_SUMS(0), SHADOWKV_SUMS(1)
        : SHADOWKV_HELD);
  } else if constexpr (kRows == 24) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n24k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11}, "
        "{%12,%13,%14,%15}, %16, 1, 1, 1, 0;\n"
        : SHADOWKV_SUMS(0), SHADOWKV_SUMS(1), SHADOWKV_SUMS(2)
        : SHADOWKV_HELD);
  } else if constexpr (kRows == 32) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,"
        "%13,%14,%15}, {%16,%17,%18,%19}, %20, 1, 1, 1, 0;\n"
        : SHADOWKV_SUMS(0), SHADOWKV_SUMS(1), SHADOWKV_SUMS(2), SHADOWKV_SUMS(3)
        : SHADOWKV_HELD);
  } else if constexpr (kRows == 48) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,"
        "%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23}, {%24,%25,%26,%27}, %28, 1, 1, 1, 0;\n"
        : SHADOWKV_SUMS(0), SHADOWKV_SUMS(1), SHADOWKV_SUMS(2), SHADOWKV_SUMS(3), SHADOWKV_SUMS(4),
          SHADOWKV_SUMS(5)
        : SHADOWKV_HELD);
  } else {
    static_assert(kRows == 64);
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,"
        "%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, "
        "%36, 1, 1, 1, 0;\n"
        : SHADOWKV_SUMS(0), SHADOWKV_SUMS(1), SHADOWKV_SUMS(2), SHADOWKV_SUMS(3), SHADOWKV_SUMS(4),
          SHADOWKV_SUMS(5), SHADOWKV_SUMS(6), SHADOWKV_SUMS(7)
        : SHADOWKV_HELD);
  }
#undef SHADOWKV_HELD
#undef SHADOWKV_SUMS
}

// multiply_tiles() for a number of rows of b that is a multiple of 8.
template <int kRows>
__device__ inline void multiply_rows(float (&c)[kRows / 8][4], uint64_t a, uint64_t b) {
  constexpr int kRowWords = kTileRowBytes / 16;
  constexpr int k32 = kRows / 64 * 64, k16 = kRows / 32 * 32, k8 = kRows / 16 * 16;
#pragma unroll
  for (int row = 0; row < k32; row += 64) multiply_tiles<64>(c + row / 8, a, b + row * kRowWords);
  if constexpr (k32 < k16) multiply_tiles<32>(c + k32 / 8, a, b + k32 * kRowWords);
  if constexpr (k16 < k8) multiply_tiles<16>(c + k16 / 8, a, b + k16 * kRowWords);
  if constexpr (k8 < kRows) multiply_tiles<8>(c + k8 / 8, a, b + k8 * kRowWords);
}
#endif

}  // namespace shadowkv::cuda
