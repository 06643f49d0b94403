#include "engine/answer_text.h"

#include <algorithm>
#include <utility>

namespace shadowkv {

bool AnswerEnds::at(int32_t id) const {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

AnswerEnds answer_ends(const SamplingParams& params, std::span<const int64_t> model_ends, bool ignore_eos) {
  AnswerEnds ends{.ids = params.stop_ids, .texts = params.stop, .min_tokens = params.min_tokens};
  if (ignore_eos) return ends;
  for (const int64_t id : model_ends) ends.ids.push_back(static_cast<int32_t>(id));
  return ends;
}

AnswerText::AnswerText(const std::shared_ptr<const Tokenizer>& tokenizer, AnswerEnds ends)
    : ends_(std::move(ends)), stop_(ends_.texts) {
  if (tokenizer) text_.emplace(tokenizer, true);
}

std::string AnswerText::add(int32_t id, bool is_last) {
  if (!text_) return {};
  std::string piece = ends_.at(id) ? "" : text_->add(id);
  if (is_last) piece += text_->finish();
  std::string shown = ++tokens_ < ends_.min_tokens ? piece : stop_.add(piece);
  if (is_last) shown += stop_.finish();
  return shown;
}

}  // namespace shadowkv
