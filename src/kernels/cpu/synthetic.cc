#include <cmath>

#include "kernels/cpu/work.h"
#include "kernels/synthetic_math.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

void write_random(std::byte* to, DType dtype, int64_t i, uint64_t bits, float low, float high) {
  const float number = random_uniform(bits, low, high);
  switch (dtype) {
    case DType::f32:
      reinterpret_cast<float*>(to)[i] = number;
      return;
    case DType::bf16:
      reinterpret_cast<bf16*>(to)[i] = bf16(number);
      return;
    case DType::i8:
      reinterpret_cast<int8_t*>(to)[i] = static_cast<int8_t>(std::lrintf(number));
      return;
    default:
      reinterpret_cast<uint8_t*>(to)[i] = static_cast<uint8_t>(bits >> 56);
  }
}

}  // namespace

void randomize_rows(Queue& queue, const RandomizeRowsParams& params) {
  share_work(queue, params.tokens, params.tokens * params.heads * params.elements, [&](int64_t token) {
    for (int64_t head = 0; head < params.heads; ++head) {
      std::byte* to = params.to.at(params.row, head, token);
      for (int64_t i = 0; i < params.elements; ++i) {
        const auto n = static_cast<uint64_t>((token * params.heads + head) * params.elements + i);
        write_random(to, params.to.dtype, i, random_bits(params.seed, n), params.low, params.high);
      }
    }
  });
}

}  // namespace shadowkv::cpu
