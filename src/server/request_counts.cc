#include "server/request_counts.h"

#include <algorithm>

namespace shadowkv {
namespace {

void add_answered(RequestCounts& counts, const RequestReport& report) {
  const double decode_s = report.total_s - report.first_s;
  counts.total_s.add(report.total_s);
  counts.queue_s.add(report.waited_s);
  counts.prefill_s.add(report.first_s - report.waited_s);
  counts.decode_s.add(decode_s);
  counts.inference_s.add(report.total_s - report.waited_s);
  if (report.new_tokens > 1) counts.token_s.add(decode_s / static_cast<double>(report.new_tokens - 1));
  counts.prompt_tokens.add(static_cast<double>(report.prompt_tokens));
  counts.new_tokens.add(static_cast<double>(report.new_tokens));
}

}  // namespace

std::string_view name_of(RequestEnd end) {
  constexpr std::array<std::string_view, kRequestEnds> kNames = {"stop", "length", "abort", "error"};
  return kNames.at(static_cast<std::size_t>(end));
}

RequestEnd request_end_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return RequestEnd::stop;
    case FinishReason::length:
      return RequestEnd::length;
    case FinishReason::cancelled:
      break;
  }
  return RequestEnd::abort;
}

void BoundHistogram::add(double value) noexcept {
  const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  ++counts_[static_cast<std::size_t>(bound - bounds_.begin())];
  ++count_;
  sum_ += value;
}

void RequestCounter::add(const RequestReport& report, RequestEnd end) {
  const std::lock_guard lock(mutex_);
  ++counts_.ended.at(static_cast<std::size_t>(end));
  if (end == RequestEnd::stop || end == RequestEnd::length) add_answered(counts_, report);
}

RequestCounts RequestCounter::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace shadowkv
