#include "engine/follow_up.h"

#include <algorithm>

namespace shadowkv {
namespace {

// Tokens that could be read in the time of a decode step, which reads all weights for one: 14 on two cores
// (21 against 1.5 ms, SmolLM2-135M), more than a hundred on a GPU.
constexpr double kStepTokens = 12;

}  // namespace

// Work in tokens read: multiplications as a share of those that a token's matrices take. Attention over the
// past is not counted: that nothing of it is selected away is what reading is for.
FollowUp choose_follow_up(const ModelConfig& model, const AttentionConfig& config, int64_t held,
                          int64_t more) {
  const bool is_sparse = config.method != Method::full && held >= config.exact_below;
  // Bases and budget of a sequence are those of what it began with, which should not be the smaller part.
  if (is_sparse && more > held) return FollowUp::anew;
  const auto of_token = static_cast<double>(model.parameters() - model.vocab_size * model.hidden);
  const bool rebuilds = is_sparse && config.method == Method::shadow;
  const int64_t bring_back = model.layers * model.kv_width() * (rebuilds ? config.rank : 2);
  const double append = std::max(kStepTokens, static_cast<double>(more)) +
                        static_cast<double>(held) * static_cast<double>(bring_back) / of_token;
  return static_cast<double>(more) * kStepTokens <= append ? FollowUp::steps : FollowUp::append;
}

}  // namespace shadowkv
