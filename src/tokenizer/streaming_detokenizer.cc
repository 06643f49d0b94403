#include "tokenizer/tokenizer.h"

namespace shadowkv {

StreamingDetokenizer::StreamingDetokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

std::string StreamingDetokenizer::add(int32_t id) {
  std::string text;
  tokenizer_->decode_next(id, skip_special_, state_, text);
  return text;
}

std::string StreamingDetokenizer::finish() {
  std::string text;
  tokenizer_->decode_end(state_, text);
  state_ = {};
  return text;
}

}  // namespace shadowkv
