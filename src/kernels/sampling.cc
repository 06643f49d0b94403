#include "kernels/operands.h"
#include "kernels/twins.h"

namespace shadowkv {

void sample_tokens(Queue& queue, const SampleTokensParams& params) {
  check_shape("sample_tokens", "logits", params.logits, {{"sequences"}, {"vocab"}});
  check_dtype("sample_tokens", "logits", params.logits.dtype, {DType::f32});
  check_tensor("sample_tokens", "ids", params.ids, DType::i32, {{"sequences", params.logits.shape[0]}});
  const int64_t vocab = params.logits.shape[1];
  require(vocab > 0 && vocab <= kMostSampled,
          "sample_tokens: a vocabulary of {} tokens was given, expected 1 to {}", vocab, kMostSampled);
  if (params.ids.elements() == 0) return;
  SHADOWKV_DISPATCH(sample_tokens, queue, params);
}

}  // namespace shadowkv
