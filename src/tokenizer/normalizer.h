// What is done to a text before it is cut into pieces.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"
#include "tokenizer/tokenizer_spec.h"

namespace shadowkv {

// Threads share one.
class Normalizer {
 public:
  // Throws InvalidInput for a pattern that is not supported.
  explicit Normalizer(std::span<const NormalizerStep> steps);

  [[nodiscard]] bool changes_nothing() const { return steps_.empty(); }
  // `text` must be valid UTF-8. Throws InvalidInput when a step makes it longer than max_bytes.
  [[nodiscard]] std::string apply(std::string_view text, int64_t max_bytes) const;

 private:
  struct Step {
    NormalizerStep spec;
    std::optional<Regex> regex;  // of replace
  };

  std::vector<Step> steps_;
};

}  // namespace shadowkv
