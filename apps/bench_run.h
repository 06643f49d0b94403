// Decode over made-up state: sequences that hold as much as if they had read prompts, filled in seconds.
#pragma once

#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "bench_options.h"

namespace shadowkv::apps {

// Random ids below `vocab`, the same on every run.
class TokenSource {
 public:
  explicit TokenSource(int64_t vocab) : pick_(0, static_cast<int32_t>(vocab - 1)) {}
  [[nodiscard]] int32_t next() { return pick_(random_); }
  [[nodiscard]] std::vector<int32_t> take(int64_t count);

 private:
  std::mt19937_64 random_{1};
  std::uniform_int_distribution<int32_t> pick_;
};

// Milliseconds of steps.
struct StepTimes {
  std::vector<double> ms;  // sorted, at least one

  explicit StepTimes(std::vector<double> unsorted);
  [[nodiscard]] double at(double share) const;  // 0: least, 0.5: median, 1: most
  [[nodiscard]] double median() const { return at(0.5); }
};

// One method's sequences in flight.
class MadeUpBatch {
 public:
  struct Plan {
    const AttentionConfig* config = nullptr;
    Cell cell;
    int64_t growth = 0;  // tokens that sequences may grow by
    std::optional<double> forced_hits;
    std::optional<SamplingParams> sampling = {};  // of step(); none: the likeliest token
  };
  // Throws OutOfMemory when it does not fit. batch 0 takes the most that fit.
  MadeUpBatch(Engine& engine, const Plan& plan);

  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(batch_.size()); }
  [[nodiscard]] SessionStatistics statistics() const { return session_->statistics(0); }

  // One more random token for each sequence.
  void step();
  // The same, but throws DeviceFailure unless all logits are finite and the last sequence, which holds the
  // same and is given the same tokens as the first, has the same logits.
  void checked_step();
  // Seconds of each op of a step, the middle one of several.
  [[nodiscard]] std::vector<OpTime> op_times();

  static constexpr int64_t kOpSteps = 5;  // that op_times() takes

 private:
  void draw_tokens();

  std::unique_ptr<Session> session_;
  std::vector<SequenceToken> batch_;
  std::vector<Sampler> samplers_;  // of the batch, or none
  TokenSource tokens_;
};

// What a method's decode step is checked against before it is timed: after a short prompt with every chunk
// within the budget and a rank that holds it whole, decoding must equal the exact prefill of the same tokens
// but for rounding. Checks the fourth step, which a GPU replays from its recording.
struct DecodeCheck {
  int64_t tokens = 0;  // of the prompt and the steps
  double error = 0;    // of the logits: root of the mean square difference over that of the logits
  double limit = 0;
};
// Throws DeviceFailure when the error is over the limit.
[[nodiscard]] DecodeCheck check_decode(Engine& engine, const NamedMethod& method);

}  // namespace shadowkv::apps
