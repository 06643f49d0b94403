// How logits change before sampling_math.h draws from them: what the host does now, and a device's op would.
// Every number is rounded to float at every step, so that all devices agree to the bit.
#pragma once

#include <cstdint>

#include "kernels/views.h"

namespace shadowkv {

// A product that is rounded before anything is added to it. No source that includes this is compiled for
// processors whose multiply-add the host's compiler would take.
SHADOWKV_HD inline float rounded_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

struct LogitPenalties {
  float repetition = 1.0f;  // above 0: divides what is positive, multiplies what is not
  float presence = 0.0f;    // subtracted once
  float frequency = 0.0f;   // subtracted each time
};

// The logit of a token that stands in prompt or answer, in the latter so many times.
SHADOWKV_HD inline float penalized_logit(float logit, const LogitPenalties& penalties, int32_t in_answer) {
  const float repeated =
      logit > 0 ? logit / penalties.repetition : rounded_product(logit, penalties.repetition);
  if (in_answer == 0) return repeated;
  const float often = rounded_product(penalties.frequency, static_cast<float>(in_answer));
  return repeated - often - penalties.presence;
}

// Whether min_p keeps a token: gap is -ln(min_p) * temperature.
SHADOWKV_HD inline bool within_gap(float logit, float largest, float gap) {
  return largest - logit <= gap;
}

}  // namespace shadowkv
