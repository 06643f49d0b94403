#include "bench_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "interrupt.h"

namespace shadowkv::apps {
namespace {

// Twins differ by what the order of sums in a batched product changes, if at all.
constexpr double kTwinLimit = 0.01;
// bfloat16 rounds by up to 2^-9 of a number; int8 by up to 1/254 of its row's largest, which turns scores. On
// random weights a lost token changes logits by 24 %, two tokens exchanged by 32 %, half of the chunks by
// 17 %.
constexpr double kDecodeLimit = 0.05;
constexpr double kDecodeLimitInt8 = 0.10;
// A local window beyond this is shortened for the check, so that its prompt can stay short.
constexpr int64_t kCheckWindow = 64;

// The most sequences of that many tokens that both memories hold, with room left for a step's activations.
int64_t largest_batch(const Engine& engine, const AttentionConfig& config, int64_t tokens) {
  constexpr int64_t kActivations = int64_t{3} << 29;  // 1.5 GiB: logits, MLP, scores, rebuilt keys
  const SequenceFootprint one = engine.footprint(config, tokens);
  const EngineMemory memory = engine.memory();
  const int64_t device = memory.budget[0] - memory.held[0] - kActivations;
  const int64_t host = memory.budget[1] - memory.held[1];
  const auto fits = [&](int64_t batch) {
    const int64_t spilled = std::max<int64_t>(0, batch * (one.device + one.either) - device);
    return batch * one.device <= device && batch * one.host + spilled <= host;
  };
  int64_t batch = 0;
  while (fits(batch + 1)) ++batch;
  if (batch == 0) {
    throw OutOfMemory(fmt::format("not even one sequence of {} tokens fits; shorten --context", tokens));
  }
  return batch;
}

// Root of the mean square of the difference over that of the expected numbers.
double relative_error(std::span<const float> found, std::span<const float> expected) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double x = expected[i], d = found[i] - x;
    difference += d * d;
    size += x * x;
  }
  return std::sqrt(difference / size);
}

double total(const std::vector<OpTime>& times) {
  double seconds = 0;
  for (const OpTime& time : times) seconds += time.seconds;
  return seconds;
}

bool stores_int8(const AttentionConfig& config) {
  if (config.method != Method::shadow) return config.values == StorageType::int8;
  const auto options = list_options(config);
  return std::any_of(options.begin(), options.end(),
                     [](const AttentionOption& option) { return option.value == "int8"; });
}

// The same method where it may choose all and lose nothing but by rounding.
AttentionConfig collapsed(const ModelInfo& model, AttentionConfig config, int64_t tokens) {
  if (config.method == Method::full) return config;
  config.exact_below = 0;
  config.local_window = std::min(config.local_window, kCheckWindow);
  config.sparse_budget = std::max(tokens, config.chunk_size);
  config.sparse_budget_per = 0;
  config.sparse_budget_share = 0;
  config.rank = std::max(config.rank, std::min(tokens, model.kv_heads * model.head_dim));
  return config;
}

}  // namespace

std::vector<int32_t> TokenSource::take(int64_t count) {
  std::vector<int32_t> ids(static_cast<std::size_t>(count));
  std::generate(ids.begin(), ids.end(), [this] { return next(); });
  return ids;
}

StepTimes::StepTimes(std::vector<double> unsorted) : ms(std::move(unsorted)) {
  std::sort(ms.begin(), ms.end());
}

double StepTimes::at(double share) const {
  const double place = share * static_cast<double>(ms.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, ms.size() - 1);
  return ms[below] + (place - static_cast<double>(below)) * (ms[above] - ms[below]);
}

MadeUpBatch::MadeUpBatch(Engine& engine, const Plan& plan)
    : session_(engine.open({plan.config, 1})), tokens_(engine.model().vocab_size) {
  const int64_t most = plan.cell.context + plan.growth;
  const int64_t size = plan.cell.batch > 0 ? plan.cell.batch : largest_batch(engine, *plan.config, most);
  for (int64_t i = 0; i < size; ++i) {
    check_interrupted();
    batch_.push_back({session_->add(most), 0});
    const int64_t seed = i + 1 < size ? i : 0;  // the last is the first one's twin
    session_->fill(batch_.back().sequence, plan.cell.context, static_cast<uint64_t>(seed));
  }
  session_->force_hit_share(0, plan.forced_hits.value_or(-1));
  if (!plan.sampling) return;
  const std::vector<int32_t> prompt = tokens_.take(plan.cell.context);
  for (int64_t i = 0; i < size; ++i) {
    samplers_.push_back(engine.make_sampler(*plan.sampling, prompt, true));
  }
}

void MadeUpBatch::draw_tokens() {
  for (SequenceToken& one : batch_) one.token = tokens_.next();
  batch_.back().token = batch_.front().token;
}

void MadeUpBatch::step() {
  check_interrupted();
  draw_tokens();
  if (samplers_.empty()) {
    (void)session_->decode_greedy(0, batch_);
    return;
  }
  std::vector<Sampler*> samplers;
  samplers.reserve(samplers_.size());
  for (Sampler& sampler : samplers_) samplers.push_back(&sampler);
  (void)session_->decode_sampled(0, batch_, samplers);
}

void MadeUpBatch::checked_step() {
  check_interrupted();
  draw_tokens();
  const std::vector<float> logits = session_->decode(0, batch_);
  const auto finite = [](float x) { return std::isfinite(x); };
  if (!std::all_of(logits.begin(), logits.end(), finite)) {
    throw DeviceFailure("a decode step gave logits that are not finite; its times would mean nothing");
  }
  const std::size_t vocab = logits.size() / batch_.size();
  const std::span<const float> all(logits);
  const double error = relative_error(all.last(vocab), all.first(vocab));
  if (error > kTwinLimit) {
    throw DeviceFailure(fmt::format(
        "two sequences of the same content differ by {:.1f} % of their logits within one batch, more than "
        "{:.1f} %; times would mean nothing",
        100 * error, 100 * kTwinLimit));
  }
}

std::vector<OpTime> MadeUpBatch::op_times() {
  constexpr int64_t kUntimed = 2;  // on a GPU one step warms up and one records
  session_->time_ops(true);
  std::vector<std::vector<OpTime>> steps;
  for (int64_t s = 0; s < kOpSteps; ++s) {
    step();
    std::vector<OpTime> times = session_->op_times();
    if (s >= kUntimed) steps.push_back(std::move(times));
  }
  session_->time_ops(false);
  const auto middle = steps.begin() + static_cast<std::ptrdiff_t>(steps.size() / 2);
  std::nth_element(steps.begin(), middle, steps.end(),
                   [](const auto& a, const auto& b) { return total(a) < total(b); });
  return *middle;
}

DecodeCheck check_decode(Engine& engine, const NamedMethod& method) {
  constexpr int64_t kSteps = 4, kOpenChunks = 8;
  const ModelInfo& model = engine.model();
  const AttentionConfig& timed = method.config;
  const int64_t wanted = std::min(timed.local_window, kCheckWindow) + kOpenChunks * timed.chunk_size;
  const int64_t prompt = std::min(wanted, model.context - kSteps);
  const AttentionConfig config = collapsed(model, timed, prompt);
  TokenSource tokens(model.vocab_size);
  const std::vector<int32_t> ids = tokens.take(prompt + kSteps);
  const std::span<const int32_t> all(ids);
  const std::unique_ptr<Session> session = engine.open({&config, 1});
  const SequenceId decoded = session->add(prompt + kSteps), read = session->add(prompt + kSteps);
  (void)session->prefill(decoded, all.first(static_cast<std::size_t>(prompt)));
  std::vector<float> logits;
  for (const int32_t id : all.subspan(static_cast<std::size_t>(prompt))) {
    const SequenceToken next{decoded, id};
    logits = session->decode(0, {&next, 1});
  }
  const DecodeCheck check{.tokens = prompt + kSteps,
                          .error = relative_error(logits, session->prefill(read, all)),
                          .limit = stores_int8(timed) ? kDecodeLimitInt8 : kDecodeLimit};
  if (!(check.error <= check.limit)) {
    throw DeviceFailure(fmt::format(
        "{}: decoding a prompt of {} tokens differs from its exact prefill by {:.2f} % of the logits, more "
        "than {:.0f} %; times would mean nothing",
        method.label, prompt, 100 * check.error, 100 * check.limit));
  }
  return check;
}

}  // namespace shadowkv::apps
