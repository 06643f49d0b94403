#include "eval/summary.h"

#include <algorithm>

namespace shadowkv::eval {
namespace {

template <typename T>
std::size_t index_in(std::vector<T>& known, const T& value) {
  const auto found = std::find(known.begin(), known.end(), value);
  if (found != known.end()) return static_cast<std::size_t>(found - known.begin());
  known.push_back(value);
  return known.size() - 1;
}

Percent percent(int64_t samples, double mean, Interval interval) {
  return {samples, 100 * mean, {100 * interval.low, 100 * interval.high}};
}

}  // namespace

Summary::Summary(std::span<const Result> results) {
  for (const Result& r : results) {
    index_in(tasks_, r.task);
    index_in(methods_, r.method);
    index_in(lengths_, r.length);
  }
  std::sort(lengths_.begin(), lengths_.end());
  scores_.resize(tasks_.size() * lengths_.size() * methods_.size());
  costs_.resize(lengths_.size() * methods_.size());
  std::vector<double> count(costs_.size()), tokens(costs_.size());
  for (const Result& r : results) {
    const std::size_t length = index_in(lengths_, r.length), method = index_in(methods_, r.method);
    scores_[(index_in(tasks_, r.task) * lengths_.size() + length) * methods_.size() + method].push_back(
        r.score);
    const std::size_t at = length * methods_.size() + method;
    costs_[at].device_bytes += static_cast<double>(r.device_bytes);
    costs_[at].host_bytes += static_cast<double>(r.host_bytes);
    costs_[at].token_seconds += r.decode_seconds;
    count[at] += 1;
    tokens[at] +=
        static_cast<double>(std::max<int64_t>(r.output_tokens - 1, 0));  // the first is the prefill's
  }
  for (std::size_t i = 0; i < costs_.size(); ++i) {
    costs_[i].device_bytes /= std::max(count[i], 1.0);
    costs_[i].host_bytes /= std::max(count[i], 1.0);
    costs_[i].token_seconds /= std::max(tokens[i], 1.0);
  }
}

std::vector<Summary::Scores> Summary::by_task(std::size_t length, std::size_t method) const {
  std::vector<Scores> all;
  for (std::size_t task = 0; task < tasks_.size(); ++task) all.push_back(scores(task, length, method));
  return all;
}

Percent Summary::cell(std::size_t task, std::size_t length, std::size_t method) const {
  const Scores& own = scores(task, length, method);
  return percent(static_cast<int64_t>(own.size()), mean_of(own), score_interval(own));
}

Percent Summary::average(std::size_t length, std::size_t method) const {
  const std::vector<Scores> groups = by_task(length, method);
  int64_t samples = 0;
  std::vector<double> means;
  for (const Scores& group : groups) {
    samples += static_cast<int64_t>(group.size());
    if (!group.empty()) means.push_back(mean_of(group));
  }
  return percent(samples, mean_of(means), average_interval(groups));
}

PairedDifference Summary::difference(std::size_t length, std::size_t method) const {
  PairedDifference result = paired_difference(by_task(length, 0), by_task(length, method));
  result.mean *= 100;
  result.interval = {100 * result.interval.low, 100 * result.interval.high};
  return result;
}

Summary::Cost Summary::cost(std::size_t length, std::size_t method) const {
  return costs_[length * methods_.size() + method];
}

}  // namespace shadowkv::eval
