// How far one method's next-token distributions are from another's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace shadowkv::apps {

// Index of the largest, the first of equals; at least one number.
[[nodiscard]] int64_t argmax(std::span<const float> logits);
// log softmax of one row, in double.
[[nodiscard]] std::vector<double> log_probabilities(std::span<const float> logits);
// Kullback-Leibler divergence in nats of two rows of log probabilities, never below 0.
[[nodiscard]] double divergence(std::span<const double> reference, std::span<const double> other);

struct DivergenceSummary {
  int64_t steps = 0;
  double mean = 0, median = 0, p90 = 0, p99 = 0, max = 0;  // KL(reference || other), nats
  double same_top = 0;                                     // share of steps with the same likeliest token
};

// Gathers steps of one method against the reference.
class Divergences {
 public:
  // Rows of log probabilities over one vocabulary.
  void add(std::span<const double> reference, std::span<const double> other);
  [[nodiscard]] DivergenceSummary summary() const;

 private:
  std::vector<double> values_;
  int64_t same_top_ = 0;
};

}  // namespace shadowkv::apps
