#include "kernels/operands.h"
#include "kernels/twins.h"

namespace shadowkv {

void pick_likeliest(Queue& queue, const PickLikeliestParams& params) {
  check_shape("pick_likeliest", "logits", params.logits, {{"sequences"}, {"vocab"}});
  check_dtype("pick_likeliest", "logits", params.logits.dtype, {DType::f32});
  check_tensor("pick_likeliest", "ids", params.ids, DType::i32, {{"sequences", params.logits.shape[0]}});
  require(params.logits.shape[1] > 0, "pick_likeliest: the vocabulary is empty");
  if (params.ids.elements() == 0) return;
  SHADOWKV_DISPATCH(pick_likeliest, queue, params);
}

}  // namespace shadowkv
