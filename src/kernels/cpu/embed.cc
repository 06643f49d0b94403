#include "base/check.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/work.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

void check_ids(const int32_t* ids, int64_t tokens, int64_t vocabulary) {
  for (int64_t t = 0; t < tokens; ++t) {
    require(ids[t] >= 0 && ids[t] < vocabulary, "embed: id {} of token {} is outside the vocabulary of {}",
            ids[t], t, vocabulary);
  }
}

void widen_codes(const int8_t* codes, float scale, float* out, int64_t columns) {
  for (int64_t i = 0; i < columns; ++i) out[i] = scale * static_cast<float>(codes[code_place(i, columns)]);
}

}  // namespace

void embed(Queue& queue, const EmbedParams& params) {
  constexpr int64_t kGrain = 16;
  const VectorOps& ops = vector_ops();
  const int64_t tokens = params.ids.shape[0];
  const int64_t hidden = params.table.shape[1];
  const int64_t row_bytes = hidden * size_of(params.table.dtype);
  const float* scales = params.table.quantized() ? params.table.scales.as<float>() : nullptr;
  const int32_t* ids = params.ids.as<int32_t>();
  float* out = params.out.as<float>();
  check_ids(ids, tokens, params.table.shape[0]);
  share_ranges(queue, tokens, kGrain, tokens * hidden, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      const std::byte* row = params.table.data + ids[t] * row_bytes;
      if (scales != nullptr) {
        widen_codes(reinterpret_cast<const int8_t*>(row), scales[ids[t]], out + t * hidden, hidden);
      } else {
        ops.widen(row, params.table.dtype, 1.0f, out + t * hidden, hidden);
      }
    }
  });
}

}  // namespace shadowkv::cpu
