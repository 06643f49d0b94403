#include "eval/draw.h"

#include <fmt/format.h>

namespace shadowkv::eval {

Random Draw::random() const {
  return {seed, fmt::format("{} {} {}", task, length, index)};
}

Sample fit_sample(const Draw& draw, int64_t max_new_tokens, SizeRange sizes,
                  const std::function<Draft(int64_t)>& make) {
  const auto tokens_of = [&](int64_t size) { return draw.count(make(size).prompt); };
  const int64_t size = largest_fitting(sizes, draw.length - max_new_tokens, tokens_of);
  require(size >= sizes.least,
          "{} does not fit {} tokens: its smallest sample has {} and {} are kept for the answer; give longer "
          "lengths",
          draw.task, draw.length, size < sizes.least ? tokens_of(sizes.least) : 0, max_new_tokens);
  Draft draft = make(size);
  return {draw.task,     draw.length, draw.index, std::move(draft.prompt), std::move(draft.outputs),
          max_new_tokens};
}

}  // namespace shadowkv::eval
