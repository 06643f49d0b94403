#include "kernels/operands.h"
#include "kernels/twins.h"

namespace shadowkv {
namespace {

void check_logits(std::string_view op, const TensorView& logits) {
  check_shape(op, "logits", logits, {{"sequences"}, {"vocab"}});
  check_dtype(op, "logits", logits.dtype, {DType::f32});
  const int64_t vocab = logits.shape[1];
  require(vocab > 0 && vocab <= kMostSampled, "{}: a vocabulary of {} tokens was given, expected 1 to {}", op,
          vocab, kMostSampled);
}

void check_ids(std::string_view op, const TensorView& logits, const TensorView& ids) {
  check_tensor(op, "ids", ids, DType::i32, {{"sequences", logits.shape[0]}});
}

}  // namespace

void change_logits(Queue& queue, const ChangeLogitsParams& params) {
  check_logits("change_logits", params.logits);
  if (params.logits.elements() == 0) return;
  SHADOWKV_DISPATCH(change_logits, queue, params);
}

void sample_tokens(Queue& queue, const SampleTokensParams& params) {
  check_logits("sample_tokens", params.logits);
  check_ids("sample_tokens", params.logits, params.ids);
  if (params.ids.elements() == 0) return;
  SHADOWKV_DISPATCH(sample_tokens, queue, params);
}

void rank_tokens(Queue& queue, const RankTokensParams& params) {
  check_logits("rank_tokens", params.logits);
  check_ids("rank_tokens", params.logits, params.ids);
  if (params.ids.elements() == 0) return;
  SHADOWKV_DISPATCH(rank_tokens, queue, params);
}

}  // namespace shadowkv
