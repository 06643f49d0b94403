// Rows of stored numbers as floats and back, and loops over independent pieces of work.
#pragma once

#include <cmath>
#include <cstring>

#include "base/device.h"
#include "base/dtype.h"
#include "kernels/cpu/lanes.h"
#include "kernels/views.h"

namespace shadowkv::cpu {

// Calls body with a row's address as that of float or bf16.
template <typename Body>
SHADOWKV_INLINE void with_numbers(const std::byte* row, DType dtype, const Body& body) {
  dtype == DType::f32 ? body(reinterpret_cast<const float*>(row)) : body(reinterpret_cast<const bf16*>(row));
}

// n numbers of float32 or bfloat16.
SHADOWKV_INLINE void read_row(const std::byte* from, DType dtype, int64_t n, float* to) {
  if (dtype == DType::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  const auto* source = reinterpret_cast<const uint16_t*>(from);
  for (int64_t i = 0; i < n; ++i) to[i] = std::bit_cast<float>(static_cast<uint32_t>(source[i]) << 16);
}

SHADOWKV_INLINE void write_row(const float* from, int64_t n, DType dtype, std::byte* to) {
  if (dtype == DType::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  auto* target = reinterpret_cast<bf16*>(to);
  for (int64_t i = 0; i < n; ++i) target[i] = bf16(from[i]);
}

// Into the cache, ahead of their use: rows that are chosen lie far from each other.
SHADOWKV_INLINE void fetch_ahead(const std::byte* from, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(from + i);
}

// Codes of an int8 row with their scale.
SHADOWKV_INLINE void read_codes(const std::byte* from, float scale, int64_t n, float* to) {
  const auto* codes = reinterpret_cast<const int8_t*>(from);
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(codes[i]) * scale;
}

SHADOWKV_INLINE float read_scale(const PagedView& scales, int64_t row, int64_t head, int64_t token) {
  return static_cast<float>(*reinterpret_cast<const bf16*>(scales.at(row, head, token)));
}

SHADOWKV_INLINE void read_quantized(const QuantizedView& from, int64_t row, int64_t head, int64_t token,
                                    int64_t n, float* to) {
  const std::byte* data = from.data.at(row, head, token);
  if (from.data.dtype == DType::i8) {
    read_codes(data, read_scale(from.scales, row, head, token), n, to);
  } else {
    read_row(data, from.data.dtype, n, to);
  }
}

// Calls body(i) for i in [0, count): on the device's threads, or here when `count` pieces of about `cost`
// nanoseconds are too little to be worth waking them.
template <typename Body>
void for_pieces(Queue& queue, int64_t count, int64_t cost, const Body& body) {
  constexpr int64_t kWorthThreads = 12'000;  // nanoseconds; waking and joining take 10 to 20 thousand
  if (count <= 1 || count * cost < kWorthThreads) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  queue.device().threads().for_each(count, [&body](int64_t i) { body(i); });
}

}  // namespace shadowkv::cpu
