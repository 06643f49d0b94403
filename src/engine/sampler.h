// What the op that draws tokens is told of a Sampler.
#pragma once

#include "kernels/sampling_math.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv {

[[nodiscard]] SamplingRow sampling_row(const Sampler& sampler);

}  // namespace shadowkv
