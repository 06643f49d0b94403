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

void force_choice(Queue& queue, const ForceChoiceParams& params) {
  check_tensor("force_choice", "candidates", params.candidates, DType::i32,
               {{"sequences", params.batch.size}, {"kv_heads"}, {"candidates"}});
  if (!params.picked.empty()) {
    check_tensor("force_choice", "picked", params.picked, DType::i32,
                 {{"sequences", params.batch.size}, {"kv_heads", params.candidates.shape[1]}, {"picks"}});
    require(params.picked.shape[2] > 0 && params.candidates.shape[2] % params.picked.shape[2] == 0,
            "force_choice: {} candidates are not a multiple of {} picks", params.candidates.shape[2],
            params.picked.shape[2]);
  }
  require(params.hit_share >= 0 && params.hit_share <= 1,
          "force_choice: a hit share of {} was asked for; it must lie in [0, 1]", params.hit_share);
  SHADOWKV_DISPATCH(force_choice, queue, params);
}

}  // namespace shadowkv
