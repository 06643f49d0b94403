#include "tokenizer/normalizer.h"

#include "base/check.h"
#include "tokenizer/normalize.h"
#include "tokenizer/regex_parts.h"

namespace shadowkv {
namespace {

std::string apply_step(const NormalizerStep& step, const std::optional<Regex>& regex, const std::string& text,
                       int64_t max_bytes) {
  switch (step.kind) {
    case NormalizerStep::Kind::nfc:
      return normalize(text, UnicodeForm::nfc);
    case NormalizerStep::Kind::nfkc:
      return normalize(text, UnicodeForm::nfkc);
    case NormalizerStep::Kind::prepend:
      return text.empty() ? text : step.content + text;
    case NormalizerStep::Kind::replace: {
      Regex::Scratch scratch(*regex);
      return replace_matches(*regex, text, step.content, max_bytes, scratch);
    }
  }
  return text;
}

}  // namespace

Normalizer::Normalizer(std::span<const NormalizerStep> steps) {
  steps_.reserve(steps.size());
  for (const NormalizerStep& step : steps) {
    Step& added = steps_.emplace_back(Step{step, std::nullopt});
    if (step.kind == NormalizerStep::Kind::replace) added.regex.emplace(step.pattern);
  }
}

std::string Normalizer::apply(std::string_view text, int64_t max_bytes) const {
  std::string out(text);
  for (const Step& step : steps_) {
    out = apply_step(step.spec, step.regex, out, max_bytes);
    require(static_cast<int64_t>(out.size()) <= max_bytes,
            "a text of {} bytes grows beyond {} when it is normalized", text.size(), max_bytes);
  }
  return out;
}

}  // namespace shadowkv
