// The loops behind simd.h, included by one translation unit an instruction set. Internal linkage throughout,
// and no calls of inline functions or templates from elsewhere: the linker could keep this unit's copy of
// one.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/cpu/vector16.h"

namespace shadowkv::cpu {
namespace {

// ---- rows -------------------------------------------------------------------------------------------------

template <typename Function>
inline void for_vectors(int64_t n, Function function) {
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) function(i);
}

inline int64_t whole_lanes(int64_t n) {
  return n / kLanes * kLanes;
}

template <typename W>
float dot_row(const float* a, const W* b, int64_t n) {
  Lanes sums = zero();
  for_vectors(n, [&](int64_t i) { sums = multiply_add(load(a + i), load(b + i), sums); });
  const int64_t done = whole_lanes(n);
  if (done < n) sums = multiply_add(load(a + done, n - done), load(b + done, n - done), sums);
  return sum(sums);
}

float dot(const float* a, const float* b, int64_t n) {
  return dot_row(a, b, n);
}

// y = function(x) over n numbers.
template <typename Function>
inline void transform(const float* x, float* y, int64_t n, Function function) {
  for_vectors(n, [&](int64_t i) { store(y + i, function(load(x + i))); });
  const int64_t done = whole_lanes(n);
  if (done < n) store(y + done, function(load(x + done, n - done)), n - done);
}

// y = function(a, b) over n numbers.
template <typename Function>
inline void transform(const float* a, const float* b, float* y, int64_t n, Function function) {
  for_vectors(n, [&](int64_t i) { store(y + i, function(load(a + i), load(b + i))); });
  const int64_t done = whole_lanes(n);
  const int64_t rest = n - done;
  if (rest > 0) store(y + done, function(load(a + done, rest), load(b + done, rest)), rest);
}

void axpy(float alpha, const float* x, float* y, int64_t n) {
  transform(x, y, y, n, [=](Lanes a, Lanes b) { return multiply_add(all(alpha), a, b); });
}

void scale(float alpha, float* y, int64_t n) {
  transform(y, y, n, [=](Lanes v) { return multiply(v, all(alpha)); });
}

float max(const float* x, int64_t n) {
  const Lanes least = all(-__builtin_inff());
  Lanes most = least;
  for_vectors(n, [&](int64_t i) { most = greater(load(x + i), most); });
  const int64_t done = whole_lanes(n);
  if (done < n) most = greater(first(load(x + done, n - done), n - done, least), most);
  return greatest(most);
}

float max_abs(const float* x, int64_t n) {
  Lanes most = zero();
  for_vectors(n, [&](int64_t i) { most = greater(magnitude(load(x + i)), most); });
  const int64_t done = whole_lanes(n);
  if (done < n) most = greater(magnitude(load(x + done, n - done)), most);
  return greatest(most);
}

float exp_sum(const float* x, float shift, float* out, int64_t n) {
  Lanes sums = zero();
  for_vectors(n, [&](int64_t i) {
    const Lanes e = exponential(subtract(load(x + i), all(shift)));
    store(out + i, e);
    sums = add(sums, e);
  });
  const int64_t done = whole_lanes(n);
  const int64_t rest = n - done;
  if (rest > 0) {
    const Lanes e = exponential(subtract(load(x + done, rest), all(shift)));
    store(out + done, e, rest);
    sums = add(sums, first(e, rest, zero()));
  }
  return sum(sums);
}

template <typename T>
void widen_row(const T* from, float factor, float* out, int64_t n) {
  for_vectors(n, [&](int64_t i) { store(out + i, multiply(load(from + i), all(factor))); });
  const int64_t done = whole_lanes(n);
  if (done < n) store(out + done, multiply(load(from + done, n - done), all(factor)), n - done);
}

void widen(const std::byte* from, DType dtype, float factor, float* out, int64_t n) {
  if (dtype == DType::f32) return widen_row(reinterpret_cast<const float*>(from), factor, out, n);
  if (dtype == DType::bf16) return widen_row(reinterpret_cast<const bf16*>(from), factor, out, n);
  widen_row(reinterpret_cast<const int8_t*>(from), factor, out, n);
}

void round_bf16(const float* x, bf16* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    const uint32_t nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    out[i].bits = static_cast<uint16_t>(nan ? (bits >> 16) | 0x40u : rounded);
  }
}

void quantize(const float* x, float inverse_scale, int8_t* codes, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t count = n - i < kLanes ? n - i : kLanes;
    const Lanes numbers = count < kLanes ? load(x + i, count) : load(x + i);
    const Lanes scaled = greater(multiply(numbers, all(inverse_scale)), all(-127.0f));
    float whole[kLanes];
    store(whole, nearest(lesser(scaled, all(127.0f))));
    for (int64_t lane = 0; lane < count; ++lane) codes[i + lane] = static_cast<int8_t>(whole[lane]);
  }
}

template <typename T>
void widen_rows_of(const RowsView& from, const float* scales, int64_t rows, int64_t n, float* out,
                   int64_t out_stride) {
  constexpr int64_t kAhead = 16;  // rows
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = reinterpret_cast<const T*>(from.data + r * from.stride);
    const Lanes factor = all(scales != nullptr ? scales[r] : 1.0f);
    float* to = out + r * out_stride;
    for_vectors(n, [&](int64_t i) {
      __builtin_prefetch(from.data + (r + kAhead) * from.stride + i * static_cast<int64_t>(sizeof(T)));
      store(to + i, multiply(load(row + i), factor));
    });
    const int64_t done = whole_lanes(n);
    if (done < n) store(to + done, multiply(load(row + done, n - done), factor));
  }
}

void widen_rows(const RowsView& from, const float* scales, int64_t rows, int64_t n, float* out,
                int64_t out_stride) {
  if (from.dtype == DType::f32) return widen_rows_of<float>(from, scales, rows, n, out, out_stride);
  if (from.dtype == DType::bf16) return widen_rows_of<bf16>(from, scales, rows, n, out, out_stride);
  widen_rows_of<int8_t>(from, scales, rows, n, out, out_stride);
}

void rms_norm(const float* x, const float* weight, float eps, float* out, int64_t n) {
  const float mean = dot_row(x, x, n) / static_cast<float>(n);
  const Lanes inverse = all(1.0f / __builtin_sqrtf(mean + eps));
  transform(x, weight, out, n, [=](Lanes v, Lanes w) { return multiply(multiply(v, inverse), w); });
}

void silu_mul(const float* gate, const float* up, float* out, int64_t n) {
  transform(gate, up, out, n, [](Lanes g, Lanes u) {
    const Lanes denominator = add(all(1.0f), exponential(subtract(zero(), g)));
    return multiply(divide(g, denominator), u);
  });
}

float softmax_step(float* scores, int64_t n, RunningSoftmax* running) {
  const float block = max(scores, n);
  const float most = block > running->max ? block : running->max;
  float factor[kLanes];
  store(factor, exponential(all(running->max - most)));
  const float block_sum = exp_sum(scores, most, scores, n);
  running->sum = running->sum * factor[0] + block_sum;
  running->max = most;
  return factor[0];
}

// ---- dot products of rows with rows -----------------------------------------------------------------------

// kRows rows of x with four rows of w, whose distance is w_stride numbers.
template <int kRows, typename W>
void dot_tile(const DotBlock& block, int64_t row, const W* w, int64_t w_stride, int64_t output) {
  const float* x = block.x + row * block.x_stride;
  Lanes sums[kRows][4];
  for (auto& row_sums : sums) {
    for (Lanes& one : row_sums) one = zero();
  }
  const auto accumulate = [&](const auto& load_x, const auto& load_w) {
    const Lanes w0 = load_w(w);
    const Lanes w1 = load_w(w + w_stride);
    const Lanes w2 = load_w(w + 2 * w_stride);
    const Lanes w3 = load_w(w + 3 * w_stride);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Lanes a = load_x(x + r * block.x_stride);
      sums[r][0] = multiply_add(a, w0, sums[r][0]);
      sums[r][1] = multiply_add(a, w1, sums[r][1]);
      sums[r][2] = multiply_add(a, w2, sums[r][2]);
      sums[r][3] = multiply_add(a, w3, sums[r][3]);
    }
  };
  int64_t i = 0;
  const bool first_use = row == 0;  // of these weights; the next four rows are fetched meanwhile
  for (; i + kLanes <= block.k; i += kLanes) {
    if (first_use) {
      for (int o = 4; o < 8; ++o) __builtin_prefetch(w + o * w_stride + i);
    }
    const auto whole = [=](const auto* p) { return load(p + i); };
    accumulate(whole, whole);
  }
  if (i < block.k) {
    const auto part = [=, n = block.k - i](const auto* p) { return load(p + i, n); };
    accumulate(part, part);
  }
  for (int r = 0; r < kRows; ++r) {
    float four[4];
    sum4(sums[r][0], sums[r][1], sums[r][2], sums[r][3], four);
    float* out = block.out + (row + r) * block.out_stride + output;
    for (int o = 0; o < 4; ++o) out[o] = block.add ? out[o] + four[o] : four[o];
  }
}

template <int kRows, typename W>
void dot_tile_of(int64_t rows, const DotBlock& block, int64_t row, const W* w, int64_t w_stride,
                 int64_t output) {
  if (rows >= kRows) return dot_tile<kRows>(block, row, w, w_stride, output);
  if constexpr (kRows > 1) dot_tile_of<kRows - 1>(rows, block, row, w, w_stride, output);
}

template <typename W>
void dot_block_of(const DotBlock& block) {
  const int64_t w_stride = block.w.stride / static_cast<int64_t>(sizeof(W));
  const W* w = reinterpret_cast<const W*>(block.w.data);
  int64_t output = 0;
  for (; output + 4 <= block.outputs; output += 4) {
    for (int64_t row = 0; row < block.rows; row += kDotRows) {
      dot_tile_of<kDotRows>(block.rows - row, block, row, w + output * w_stride, w_stride, output);
    }
  }
  for (; output < block.outputs; ++output) {
    for (int64_t row = 0; row < block.rows; ++row) {
      float* out = block.out + row * block.out_stride + output;
      const float product = dot_row(block.x + row * block.x_stride, w + output * w_stride, block.k);
      *out = block.add ? *out + product : product;
    }
  }
}

void dot_block(const DotBlock& block) {
  if (block.w.dtype == DType::f32) return dot_block_of<float>(block);
  if (block.w.dtype == DType::bf16) return dot_block_of<bf16>(block);
  dot_block_of<int8_t>(block);
}

// ---- products along rows of b -----------------------------------------------------------------------------

template <int kRows, int kVectors>
void outer_tile(const OuterBlock& block, int64_t row, int64_t column) {
  const float* a = block.a + row * block.a_stride;
  const float* b = block.b + column;
  float* c = block.c + row * block.c_stride + column;
  Lanes sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = block.add ? load(c + r * block.c_stride + v * kLanes) : zero();
    }
  }
  for (int64_t k = 0; k < block.k; ++k) {
    Lanes right[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + k * block.b_stride + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Lanes left = all(a[r * block.a_stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] = multiply_add(left, right[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(c + r * block.c_stride + v * kLanes, sums[r][v]);
  }
}

template <int kRows, int kVectors>
void outer_tile_of(int64_t rows, const OuterBlock& block, int64_t row, int64_t column) {
  if (rows >= kRows) return outer_tile<kRows, kVectors>(block, row, column);
  if constexpr (kRows > 1) outer_tile_of<kRows - 1, kVectors>(rows, block, row, column);
}

template <int kVectors>
void outer_columns(const OuterBlock& block, int64_t column) {
  if constexpr (kVectors > 1) {
    if (block.columns - column < kVectors * kLanes) return outer_columns<kVectors - 1>(block, column);
  }
  for (int64_t row = 0; row < block.rows; row += kOuterRows) {
    outer_tile_of<kOuterRows, kVectors>(block.rows - row, block, row, column);
  }
}

void outer_block(const OuterBlock& block) {
  for (int64_t column = 0; column < block.columns; column += kOuterVectors * kLanes) {
    outer_columns<kOuterVectors>(block, column);
  }
}

// ---- transpose --------------------------------------------------------------------------------------------

void transpose(const float* x, int64_t x_stride, int64_t rows, int64_t n, float* out, int64_t out_stride) {
  constexpr int64_t kTile = 4;
  int64_t r = 0;
  for (; r + kTile <= rows; r += kTile) {
    int64_t i = 0;
#if defined(__SSE__)
    for (; i + kTile <= n; i += kTile) {
      const float* from = x + r * x_stride + i;
      float* to = out + i * out_stride + r;
      using Quad [[gnu::vector_size(16), gnu::aligned(4)]] = float;
      const Quad a = *reinterpret_cast<const Quad*>(from);
      const Quad b = *reinterpret_cast<const Quad*>(from + x_stride);
      const Quad c = *reinterpret_cast<const Quad*>(from + 2 * x_stride);
      const Quad d = *reinterpret_cast<const Quad*>(from + 3 * x_stride);
      const Quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      const Quad ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const Quad cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      *reinterpret_cast<Quad*>(to) = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
      *reinterpret_cast<Quad*>(to + out_stride) = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
      *reinterpret_cast<Quad*>(to + 2 * out_stride) = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
      *reinterpret_cast<Quad*>(to + 3 * out_stride) = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
    }
#endif
    for (; i < n; ++i) {
      for (int64_t j = r; j < r + kTile; ++j) out[i * out_stride + j] = x[j * x_stride + i];
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = r; j < rows; ++j) out[i * out_stride + j] = x[j * x_stride + i];
    for (int64_t j = rows; j < out_stride; ++j) out[i * out_stride + j] = 0.0f;
  }
}

constexpr VectorOps kVectorOps = {
    .name = SHADOWKV_VECTOR_NAME,
    .dot = dot,
    .axpy = axpy,
    .scale = scale,
    .max = max,
    .max_abs = max_abs,
    .exp_sum = exp_sum,
    .widen = widen,
    .round_bf16 = round_bf16,
    .quantize = quantize,
    .rms_norm = rms_norm,
    .silu_mul = silu_mul,
    .dot_block = dot_block,
    .outer_block = outer_block,
    .widen_rows = widen_rows,
    .transpose = transpose,
    .softmax_step = softmax_step,
};

}  // namespace
}  // namespace shadowkv::cpu
