// Picking a token from logits, on the host or, by a device's op, wherever they lie: kernels/logit_math.h and
// kernels/sampling_math.h have how. The random numbers are a function of the seed and of how many tokens were
// picked, nothing else, so a request's tokens do not depend on what runs beside it.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/utf8.h"
#include "constraint/constraint.h"
#include "formats/quote.h"
#include "kernels/draw_token.h"
#include "kernels/logit_math.h"

namespace shadowkv {

bool is_constrained(const SamplingParams& params) {
  return !params.regex.empty() || !params.json_schema.empty() || params.json_object;
}

namespace {

constexpr int64_t kMostLogprobs = 20;
constexpr int64_t kMostStops = 64;
constexpr int64_t kLongestStop = 1024;  // bytes
constexpr float kNever = -std::numeric_limits<float>::infinity();

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

// Of a row of raw logits: the token's own, then the likeliest.
void write_logprobs(const std::vector<float>& logits, int32_t id, int64_t count,
                    std::vector<TokenLogprob>& out) {
  const auto better = [&](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  out.assign(1, {.id = id, .logprob = 0});
  const auto vocab = static_cast<int32_t>(logits.size());
  for (int32_t i = 0; i < vocab && count > 0; ++i) {
    const bool is_full = std::ssize(out) == 1 + count;
    if (is_full && !better(i, out.back().id)) continue;
    if (is_full) out.pop_back();
    const auto place =
        std::find_if(out.begin() + 1, out.end(), [&](const auto& other) { return better(i, other.id); });
    out.insert(place, {.id = i, .logprob = 0});
  }
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  const double whole = largest + std::log(sum);
  for (TokenLogprob& one : out) one.logprob = static_cast<float>(std::min(0.0, logits[one.id] - whole));
}

}  // namespace

// What changes the logits before a token is drawn.
struct Sampler::State {
  // A token that stands in the prompt or, so many times, in the answer.
  struct Seen {
    int32_t id;
    int32_t in_answer;
  };
  std::vector<Seen> seen;  // in order of ids
  LogitPenalties penalties;
  bool counts = false;                 // whether `seen` is kept
  std::vector<int32_t> ends;           // impossible before min_tokens, and while a constraint is not complete
  std::vector<TokenLogprob> logprobs;  // of the latest pick; room for all
  std::optional<ConstraintPosition> position;
  std::span<const uint64_t> mask;  // of the next token, by prepare(); the position keeps it

  State(const SamplingParams& params, const SamplingContext& context);
  void reserve_logprobs(const SamplingParams& params) {
    if (params.logprobs) logprobs.reserve(static_cast<std::size_t>(*params.logprobs + 1));
  }
  void prepare(int64_t vocab);
  void take(int32_t token);
  void change(const SamplingParams& params, uint64_t picked, std::span<float> logits) const;
  void constrain(std::span<float> logits) const;
};

Sampler::State::State(const SamplingParams& params, const SamplingContext& context)
    : penalties{.repetition = static_cast<float>(params.repetition_penalty),
                .presence = static_cast<float>(params.presence_penalty),
                .frequency = static_cast<float>(params.frequency_penalty)},
      counts(has_penalties(params)) {
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
  if (!counts || params.repetition_penalty == 1) return;
  std::vector<int32_t> ids(context.prompt.begin(), context.prompt.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  seen.reserve(ids.size());
  for (const int32_t id : ids) seen.push_back({.id = id, .in_answer = 0});
}

void Sampler::State::prepare(int64_t vocab) {
  for (const int32_t id : ends) {
    require(id >= 0 && id < vocab, "token {} was to end an answer; the vocabulary has {}", id, vocab);
  }
  require(seen.empty() || (seen.front().id >= 0 && seen.back().id < vocab),
          "the prompt has tokens from {} to {}; the vocabulary has {}", seen.empty() ? 0 : seen.front().id,
          seen.empty() ? 0 : seen.back().id, vocab);
  if (counts) seen.reserve(seen.size() + 1);
  if (!position) return;
  mask = position->mask();
  require(std::ssize(mask) * 64 >= vocab, "a constraint over {} tokens was given {} logits",
          std::ssize(mask) * 64, vocab);
}

void Sampler::State::take(int32_t token) {
  logprobs.clear();
  if (position) position->take(token);
  if (!counts) return;
  const auto place = std::lower_bound(seen.begin(), seen.end(), token,
                                      [](const Seen& one, int32_t id) { return one.id < id; });
  if (place != seen.end() && place->id == token) {
    ++place->in_answer;
  } else {
    seen.insert(place, {.id = token, .in_answer = 1});
  }
}

void Sampler::State::change(const SamplingParams& params, uint64_t picked, std::span<float> logits) const {
  for (const auto& [id, bias] : params.logit_bias) logits[id] += static_cast<float>(bias);
  for (const Seen& one : seen) logits[one.id] = penalized_logit(logits[one.id], penalties, one.in_answer);
  if (picked < static_cast<uint64_t>(params.min_tokens)) {
    for (const int32_t id : ends) logits[id] = kNever;
  }
  if (position) constrain(logits);
  if (params.min_p == 0 || params.temperature == 0) return;
  const auto gap = static_cast<float>(-std::log(params.min_p) * params.temperature);
  const float largest = *std::max_element(logits.begin(), logits.end());
  for (float& logit : logits) logit = within_gap(logit, largest, gap) ? logit : kNever;
}

void Sampler::State::constrain(std::span<float> logits) const {
  const bool may_end = position->is_complete();
  const auto vocab = static_cast<int64_t>(logits.size());
  for (int64_t first = 0; first < vocab; first += 64) {
    const uint64_t word = mask[static_cast<std::size_t>(first / 64)];
    if (word == ~uint64_t{0}) continue;
    for (int64_t id = first; id < std::min(first + 64, vocab); ++id) {
      const bool is_allowed = (word >> (id - first) & 1) != 0 ||
                              (may_end && std::find(ends.begin(), ends.end(), id) != ends.end());
      if (!is_allowed) logits[static_cast<std::size_t>(id)] = kNever;
    }
  }
}

// ---- Sampler ----------------------------------------------------------------------------------------------

Sampler::Sampler(const SamplingParams& params, const SamplingContext& context) : params_(params) {
  check_sampling(params_);
  const bool changes = has_penalties(params) || !params.logit_bias.empty() || params.min_tokens > 0 ||
                       (params.min_p > 0 && params.temperature > 0) || params.logprobs ||
                       is_constrained(params);
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
  PickRoom room;
  if (!state_) {
    const int32_t id = draw_token(logits.data(), vocab, sampling_row(*this), room.keys);
    ++picked_;
    return id;
  }
  std::vector<float> changed(logits.begin(), logits.end());
  StepSampling::prepare(*this, vocab);
  return StepSampling::pick(*this, changed, room);
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
  row.top_k = params.top_k <= kMostSampled ? static_cast<int32_t>(params.top_k) : 0;
  if (params.top_p < 1) row.share = static_cast<uint64_t>(std::ldexp(params.top_p, 64));
  return row;
}

void StepSampling::prepare(Sampler& sampler, int64_t vocab) {
  if (!sampler.state_) return;
  check_ids(sampler.params_, vocab);
  sampler.state_->prepare(vocab);
}

void StepSampling::prepare(std::span<Sampler* const> samplers, int64_t vocab) {
  samplers_.assign(samplers.begin(), samplers.end());
  rows_.assign(samplers.size(), {});
  logit_rows_.clear();
  for (std::size_t i = 0; i < samplers.size(); ++i) {
    if (samplers[i] == nullptr) continue;
    if (needs_logits(*samplers[i])) {
      prepare(*samplers[i], vocab);
      logit_rows_.push_back(static_cast<int64_t>(i));
    } else {
      rows_[i] = sampling_row(*samplers[i]);
    }
  }
  if (logit_rows_.empty()) return;
  room_.keys.reserve(static_cast<std::size_t>(vocab));
  room_.raw.reserve(static_cast<std::size_t>(vocab));
}

void StepSampling::finish(std::span<int32_t> ids, std::span<float> logits) {
  std::size_t next = 0;
  const std::size_t vocab = logit_rows_.empty() ? 0 : logits.size() / logit_rows_.size();
  for (std::size_t i = 0; i < samplers_.size(); ++i) {
    if (samplers_[i] == nullptr) continue;
    if (needs_logits(*samplers_[i])) {
      ids[i] = pick(*samplers_[i], logits.subspan(vocab * next++, vocab), room_);
    } else {
      samplers_[i]->take(ids[i]);
    }
  }
}

// Asks for no memory once it is prepared and the room is large enough for the row.
int32_t StepSampling::pick(Sampler& sampler, std::span<float> logits, PickRoom& room) {
  const SamplingParams& params = sampler.params_;
  if (params.logprobs) room.raw.assign(logits.begin(), logits.end());
  sampler.state_->change(params, sampler.picked_, logits);
  const int32_t id = draw_token(logits.data(), std::ssize(logits), sampling_row(sampler), room.keys);
  sampler.take(id);
  if (params.logprobs) write_logprobs(room.raw, id, *params.logprobs, sampler.state_->logprobs);
  return id;
}

}  // namespace shadowkv
