// What became of the requests that a server took: how they ended, how long they were and took.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "shadowkv/service.h"

namespace shadowkv {

enum class RequestEnd : uint8_t {
  stop,    // answered, as FinishReason::stop
  length,  // answered, as FinishReason::length
  abort,   // given up: by its client as a rule
  error    // failed
};
constexpr int kRequestEnds = 4;
// "stop", "length", "abort" or "error", which are vLLM's words.
[[nodiscard]] std::string_view name_of(RequestEnd end);
// Of a request that did not fail.
[[nodiscard]] RequestEnd request_end_of(FinishReason reason);

// Counts of values up to each of a few bounds, as Prometheus has them: exact there, and nothing in between.
class BoundHistogram {
 public:
  // bounds: rising; they outlive this.
  explicit BoundHistogram(std::span<const double> bounds) : bounds_(bounds), counts_(bounds.size() + 1, 0) {}

  void add(double value) noexcept;
  [[nodiscard]] std::span<const double> bounds() const { return bounds_; }
  // Values up to the bucket-th bound and over the one before; from 0, and one more for what is over all.
  [[nodiscard]] int64_t in_bucket(std::size_t bucket) const { return counts_.at(bucket); }
  [[nodiscard]] int64_t count() const { return count_; }  // of all
  [[nodiscard]] double sum() const { return sum_; }       // of all values

 private:
  std::span<const double> bounds_;
  std::vector<int64_t> counts_;
  int64_t count_ = 0;
  double sum_ = 0;
};

// vLLM's bounds, so that its dashboards' quantiles mean the same here: seconds of a request,
inline constexpr std::array kRequestSeconds = {0.3,  0.5,  0.8,   1.0,   1.5,   2.0,    2.5,
                                               5.0,  10.0, 15.0,  20.0,  30.0,  40.0,   50.0,
                                               60.0, 120., 240.0, 480.0, 960.0, 1920.0, 7680.0};
// of a token,
inline constexpr std::array kTokenSeconds = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,  0.3,  0.4, 0.5,
                                             0.75, 1.0,   2.5,  5.0,   7.5, 10.0, 20.0, 40.0, 80.0};
// and tokens, as far as long contexts go.
inline constexpr std::array kTokens = {1.,  2.,  5.,  10., 20., 50., 100., 200., 500., 1e3, 2e3,
                                       5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5,  1e6,  2e6,  5e6, 1e7};

// Histograms are of requests that were answered (stop, length): what others took says when they were given
// up.
struct RequestCounts {
  std::array<int64_t, kRequestEnds> ended = {};  // by RequestEnd
  BoundHistogram total_s{kRequestSeconds};       // from submission to the last token; its parts are
  BoundHistogram queue_s{kRequestSeconds};       // until its prompt began to be read,
  BoundHistogram prefill_s{kRequestSeconds};     // from there to the first token,
  BoundHistogram decode_s{kRequestSeconds};      // and from there to the last
  BoundHistogram inference_s{kRequestSeconds};   // the latter two
  BoundHistogram token_s{kTokenSeconds};  // a token after the first, on average; of answers that have some
  BoundHistogram prompt_tokens{kTokens};
  BoundHistogram new_tokens{kTokens};
};

// Counts requests as they end, on any thread.
class RequestCounter {
 public:
  void add(const RequestReport& report, RequestEnd end);
  [[nodiscard]] RequestCounts counts() const;

 private:
  mutable std::mutex mutex_;
  RequestCounts counts_;
};

}  // namespace shadowkv
