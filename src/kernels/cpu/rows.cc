#include "kernels/cpu/rows.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/work.h"
#include "kernels/quantize_math.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

void quantize(const float* x, int64_t n, int8_t* codes, bf16* scale) {
  float step = quantize_scale(vector_ops().max_abs(x, n));
  if (step < std::numeric_limits<float>::min()) step = 0.0f;  // 1 / step must stay finite
  *scale = bf16(step);
  const float inverse = step > 0.0f ? 1.0f / step : 0.0f;
  vector_ops().quantize(x, inverse, codes, n);
}

}  // namespace

void store_row(const QuantizedView& to, int64_t row, int64_t head, int64_t token, const float* x, int64_t n) {
  std::byte* data = to.data.at(row, head, token);
  switch (to.data.dtype) {
    case DType::f32:
      std::memcpy(data, x, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::bf16:
      return vector_ops().round_bf16(x, reinterpret_cast<bf16*>(data), n);
    default:
      return quantize(x, n, reinterpret_cast<int8_t*>(data),
                      reinterpret_cast<bf16*>(to.scales.at(row, head, token)));
  }
}

float row_scale(const QuantizedView& view, int64_t row, int64_t head, int64_t token) {
  if (view.data.dtype != DType::i8) return 1.0f;
  return static_cast<float>(*reinterpret_cast<const bf16*>(view.scales.at(row, head, token)));
}

void load_row(const QuantizedView& from, int64_t row, int64_t head, int64_t token, float* out, int64_t n) {
  const float scale = row_scale(from, row, head, token);
  vector_ops().widen(from.data.at(row, head, token), from.data.dtype, scale, out, n);
}

void store_rows(Queue& queue, const StoreRowsParams& params) {
  constexpr int64_t kGrain = 16;  // tokens
  const int64_t tokens = params.tokens.count;
  const int64_t heads = params.x.shape[1];
  const int64_t n = params.x.shape[2];
  const float* x = params.x.as<float>();
  share_ranges(queue, tokens, kGrain, tokens * heads * n, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        store_row(params.to, params.tokens.rows[t], h, params.tokens.positions[t], x + (t * heads + h) * n,
                  n);
      }
    }
  });
}

void load_rows(Queue& queue, const LoadRowsParams& params) {
  constexpr int64_t kGrain = 16;  // tokens
  const int64_t tokens = params.out.shape[0];
  const int64_t heads = params.out.shape[1];
  const int64_t n = params.out.shape[2];
  float* out = params.out.as<float>();
  share_ranges(queue, tokens, kGrain, tokens * heads * n, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        load_row(params.from, params.row, h, params.first + t, out + (t * heads + h) * n, n);
      }
    }
  });
}

}  // namespace shadowkv::cpu
