#include "load_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "args.h"
#include "base/check.h"

namespace shadowkv::apps {
namespace {

// Between the two nearest, as numpy does. values: in order, at least one.
double percentile(const std::vector<double>& values, double share) {
  const double at = share * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

void add_times(Json& report, const std::string& name, std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto count = static_cast<double>(std::max<std::size_t>(1, values.size()));
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  report[fmt::format("mean_{}_ms", name)] = mean;
  report[fmt::format("median_{}_ms", name)] = values.empty() ? 0 : percentile(values, 0.5);
  report[fmt::format("std_{}_ms", name)] = std::sqrt(squares / count);
  report[fmt::format("p99_{}_ms", name)] = values.empty() ? 0 : percentile(values, 0.99);
}

// Of all times together, by the names of the report.
struct AllTimes {
  std::vector<double> ttft, tpot, itl, e2el;

  void add(LoadTimes times) {
    ttft.push_back(times.ttft_ms);
    if (times.tpot_ms) tpot.push_back(*times.tpot_ms);
    itl.insert(itl.end(), times.itl_ms.begin(), times.itl_ms.end());
    e2el.push_back(times.e2el_ms);
  }
};

// Centred in a line of 50.
std::string heading(const std::string& title, char line) {
  const std::size_t left = (50 - title.size()) / 2;
  return std::string(left, line) + title + std::string(50 - title.size() - left, line) + "\n";
}

template <typename Value>
std::string row(const std::string& name, const Value& value) {
  return fmt::format("{:<40} {:<9}\n", name + ":", value);
}

std::string rate_row(const Json& report, const std::string& name, const char* key) {
  return row(name, fmt::format("{:.2f}", report.at(key).get<double>()));
}

}  // namespace

LoadGoals load_goals_of(const std::string& text) {
  LoadGoals goals;
  for_each_part(text, [&](std::string_view part) {
    const std::size_t colon = part.find(':');
    const std::string_view name = part.substr(0, colon);
    std::optional<double>* goal = name == "ttft"   ? &goals.ttft
                                  : name == "tpot" ? &goals.tpot
                                  : name == "e2el" ? &goals.e2el
                                                   : nullptr;
    require(goal != nullptr && colon != std::string_view::npos,
            "--goodput holds \"{}\"; it must be limits in ms such as ttft:500,tpot:50,e2el:10000", part);
    *goal = parse_real(part.substr(colon + 1), "--goodput", {0, 1e9, true});
  });
  return goals;
}

LoadTimes::LoadTimes(const LoadAnswer& answer)
    : ttft_ms(1e3 * (answer.pieces_s.front() - answer.begun_s)),
      e2el_ms(1e3 * (answer.pieces_s.back() - answer.begun_s)) {
  if (answer.new_tokens > 1) tpot_ms = (e2el_ms - ttft_ms) / static_cast<double>(answer.new_tokens - 1);
  for (std::size_t i = 1; i < answer.pieces_s.size(); ++i)
    itl_ms.push_back(1e3 * (answer.pieces_s[i] - answer.pieces_s[i - 1]));
}

bool LoadTimes::meets(const LoadGoals& goals) const {
  return (!goals.ttft || ttft_ms <= *goals.ttft) && (!goals.tpot || tpot_ms.value_or(0) <= *goals.tpot) &&
         (!goals.e2el || e2el_ms <= *goals.e2el);
}

Json load_json(const std::vector<LoadAnswer>& answers, const LoadGoals& goals) {
  AllTimes all;
  int64_t prompt_tokens = 0, new_tokens = 0, good = 0;
  double duration_s = 1e-9;
  for (const LoadAnswer& answer : answers) {
    duration_s = std::max(duration_s, answer.ended_s);
    if (!answer.error.empty() || answer.pieces_s.empty()) continue;
    const LoadTimes times(answer);
    good += times.meets(goals) ? 1 : 0;
    prompt_tokens += answer.prompt_tokens;
    new_tokens += answer.new_tokens;
    all.add(times);
  }
  const auto per_s = [&](int64_t count) { return static_cast<double>(count) / duration_s; };
  const auto completed = std::ssize(all.e2el);
  Json report = {{"duration", duration_s},
                 {"completed", completed},
                 {"failed", std::ssize(answers) - completed},
                 {"total_input_tokens", prompt_tokens},
                 {"total_output_tokens", new_tokens},
                 {"request_throughput", per_s(completed)},
                 {"request_goodput", goals.given() ? Json(per_s(good)) : Json()},
                 {"output_throughput", per_s(new_tokens)},
                 {"total_token_throughput", per_s(prompt_tokens + new_tokens)}};
  add_times(report, "ttft", std::move(all.ttft));
  add_times(report, "tpot", std::move(all.tpot));
  add_times(report, "itl", std::move(all.itl));
  add_times(report, "e2el", std::move(all.e2el));
  return report;
}

std::string load_text(const Json& report) {
  constexpr std::array<std::pair<const char*, const char*>, 4> kTimes = {
      {{"TTFT", "Time to First Token"},
       {"TPOT", "Time per Output Token (excl. 1st token)"},
       {"ITL", "Inter-token Latency"},
       {"E2EL", "End-to-end Latency"}}};
  std::string text = heading(" Serving Benchmark Result ", '=') +
                     row("Successful requests", report.at("completed").get<int64_t>()) +
                     row("Failed requests", report.at("failed").get<int64_t>()) +
                     rate_row(report, "Benchmark duration (s)", "duration") +
                     row("Total input tokens", report.at("total_input_tokens").get<int64_t>()) +
                     row("Total generated tokens", report.at("total_output_tokens").get<int64_t>()) +
                     rate_row(report, "Request throughput (req/s)", "request_throughput");
  if (!report.at("request_goodput").is_null())
    text += rate_row(report, "Request goodput (req/s)", "request_goodput");
  text += rate_row(report, "Output token throughput (tok/s)", "output_throughput") +
          rate_row(report, "Total token throughput (tok/s)", "total_token_throughput");
  for (const auto& [name, title] : kTimes) {
    std::string lower = name;
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    const auto add = [&](const char* kind, const char* key) {
      text += rate_row(report, fmt::format("{} {} (ms)", kind, name),
                       fmt::format("{}_{}_ms", key, lower).c_str());
    };
    text += heading(title, '-');
    add("Mean", "mean");
    add("Median", "median");
    add("P99", "p99");
  }
  return text + heading("", '=');
}

}  // namespace shadowkv::apps
