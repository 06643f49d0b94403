// What every CUDA twin shares on the device: 16-byte loads, conversions, reductions, tensor cores. launch.h
// has the host's part: stream_of(), check_launch(), demand(), grids.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/launch.h"

namespace shadowkv::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// ---- numbers ----------------------------------------------------------------------------------------------

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(Bf16 x) {
  return __bfloat162float(x);
}

template <typename T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline Bf16 from_float<Bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// The two bfloat16 numbers of a 32-bit word; `low` is the first in memory.
__device__ inline float low_of(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ inline float high_of(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}
__device__ inline uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Eight bfloat16 numbers as one 16-byte access; addresses must be 16-byte aligned.
struct alignas(16) Bf16x8 {
  uint4 words;

  __device__ static Bf16x8 load(const void* from) { return {*reinterpret_cast<const uint4*>(from)}; }
  // Read-only data that no kernel in flight writes, past the L1 cache: for streams read once.
  __device__ static Bf16x8 stream(const void* from) { return {__ldcs(reinterpret_cast<const uint4*>(from))}; }
  __device__ void store(void* to) const { *reinterpret_cast<uint4*>(to) = words; }
  __device__ void to_floats(float (&x)[8]) const {
    x[0] = low_of(words.x), x[1] = high_of(words.x), x[2] = low_of(words.y), x[3] = high_of(words.y);
    x[4] = low_of(words.z), x[5] = high_of(words.z), x[6] = low_of(words.w), x[7] = high_of(words.w);
  }
  __device__ static Bf16x8 from_floats(const float (&x)[8]) {
    return {make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                       pack_bf16(x[6], x[7]))};
  }
};

// Number i of a row of float32 or bfloat16 numbers whose type is known at run time only.
__device__ inline float read_number(const std::byte* row, DType dtype, int64_t i) {
  return dtype == DType::f32 ? reinterpret_cast<const float*>(row)[i]
                             : __bfloat162float(reinterpret_cast<const Bf16*>(row)[i]);
}
__device__ inline void write_number(std::byte* row, DType dtype, int64_t i, float x) {
  if (dtype == DType::f32)
    reinterpret_cast<float*>(row)[i] = x;
  else
    reinterpret_cast<Bf16*>(row)[i] = __float2bfloat16_rn(x);
}

// Scale of an int8 row; 1 for other types.
__device__ inline float row_scale(const QuantizedView& view, int64_t row, int64_t head, int64_t token) {
  if (view.data.dtype != DType::i8) return 1.0f;
  return __bfloat162float(*reinterpret_cast<const Bf16*>(view.scales.at(row, head, token)));
}
// Number i of a stored row: `scale` is its row_scale().
__device__ inline float read_stored(const std::byte* data, DType dtype, float scale, int64_t i) {
  return dtype == DType::i8 ? static_cast<float>(reinterpret_cast<const int8_t*>(data)[i]) * scale
                            : read_number(data, dtype, i);
}

// Sine and cosine of position * inv_freq. The angle reaches 1e6 radians: it is reduced in float64, to half
// turns.
__device__ inline void turn_of(int64_t position, float inv_freq, float* sine, float* cosine) {
  constexpr double kHalfTurns = 0.31830988618379067154;  // 1 / pi
  double turns = static_cast<double>(position) * static_cast<double>(inv_freq) * kHalfTurns;
  turns -= 2.0 * rint(0.5 * turns);
  sincospif(static_cast<float>(turns), sine, cosine);
}

// ---- reductions -------------------------------------------------------------------------------------------

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// Over each aligned group of kLanes lanes; every lane gets the result. All lanes of the warp must take part.
template <int kLanes = kWarp, typename T, typename Op>
__device__ inline T warp_reduce(T x, Op op) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// Over a block of kThreads threads (a multiple of 32, at most 1024), in a fixed order; every thread gets the
// result. Every thread must call it; `shared` holds kThreads / 32 numbers and may be used again at once.
template <int kThreads, typename T, typename Op>
__device__ inline T block_reduce(T x, Op op, T* shared) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kThreads % kWarp == 0 && kWarps >= 1 && kWarps <= kWarp);
  x = warp_reduce(x, op);
  if constexpr (kWarps == 1) return x;
  __syncthreads();  // earlier readers of `shared` are done
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = shared[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) x = op(x, shared[i]);
  return x;
}

// ---- asynchronous copies to shared memory -----------------------------------------------------------------

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
// 16 bytes past the L1 cache; zeros where `valid` is false (the source is then not read).
__device__ inline void copy_async_16(void* to_shared, const void* from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to_shared)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
// The same for 4 bytes.
__device__ inline void copy_async_4(void* to_shared, const void* from, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(shared_address(to_shared)), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Waits until at most kLeft of this thread's latest groups are still under way.
template <int kLeft>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kLeft) : "memory");
}

// ---- tensor cores -----------------------------------------------------------------------------------------

// c += a b with a [16, 16] and b [16, 8] bfloat16, c [16, 8] float32 (mma.m16n8k16). With lane = 4 g + t, the
// registers hold: a[0] (g, 2t..), a[1] (g + 8, 2t..), a[2] (g, 2t + 8..), a[3] (g + 8, 2t + 8..) as (row,
// columns pair); b[0] (2t.., g), b[1] (2t + 8.., g) as (rows pair, column); c[0..1] (g, 2t..), c[2..3]
// (g + 8, 2t..).
__device__ inline void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices of 16-bit numbers from shared memory; lanes 8 i .. 8 i + 7 hold the 16-byte aligned
// addresses of the rows of matrix i. Lane 4 g + t gets of each matrix (g, 2t..), transposed (2t.., g).
__device__ inline void load_matrices(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

}  // namespace shadowkv::cuda
