// How tokens that follow what a sequence holds are taken in: policy alone.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "shadowkv/attention_config.h"

namespace shadowkv {

enum class FollowUp : uint8_t {
  steps,   // one decode step each
  append,  // read behind what is held
  anew     // with all that is held, into a new sequence
};

// What takes least work, by lengths and sizes alone: an answer must not depend on how fast a machine is.
// config: resolved.
[[nodiscard]] FollowUp choose_follow_up(const ModelConfig& model, const AttentionConfig& config, int64_t held,
                                        int64_t more);

}  // namespace shadowkv
