// Asks a model every sample under every method, and keeps what it answered.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "eval/metrics.h"
#include "eval/result_file.h"
#include "eval/sample.h"

namespace shadowkv::eval {

struct Answer {
  std::string output;
  int64_t tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
  int64_t device_bytes = 0;
  int64_t host_bytes = 0;
};

// A model under several methods.
class Subject {
 public:
  virtual ~Subject() = default;
  [[nodiscard]] virtual std::string name() const = 0;  // what Result::run says
  [[nodiscard]] virtual const std::vector<std::string>& methods() const = 0;
  [[nodiscard]] virtual int64_t context() const = 0;  // tokens of prompt and answer at most
  [[nodiscard]] virtual std::vector<int32_t> encode(const Prompt& prompt) const = 0;
  // Greedy answers under the methods of those indices, from one prefill.
  [[nodiscard]] virtual std::vector<Answer> answer(std::span<const int32_t> ids,
                                                   std::span<const int64_t> methods,
                                                   int64_t max_new_tokens) = 0;
  // Greedy answers under one method to prompts of one conversation, each behind the answer before.
  [[nodiscard]] virtual std::vector<Answer> converse(std::span<const Prompt> turns, int64_t method,
                                                     int64_t max_new_tokens) = 0;
};

// Made when it is its turn: at large lengths all samples together would not fit in memory.
using SampleSource = std::vector<std::function<Sample()>>;

struct RunOptions {
  Scoring scoring = Scoring::ruler;
  // Before each sample and after the last: samples done of all, and the sample's task. May throw to stop.
  std::function<void(int64_t done, int64_t all, const std::string& task)> progress;
};

struct RunOutcome {
  std::vector<Result> results;  // of the samples asked for, in their order, method by method
  int64_t samples = 0;          // asked for
  int64_t skipped = 0;          // of them longer than the model's context
  int64_t found = 0;            // results that the file held already
  uint64_t prompts_hash = 0;    // of all prompts in their order
};

// Results that the file holds for the same run, prompt and method are not asked again; they are scored again.
[[nodiscard]] RunOutcome run_samples(const SampleSource& source, Subject& subject, ResultFile& file,
                                     const RunOptions& options);

}  // namespace shadowkv::eval
