// Spans of whole tensors of scores.
#pragma once

#include "kernels/cpu/scores.h"
#include "kernels/cpu/storage.h"

namespace shadowkv::cpu {

// Fills `spans`, unless it is empty, from scores [B, H, C].
inline void sum_all_spans(Queue& queue, const TensorView& scores, const TensorView& spans) {
  if (spans.empty()) return;
  const int64_t n = scores.shape[2];
  for_pieces(queue, scores.shape[0] * scores.shape[1], n, [&](int64_t i) {
    run_best([&]() SHADOWKV_LAMBDA_INLINE {
      sum_spans(scores.as<float>() + i * n, n, spans.as<float>() + i * spans.shape[2] * 2);
    });
  });
}

}  // namespace shadowkv::cpu
