// Scores of a run by task, length and method.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/result_file.h"
#include "eval/statistics.h"

namespace shadowkv::eval {

// Mean and 95 % interval, in per cent.
struct Percent {
  int64_t samples = 0;
  double mean = 0;
  Interval interval;
};

class Summary {
 public:
  explicit Summary(std::span<const Result> results);

  // Each in the order of its first result; lengths rise.
  [[nodiscard]] const std::vector<std::string>& tasks() const { return tasks_; }
  [[nodiscard]] const std::vector<std::string>& methods() const { return methods_; }
  [[nodiscard]] const std::vector<int64_t>& lengths() const { return lengths_; }

  [[nodiscard]] Percent cell(std::size_t task, std::size_t length, std::size_t method) const;
  // The plain mean over the tasks that have samples of that length.
  [[nodiscard]] Percent average(std::size_t length, std::size_t method) const;
  // Of a method less the first, over the tasks of a length, in points of 100.
  [[nodiscard]] PairedDifference difference(std::size_t length, std::size_t method) const;
  // Over all samples of a length: mean bytes held, mean seconds of an output token.
  struct Cost {
    double device_bytes = 0;
    double host_bytes = 0;
    double token_seconds = 0;
  };
  [[nodiscard]] Cost cost(std::size_t length, std::size_t method) const;

 private:
  using Scores = std::vector<double>;
  [[nodiscard]] const Scores& scores(std::size_t task, std::size_t length, std::size_t method) const {
    return scores_[(task * lengths_.size() + length) * methods_.size() + method];
  }
  [[nodiscard]] std::vector<Scores> by_task(std::size_t length, std::size_t method) const;

  std::vector<std::string> tasks_;
  std::vector<std::string> methods_;
  std::vector<int64_t> lengths_;
  std::vector<Scores> scores_;  // [tasks][lengths][methods]
  std::vector<Cost> costs_;     // [lengths][methods]
};

}  // namespace shadowkv::eval
