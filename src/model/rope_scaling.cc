#include "model/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "base/check.h"
#include "model/config.h"

namespace shadowkv {
namespace {

constexpr double kMostFactor = 1e6;
constexpr int64_t kRungsOfADoubling = 4;  // a sequence turns as one that is a quarter longer, at most

// Before anything is sized by a file's numbers; validate() says more.
void check_scaling(const RopeConfig& rope, double factor, const std::string& where) {
  constexpr int64_t kMostTurned = 1 << 16;
  require(rope.rotary_dim >= 0 && rope.rotary_dim <= kMostTurned,
          "{}: the model turns {} numbers of each head", where, rope.rotary_dim);
  require(factor >= 1 && factor <= kMostFactor, "{}: the factor of RoPE is {}, it must lie from 1 to {}",
          where, factor, kMostFactor);
}

// Lengths from `first` to `last`, which rise.
std::vector<int64_t> ladder(int64_t first, int64_t last) {
  std::vector<int64_t> rungs;
  for (int64_t doubled = first; doubled < last; doubled *= 2) {
    for (int64_t step = 0; step < kRungsOfADoubling; ++step) {
      const int64_t rung = doubled + (doubled * step + kRungsOfADoubling - 1) / kRungsOfADoubling;
      if (rung < last && (rungs.empty() || rung > rungs.back())) rungs.push_back(rung);
    }
  }
  rungs.push_back(last);
  return rungs;
}

// Of sequences of `tokens`: those powers of theta that another base would be.
std::vector<float> dynamic_divisors(const RopeConfig& rope, const DynamicScaling& scaling, int64_t tokens) {
  const double times = static_cast<double>(tokens) / static_cast<double>(scaling.original_context);
  const double stretched = std::max(scaling.factor * times - (scaling.factor - 1), 1.0);
  std::vector<float> divisors;
  for (int64_t i = 0; i < rope.rotary_dim / 2; ++i) {
    const double exponent = 2 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim - 2);
    divisors.push_back(static_cast<float>(std::pow(stretched, exponent)));
  }
  return divisors;
}

}  // namespace

int64_t stretched_context(int64_t original_context, double factor) {
  return static_cast<int64_t>(
      std::min(static_cast<double>(original_context) * factor, static_cast<double>(kMostContext)));
}

void scale_by_dynamic(RopeConfig& rope, const DynamicScaling& scaling, const std::string& where) {
  check_scaling(rope, scaling.factor, where);
  require(rope.rotary_dim > 2, "{}: the model turns {} numbers of each head, the dynamic rule needs more",
          where, rope.rotary_dim);
  require(scaling.original_context >= 1 && scaling.original_context <= scaling.context &&
              scaling.context <= kMostContext,
          "{}: RoPE is stretched from {} to {} tokens; supported are contexts of 1 to {} that grow", where,
          scaling.original_context, scaling.context, kMostContext);
  rope.shorter.clear();
  for (const int64_t rung : ladder(scaling.original_context, scaling.context)) {
    rope.shorter.push_back({rung, dynamic_divisors(rope, scaling, rung)});
  }
  rope.divisors = std::move(rope.shorter.back().divisors);
  rope.shorter.pop_back();
}

std::vector<float> linear_divisors(const RopeConfig& rope, double factor, const std::string& where) {
  check_scaling(rope, factor, where);
  if (factor == 1) return {};
  return std::vector<float>(static_cast<std::size_t>(rope.rotary_dim / 2), static_cast<float>(factor));
}

std::vector<float> llama3_divisors(const RopeConfig& rope, const Llama3Scaling& scaling,
                                   const std::string& where) {
  check_scaling(rope, scaling.factor, where);
  const double low = scaling.low_freq_factor, high = scaling.high_freq_factor;
  require(low > 0 && high > low && std::isfinite(high),
          "{}: low_freq_factor is {} and high_freq_factor {}; they must be positive, the second larger",
          where, low, high);
  require(scaling.original_context >= 1, "{}: original_max_position_embeddings is {}, it must be positive",
          where, scaling.original_context);
  std::vector<float> divisors;
  for (const float frequency : inverse_frequencies(rope)) {
    const double turns = static_cast<double>(scaling.original_context) * static_cast<double>(frequency) /
                         (2 * std::numbers::pi);
    const double kept = (turns - low) / (high - low);  // 0: divided, 1: left alone
    const double share = kept <= 0 ? 0 : kept >= 1 ? 1 : kept;
    divisors.push_back(static_cast<float>(1 / ((1 - share) / scaling.factor + share)));
  }
  return divisors;
}

double yarn_magnitude(double factor, double weight) {
  return 1 + weight * std::log(factor) / 10;
}

void scale_by_yarn(RopeConfig& rope, const YarnScaling& scaling, const std::string& where) {
  check_scaling(rope, scaling.factor, where);
  require(scaling.original_context >= 1 && scaling.original_context <= kMostContext,
          "{}: the original context is {} tokens, 1 to {} are supported", where, scaling.original_context,
          kMostContext);
  require(scaling.beta_slow > 0 && scaling.beta_fast > scaling.beta_slow && std::isfinite(scaling.beta_fast),
          "{}: beta_fast is {} and beta_slow {}; they must be positive, the first larger", where,
          scaling.beta_fast, scaling.beta_slow);
  require(rope.theta > 1, "{}: the base of RoPE is {}, it must be above 1", where, rope.theta);
  // The pair, as a fraction, that turns so often over the original context.
  const auto pair_of = [&](double turns) {
    const double angle = static_cast<double>(scaling.original_context) / (turns * 2 * std::numbers::pi);
    return static_cast<double>(rope.rotary_dim) * std::log(angle) / (2 * std::log(rope.theta));
  };
  double first = pair_of(scaling.beta_fast), last = pair_of(scaling.beta_slow);
  if (scaling.truncate) first = std::floor(first), last = std::ceil(last);
  first = std::max(first, 0.0);
  last = std::min(last, static_cast<double>(rope.rotary_dim - 1));
  if (first == last) last += 0.001;
  rope.divisors.clear();
  for (int64_t i = 0; i < rope.rotary_dim / 2; ++i) {
    const double divided = std::clamp((static_cast<double>(i) - first) / (last - first), 0.0, 1.0);
    rope.divisors.push_back(static_cast<float>(1 / (divided / scaling.factor + 1 - divided)));
  }
  rope.magnitude = scaling.attention_factor != 0 ? scaling.attention_factor : yarn_magnitude(scaling.factor);
}

double longrope_magnitude(double factor, int64_t original_context) {
  if (factor <= 1) return 1;
  return std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(original_context)));
}

void scale_by_longrope(RopeConfig& rope, const LongRopeScaling& scaling, const std::string& where) {
  require(scaling.original_context >= 2, "{}: the original context is {} tokens, it must be at least 2",
          where, scaling.original_context);
  require(scaling.context >= 1, "{}: the context is {} tokens, it must be positive", where, scaling.context);
  const double factor = scaling.factor != 0 ? scaling.factor
                                            : static_cast<double>(scaling.context) /
                                                  static_cast<double>(scaling.original_context);
  check_scaling(rope, std::max(factor, 1.0), where);
  for (const std::vector<float>* divisors : {&scaling.short_divisors, &scaling.long_divisors}) {
    require(std::ssize(*divisors) == rope.rotary_dim / 2,
            "{}: {} numbers divide the frequencies of RoPE, {} pairs turn", where, divisors->size(),
            rope.rotary_dim / 2);
  }
  const bool is_long = scaling.context > scaling.original_context;
  rope.divisors = is_long ? scaling.long_divisors : scaling.short_divisors;
  rope.shorter.clear();
  if (is_long) rope.shorter.push_back({scaling.original_context, scaling.short_divisors});
  rope.magnitude = scaling.attention_factor != 0 ? scaling.attention_factor
                                                 : longrope_magnitude(factor, scaling.original_context);
}

}  // namespace shadowkv
