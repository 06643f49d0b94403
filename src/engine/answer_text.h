// What is shown of an answer, and what ends it: the same for whoever makes the tokens and whoever reads them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/stop_text.h"
#include "shadowkv/shadowkv.h"
#include "tokenizer/tokenizer.h"

namespace shadowkv {

// What ends an answer.
struct AnswerEnds {
  std::vector<int32_t> ids;        // the model's end tokens, unless they are ignored, and the request's
  std::vector<std::string> texts;  // stop texts
  int64_t min_tokens = 0;          // tokens before which no stop text counts

  [[nodiscard]] bool at(int32_t id) const;
};

[[nodiscard]] AnswerEnds answer_ends(const SamplingParams& params, std::span<const int64_t> model_ends,
                                     bool ignore_eos);

class AnswerText {
 public:
  // tokenizer: null where there is no text.
  AnswerText(const std::shared_ptr<const Tokenizer>& tokenizer, AnswerEnds ends);

  // What is certain to be shown with the answer's next token. is_last: no other comes.
  [[nodiscard]] std::string add(int32_t id, bool is_last);
  // Whether a stop text has come.
  [[nodiscard]] bool is_stopped() const { return stop_.is_found(); }
  [[nodiscard]] const AnswerEnds& ends() const { return ends_; }

 private:
  AnswerEnds ends_;
  std::optional<StreamingDetokenizer> text_;
  StopText stop_;
  int64_t tokens_ = 0;
};

}  // namespace shadowkv
