// Sequences that hold the first tokens of others, for those that begin with the same tokens.
#include <algorithm>

#include "base/check.h"
#include "engine/session.h"

namespace shadowkv {

SequenceId ModelSession::begin_prefix(SequenceId id, int64_t tokens) {
  const PrefillRun& prompt = reading(id);
  require(prompt.layer == 0 && prompt.first == 0, "sequence {} has begun to read; keep prefixes of it before",
          id);
  require(tokens > prompt.past && tokens <= prompt.past + prompt.tokens,
          "a prefix of {} tokens was asked for, tokens {} to {} are read", tokens, prompt.past,
          prompt.past + prompt.tokens);
  const SequenceId prefix = add(tokens);
  try {
    run([&] { attention_->begin_prefix(id, prefix, tokens); });
  } catch (...) {
    remove(prefix);
    throw;
  }
  return prefix;
}

void ModelSession::end_prefix(SequenceId id, SequenceId prefix) {
  Sequence& kept = at(prefix);
  require(!at(id).tokens.empty() && !readings_.contains(id),
          "sequence {} has not read its prompt; its prefixes end with it", id);
  run([&] { attention_->end_prefix(id, prefix); });
  kept.tokens.assign(static_cast<std::size_t>(methods_), kept.max_tokens);
}

SequenceId ModelSession::fork_prefix(SequenceId prefix, int64_t tokens, int64_t max_tokens) {
  check_length(max_tokens);
  require(tokens >= 1 && tokens <= std::min(held_by(at(prefix)), max_tokens),
          "{} tokens were asked of prefix {}, which holds {}, for a sequence of at most {}", tokens, prefix,
          held_by(at(prefix)), max_tokens);
  require(max_tokens <= reach(prefix),
          "prefix {} turns its positions as those of at most {} tokens do, not of {}", prefix, reach(prefix),
          max_tokens);
  const SequenceId forked = add(max_tokens);
  try {
    sequences_.at(forked).tokens.assign(static_cast<std::size_t>(methods_), tokens);
    run([&] {
      attention_->fork_prefix(prefix, forked, tokens, {.prompt_tokens = tokens, .max_tokens = max_tokens});
    });
  } catch (...) {
    remove(forked);
    throw;
  }
  return forked;
}

std::string ModelSession::identity() {
  return fmt::format("{} {} {} {}", model_.name, fingerprint(), name_of(prefill_->shape().compute),
                     attention_text_);
}

}  // namespace shadowkv
