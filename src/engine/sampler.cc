// Picking a token from logits, on the host or, by the device's ops, wherever they lie: kernels/logit_math.h
// and kernels/sampling_math.h have how. The random numbers are a function of the seed and of how many tokens
// were picked, nothing else, so a request's tokens do not depend on what runs beside it.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/utf8.h"
#include "constraint/constraint.h"
#include "formats/quote.h"
#include "kernels/draw_token.h"
#include "kernels/logit_rows.h"

namespace shadowkv {

bool is_constrained(const SamplingParams& params) {
  return !params.regex.empty() || !params.json_schema.empty() || params.json_object;
}

namespace {

constexpr int64_t kMostLogprobs = 20;
constexpr int64_t kMostStops = 64;
constexpr int64_t kLongestStop = 1024;  // bytes

// Range checks of numbers, NaN refused.
void check_between(std::string_view name, double value, double least, double most) {
  require(value >= least && value <= most, "{} = {} is out of range; it must lie in [{}, {}]", name, value,
          least, most);
}

void check_stops(const std::vector<std::string>& stops) {
  require(std::ssize(stops) <= kMostStops, "{} stop texts are given; at most {} are taken", stops.size(),
          kMostStops);
  for (std::size_t i = 0; i < stops.size(); ++i) {
    require(!stops[i].empty() && std::ssize(stops[i]) <= kLongestStop,
            "stop text {} has {} bytes; it must have 1 to {}", i + 1, stops[i].size(), kLongestStop);
    const auto invalid = find_invalid_utf8(stops[i]);
    require(!invalid, "stop text {} is no UTF-8 from byte {} on", i + 1, invalid.value_or(0));
  }
}

void check_ids(const SamplingParams& params, int64_t vocab) {
  for (const auto& [id, bias] : params.logit_bias) {
    require(id >= 0 && id < vocab, "logit-bias names token {}; the vocabulary has {}", id, vocab);
  }
  for (const int32_t id : params.stop_ids) {
    require(id >= 0 && id < vocab, "stop-ids names token {}; the vocabulary has {}", id, vocab);
  }
  const int64_t asked = params.logprobs.value_or(0);
  require(asked <= vocab, "logprobs = {} of the likeliest tokens are asked for; the vocabulary has {}", asked,
          vocab);
}

void check_constraints(const SamplingParams& params) {
  const std::string regex = params.regex.empty() ? "" : fmt::format("regex = {}", in_quotes(params.regex));
  const std::string schema =
      params.json_schema.empty() ? "" : fmt::format("json-schema = {}", in_quotes(params.json_schema));
  require(regex.empty() || schema.empty(), "{} and {} are both given; choose one", regex, schema);
  const std::string text = regex + schema;
  require(text.empty() || !params.json_object, "{} and json-object are both given; choose one", text);
  require(params.min_tokens == 0 || !is_constrained(params),
          "min-tokens = {} and {} are both given, but the latter says when the answer ends; drop one",
          params.min_tokens, params.json_object ? "json-object" : text);
}

}  // namespace

void check_sampling(const SamplingParams& params) {
  require(params.temperature >= 0 && std::isfinite(params.temperature),
          "temperature = {} is out of range; it must be 0 (greedy) or more", params.temperature);
  require(params.top_k >= 0, "top-k = {} is out of range; it must be 0 (all) or more", params.top_k);
  require(params.top_p > 0 && params.top_p <= 1, "top-p = {} is out of range; it must lie in (0, 1]",
          params.top_p);
  check_between("min-p", params.min_p, 0, 1);
  require(params.repetition_penalty > 0 && params.repetition_penalty <= 10,
          "repetition-penalty = {} is out of range; it must lie in (0, 10]", params.repetition_penalty);
  check_between("presence-penalty", params.presence_penalty, -2, 2);
  check_between("frequency-penalty", params.frequency_penalty, -2, 2);
  for (const auto& [id, bias] : params.logit_bias) {
    require(bias >= -100 && bias <= 100,
            "logit-bias of token {} = {} is out of range; it must lie in [-100, 100]", id, bias);
  }
  check_ids(params, std::numeric_limits<int32_t>::max());
  require(params.min_tokens >= 0, "min-tokens = {} is out of range; it must be 0 or more", params.min_tokens);
  check_stops(params.stop);
  check_constraints(params);
  const int64_t logprobs = params.logprobs.value_or(0);
  require(logprobs >= 0 && logprobs <= kMostLogprobs, "logprobs = {} is out of range; it must be 0 to {}",
          logprobs, kMostLogprobs);
}

namespace {

bool has_penalties(const SamplingParams& params) {
  return params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0;
}

float logprob_of(float logit, const TokenRanks& ranks) {
  constexpr double kLn2 = 0.69314718055994530942;
  const double whole = std::log(static_cast<double>(ranks.weight)) - 40 * kLn2;
  return static_cast<float>(std::min(0.0, double{logit} - ranks.largest - whole));
}

}  // namespace

// What changes the logits before a token is drawn, and what is told of them.
struct Sampler::State {
  LogitChanges changes;
  std::vector<int32_t> ends;           // impossible before min_tokens, and while a constraint is not complete
  std::vector<TokenLogprob> logprobs;  // of the latest pick; room for all
  std::optional<ConstraintPosition> position;
  int64_t checked_vocab = 0;  // that all ids were found in

  State(const SamplingParams& params, const SamplingContext& context);
  void reserve_logprobs(const SamplingParams& params) {
    if (params.logprobs) logprobs.reserve(static_cast<std::size_t>(*params.logprobs + 1));
  }
  void check(const SamplingParams& params, int64_t vocab);
  void prepare(bool may_end, int64_t vocab);
  void take(int32_t token);
  void tell(int32_t id, const TokenRanks& ranks);
};

Sampler::State::State(const SamplingParams& params, const SamplingContext& context)
    : changes(params, context.prompt) {
  reserve_logprobs(params);
  if (is_constrained(params)) {
    require(context.constraint != nullptr,
            "a constraint is given to a sampler without a model; use make_sampler");
    position.emplace(context.constraint);
  }
  if (params.min_tokens > 0 || position) {
    ends.assign(context.end_tokens.begin(), context.end_tokens.end());
    ends.insert(ends.end(), params.stop_ids.begin(), params.stop_ids.end());
  }
}

// Of the ids that the parameters name, once for each vocabulary.
void Sampler::State::check(const SamplingParams& params, int64_t vocab) {
  if (checked_vocab == vocab) return;
  check_ids(params, vocab);
  for (const int32_t id : ends) {
    require(id >= 0 && id < vocab, "token {} was to end an answer; the vocabulary has {}", id, vocab);
  }
  changes.allow_all();
  checked_vocab = vocab;
}

// may_end: whether min_tokens allows it.
void Sampler::State::prepare(bool may_end, int64_t vocab) {
  changes.prepare(vocab);
  if (position) {
    const std::span<const uint64_t> mask = position->mask();
    changes.allow(mask, position->is_complete() ? ends : std::span<const int32_t>(), vocab);
  } else if (may_end || ends.empty()) {
    changes.allow_all();
  } else if (changes.mask().empty()) {
    changes.forbid(ends, vocab);
  }
}

void Sampler::State::take(int32_t token) {
  logprobs.clear();
  if (position) position->take(token);
  changes.count(token);
}

void Sampler::State::tell(int32_t id, const TokenRanks& ranks) {
  logprobs.assign(1, {.id = id, .logprob = logprob_of(ranks.own, ranks)});
  for (int32_t i = 0; i < changes.settings().likeliest; ++i) {
    logprobs.push_back({.id = ranks.ids[i], .logprob = logprob_of(ranks.logits[i], ranks)});
  }
}

// ---- Sampler ----------------------------------------------------------------------------------------------

Sampler::Sampler(const SamplingParams& params, const SamplingContext& context) : params_(params) {
  check_sampling(params_);
  const bool changes = has_penalties(params) || !params.logit_bias.empty() || params.min_tokens > 0 ||
                       params.logprobs || is_constrained(params);
  if (changes) state_ = std::make_unique<State>(params_, context);
}

Sampler::~Sampler() = default;
Sampler::Sampler(Sampler&& other) noexcept = default;
Sampler& Sampler::operator=(Sampler&& other) noexcept = default;
Sampler::Sampler(const Sampler& other)
    : params_(other.params_),
      picked_(other.picked_),
      state_(other.state_ ? std::make_unique<State>(*other.state_) : nullptr) {
  if (state_) state_->reserve_logprobs(params_);
}
Sampler& Sampler::operator=(const Sampler& other) {
  if (this != &other) *this = Sampler(other);
  return *this;
}

int32_t Sampler::pick(std::span<const float> logits) {
  const auto vocab = std::ssize(logits);
  require(vocab >= 1 && vocab <= kMostSampled, "{} logits were given to pick from, expected 1 to {}", vocab,
          kMostSampled);
  std::vector<uint64_t> keys;
  if (!state_) {
    const int32_t id = draw_token(logits.data(), vocab, sampling_row(*this), keys);
    ++picked_;
    return id;
  }
  std::vector<float> changed(logits.begin(), logits.end());
  StepSampling::prepare(*this, vocab);
  const LogitRow row = state_->changes.row();
  if (row.changes()) change_row(changed.data(), vocab, row);
  const int32_t id = draw_token(changed.data(), vocab, sampling_row(*this), keys);
  take(id);
  if (params_.logprobs) state_->tell(id, rank_row(logits.data(), vocab, id, row.likeliest));
  return id;
}

bool Sampler::is_finished() const {
  return state_ && state_->position && !state_->position->can_go_on();
}

void Sampler::take(int32_t token) {
  if (state_) state_->take(token);
  ++picked_;
}

std::span<const TokenLogprob> Sampler::logprobs() const {
  return state_ ? std::span<const TokenLogprob>(state_->logprobs) : std::span<const TokenLogprob>();
}

// ---- steps ------------------------------------------------------------------------------------------------

void check_sampling(const SamplingParams& params, const SamplingLimits& limits) {
  check_sampling(params);
  check_ids(params, limits.vocab);
  require(params.min_tokens <= limits.max_new_tokens,
          "min-tokens = {} is more than max-new-tokens = {}; lower the one or raise the other",
          params.min_tokens, limits.max_new_tokens);
  require(!is_constrained(params) || !limits.ignore_eos,
          "ignore-eos is given with a constraint, which needs the end token to end the answer; drop one");
  require(!is_constrained(params) || limits.has_tokenizer,
          "a constraint is given, but the model came without a tokenizer; name one with --tokenizer");
  require(params.stop.empty() || limits.has_tokenizer,
          "{} stop texts are given, but the model came without a tokenizer; give stop-ids instead",
          params.stop.size());
}

SamplingRow sampling_row(const Sampler& sampler) {
  constexpr double kLog2e = 1.44269504088896340736;
  // Beyond these nothing changes: all tokens are alike, or none is like the largest.
  constexpr double kFlattest = 1e-30, kSteepest = 1e30;
  const SamplingParams& params = sampler.params();
  SamplingRow row{.seed = params.seed, .drawn = sampler.picked()};
  if (params.temperature == 0) return row;
  row.steepness = static_cast<float>(std::clamp(kLog2e / params.temperature, kFlattest, kSteepest));
  if (params.min_p > 0) row.gap = static_cast<float>(-std::log(params.min_p) * params.temperature);
  row.top_k = params.top_k <= kMostSampled ? static_cast<int32_t>(params.top_k) : 0;
  if (params.top_p < 1) row.share = static_cast<uint64_t>(std::ldexp(params.top_p, 64));
  return row;
}

void StepSampling::prepare(Sampler& sampler, int64_t vocab) {
  if (is_plain(&sampler)) return;
  const SamplingParams& params = sampler.params_;
  sampler.state_->check(params, vocab);
  sampler.state_->prepare(sampler.picked_ >= static_cast<uint64_t>(params.min_tokens), vocab);
}

void StepSampling::prepare(int64_t method, std::span<const SequenceToken> batch,
                           std::span<Sampler* const> samplers, int64_t vocab) {
  samplers_.assign(samplers.begin(), samplers.end());
  rows_.assign(samplers.size(), {});
  changes_.clear();
  int64_t masks = 0, changed = 0;
  for (std::size_t i = 0; i < samplers.size(); ++i) {
    if (samplers[i] != nullptr) rows_[i] = sampling_row(*samplers[i]);
    if (is_plain(samplers[i])) continue;
    prepare(*samplers[i], vocab);
    ++changed;
    masks += samplers[i]->state_->changes.mask().empty() ? 0 : 1;
  }
  tables_.begin(masks, vocab);  // also of a step without changes, whose end is not that of one that failed
  if (changed == 0) return;
  changes_.resize(samplers.size());
  for (std::size_t i = 0; i < samplers.size(); ++i) {
    if (is_plain(samplers[i])) continue;
    changes_[i] = tables_.row({method, batch[i].sequence}, samplers[i]->state_->changes);
  }
  tables_.send();
}

void StepSampling::finish(std::span<const int32_t> ids, std::span<const TokenRanks> ranks) {
  tables_.finish();
  for (std::size_t i = 0; i < samplers_.size(); ++i) {
    Sampler* sampler = samplers_[i];
    if (sampler == nullptr) continue;
    sampler->take(ids[i]);
    if (sampler->params_.logprobs) sampler->state_->tell(ids[i], ranks[i]);
  }
}

}  // namespace shadowkv
