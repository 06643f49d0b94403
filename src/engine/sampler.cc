// Picking a token from logits, on the host or, by a device's op, wherever they lie: kernels/sampling_math.h
// has how. The random numbers are a function of the seed and of how many tokens were picked, nothing else, so
// a request's tokens do not depend on what runs beside it.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace shadowkv {

Sampler::Sampler(const SamplingParams& params) : params_(params) {
  require(params.temperature >= 0 && std::isfinite(params.temperature),
          "temperature = {} is out of range; it must be 0 (greedy) or more", params.temperature);
  require(params.top_k >= 0, "top-k = {} is out of range; it must be 0 (all) or more", params.top_k);
  require(params.top_p > 0 && params.top_p <= 1, "top-p = {} is out of range; it must lie in (0, 1]",
          params.top_p);
}

SamplingRow sampling_row(const Sampler& sampler) {
  constexpr double kLog2e = 1.44269504088896340736;
  // Beyond these nothing changes: all tokens are alike, or none is like the largest.
  constexpr double kFlattest = 1e-30, kSteepest = 1e30;
  const SamplingParams& params = sampler.params();
  SamplingRow row{.seed = params.seed, .drawn = sampler.picked()};
  if (params.temperature == 0) return row;
  row.steepness = static_cast<float>(std::clamp(kLog2e / params.temperature, kFlattest, kSteepest));
  row.top_k = params.top_k <= kMostSampled ? static_cast<int32_t>(params.top_k) : 0;
  if (params.top_p < 1) row.share = static_cast<uint64_t>(std::ldexp(params.top_p, 64));
  return row;
}

int32_t Sampler::pick(std::span<const float> logits) {
  const auto vocab = std::ssize(logits);
  require(vocab >= 1 && vocab <= kMostSampled, "{} logits were given to pick from, expected 1 to {}", vocab,
          kMostSampled);
  const int32_t id = draw_token(logits.data(), vocab, sampling_row(*this));
  ++picked_;
  return id;
}

}  // namespace shadowkv
