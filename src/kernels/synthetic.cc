#include "kernels/operands.h"
#include "kernels/twins.h"

namespace shadowkv {

void randomize_rows(Queue& queue, const RandomizeRowsParams& params) {
  check_dtype("randomize_rows", "to", params.to.dtype, {DType::f32, DType::bf16, DType::i8, DType::u8});
  require(params.tokens >= 0 && params.heads > 0 && params.elements > 0 && params.low <= params.high,
          "randomize_rows: {} tokens of {} heads of {} numbers in [{}, {}] were asked for", params.tokens,
          params.heads, params.elements, params.low, params.high);
  if (params.tokens == 0) return;
  SHADOWKV_DISPATCH(randomize_rows, queue, params);
}

}  // namespace shadowkv
