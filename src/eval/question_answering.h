// RULER's two question-answering tasks: a question of SQuAD or HotpotQA, its documents among others.
#pragma once

#include <span>

#include "eval/draw.h"

namespace shadowkv::eval {

inline constexpr int64_t kQuestionAnswerTokens = 32;

[[nodiscard]] Prompt question_prompt(std::span<const std::string> documents, std::string_view question);
// The question of the draw's index, in the set's order. Throws InvalidInput where there is none.
[[nodiscard]] Sample make_question_answering(const Draw& draw, const QuestionSet& set);

}  // namespace shadowkv::eval
