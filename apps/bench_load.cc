#include "bench_load.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/check.h"

namespace shadowkv::apps {

Span span_of(const std::string& text, const char* option) {
  const std::vector<int64_t> ends = parse_wholes(text, option, {1, kMostTokens});
  require(ends.size() <= 2 && ends.front() <= ends.back(),
          "{} is \"{}\"; it must be the least and the most tokens", option, text);
  return {ends.front(), ends.back()};
}

void add_load_options(CLI::App& app, LoadShape& shape) {
  const std::string group = "Load";
  add_whole(app, {"--requests", "COUNT", "Requests", group}, {1, 1'000'000}, shape.requests);
  add_text(app, {"--prompt-tokens", "TOKENS", "Of prompts, least and most, log-uniform", group},
           shape.prompt_tokens);
  add_text(app, {"--new-tokens", "TOKENS", "Of answers, least and most, uniform", group}, shape.new_tokens);
  add_whole(app, {"--seed", "NUMBER", "Of arrivals and lengths", group}, {0, INT64_MAX}, shape.seed);
}

std::vector<LoadItem> make_load(const LoadShape& shape) {
  const Span prompt = span_of(shape.prompt_tokens, "--prompt-tokens");
  const Span answer = span_of(shape.new_tokens, "--new-tokens");
  std::mt19937_64 random(static_cast<uint64_t>(shape.seed));
  const auto uniform = [&] { return std::uniform_real_distribution<double>(0, 1)(random); };
  const double ratio = static_cast<double>(prompt.most) / static_cast<double>(prompt.least);
  std::vector<LoadItem> items;
  double at_s = 0;
  for (int64_t i = 0; i < shape.requests; ++i) {
    const double length = static_cast<double>(prompt.least) * std::pow(ratio, uniform());
    const double more = uniform() * static_cast<double>(answer.most - answer.least + 1);
    items.push_back({.at_s = at_s,
                     .prompt_tokens = std::min(prompt.most, static_cast<int64_t>(length)),
                     .new_tokens = std::min(answer.most, answer.least + static_cast<int64_t>(more))});
    const double wait = -std::log(1 - uniform());
    if (shape.rate > 0) at_s += wait / shape.rate;
  }
  return items;
}

}  // namespace shadowkv::apps
