// What a server under load did, by the names and definitions that `vllm bench serve` has.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bench_report.h"
#include "server/load_client.h"

namespace shadowkv::apps {

// Most milliseconds of a request that counts for the goodput.
struct LoadGoals {
  std::optional<double> ttft, tpot, e2el;
  [[nodiscard]] bool given() const { return ttft || tpot || e2el; }
};
// "ttft:500,tpot:50"; throws InvalidInput.
[[nodiscard]] LoadGoals load_goals_of(const std::string& text);

// Of an answer: time to first token, time per further token, between pieces, and to the end.
struct LoadTimes {
  double ttft_ms = 0;
  std::optional<double> tpot_ms = {};  // none for answers of one token
  std::vector<double> itl_ms = {};
  double e2el_ms = 0;

  explicit LoadTimes(const LoadAnswer& answer);  // that has pieces
  [[nodiscard]] bool meets(const LoadGoals& goals) const;
};

// Those that failed count only as such.
[[nodiscard]] Json load_json(const std::vector<LoadAnswer>& answers, const LoadGoals& goals);
[[nodiscard]] std::string load_text(const Json& report);

}  // namespace shadowkv::apps
