// A loaded engine, with a bar while it loads.
#pragma once

#include <memory>

#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

// Loads by options that were checked (check_model_options in args.h); Ctrl-C stops it.
[[nodiscard]] std::unique_ptr<Engine> load_engine(const EngineOptions& options);

// Reads a prompt into a new sequence of the session with a bar; returns its first logits and the seconds
// taken.
struct PrefillResult {
  SequenceId sequence = 0;
  std::vector<float> logits;  // [vocab]
  double seconds = 0;
};
[[nodiscard]] PrefillResult prefill_with_bar(Session& session, std::span<const int32_t> ids,
                                             int64_t max_tokens);

}  // namespace shadowkv::apps
