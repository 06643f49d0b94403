#include "base/check.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace shadowkv {

StreamingDetokenizer::StreamingDetokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

std::string StreamingDetokenizer::add(int32_t id) {
  require(id >= 0, "{} is not a token id", id);
  if (!tokenizer_->has_token(id) || (skip_special_ && tokenizer_->is_special(id))) return {};
  pending_ += tokenizer_->bytes_of(id);
  std::string text;
  pending_.erase(0, static_cast<size_t>(append_lossy_utf8(text, pending_, true)));
  return text;
}

std::string StreamingDetokenizer::finish() {
  std::string text;
  append_lossy_utf8(text, pending_, false);
  pending_.clear();
  return text;
}

}  // namespace shadowkv
