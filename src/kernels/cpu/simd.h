// Vector loops of the CPU twins, compiled once per instruction set and chosen when the program starts.
//
// Every instruction set works on 16 lanes and in the same order, so a number's bits depend on its own inputs
// alone: never on how many rows, outputs or keys stand beside it in the call. (AVX2 and AVX-512 even agree
// with each other to the bit; the portable set multiplies and adds in two roundings.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "base/dtype.h"

namespace shadowkv::cpu {

inline constexpr int64_t kLanes = 16;

// Where the second operand's rows lie: rows of `dtype` (float32, bfloat16 or int8), `stride` bytes apart.
struct RowsView {
  const std::byte* data = nullptr;
  int64_t stride = 0;
  DType dtype = DType::f32;
};

// Dot products of every row of x with every row of w: out[r][o] = (out[r][o] +) sum over k of x[r][k] *
// w[o][k]. Strides of x and out are in floats.
struct DotBlock {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  RowsView w;
  int64_t outputs;
  int64_t k;
  float* out;
  int64_t out_stride;
  bool add;
};

// c[r][n] = (c[r][n] +) sum over k, one after the other, of a[r][k] * b[k][n]. b and c have rows of whole
// vectors: columns is a multiple of kLanes. Strides are in floats.
struct OuterBlock {
  const float* a;
  int64_t a_stride;
  int64_t rows;
  const float* b;
  int64_t b_stride;
  int64_t k;
  int64_t columns;
  float* c;
  int64_t c_stride;
  bool add;
};

// One row's running softmax: sum counts exp(score - max).
struct RunningSoftmax {
  float max;
  float sum;
};

struct VectorOps {
  const char* name;  // "avx512", "avx2" or "portable"

  // ---- rows of n numbers ----
  float (*dot)(const float* a, const float* b, int64_t n);
  void (*axpy)(float alpha, const float* x, float* y, int64_t n);  // y += alpha * x
  void (*scale)(float alpha, float* y, int64_t n);                 // y *= alpha
  float (*max)(const float* x, int64_t n);                         // -infinity when n is 0
  float (*max_abs)(const float* x, int64_t n);                     // 0 when n is 0
  float (*exp_sum)(const float* x, float shift, float* out,
                   int64_t n);  // out = exp(x - shift); returns the sum
  void (*widen)(const std::byte* from, DType dtype, float scale, float* out,
                int64_t n);                                  // out = scale * from
  void (*round_bf16)(const float* x, bf16* out, int64_t n);  // to nearest, ties to even
  // Codes of quantize_math.h, which also says what becomes of what is no number.
  void (*quantize)(const float* x, float inverse_scale, int8_t* codes, int64_t n);
  void (*rms_norm)(const float* x, const float* weight, float eps, float* out, int64_t n);
  void (*silu_mul)(const float* gate, const float* up, float* out, int64_t n);

  // ---- blocks ----
  void (*dot_block)(const DotBlock& block);
  void (*outer_block)(const OuterBlock& block);
  // out[r] = scales[r] * row r of from (scales may be nullptr: 1), and zeros up to whole vectors.
  void (*widen_rows)(const RowsView& from, const float* scales, int64_t rows, int64_t n, float* out,
                     int64_t out_stride);
  // out[i][r] = x[r][i] for i < n and r < rows; rows in [rows, out_stride) of out become 0. Strides in
  // floats.
  void (*transpose)(const float* x, int64_t x_stride, int64_t rows, int64_t n, float* out,
                    int64_t out_stride);
  // scores become exp(score - new max); returns the factor that earlier sums shrink by.
  float (*softmax_step)(float* scores, int64_t n, RunningSoftmax* running);
};

// The best set that this machine can run.
[[nodiscard]] const VectorOps& vector_ops();

// Every set that this machine can run, best first, ended by nullptr.
[[nodiscard]] const VectorOps* const* all_vector_ops();

// Scratch of whole cache lines, content undefined.
class Scratch {
 public:
  explicit Scratch(int64_t floats)
      : data_(static_cast<float*>(::operator new(static_cast<size_t>(floats) * sizeof(float), kAlignment))) {}
  [[nodiscard]] float* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<float, Free> data_;
};

}  // namespace shadowkv::cpu
