// Requests that arrive at random: the same for the same seed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "args.h"

namespace shadowkv::apps {

struct LoadShape {
  int64_t requests = 64;
  double rate = 1.0;                         // requests a second on average; 0: all at once
  std::string prompt_tokens = "1024,65536";  // least and most, log-uniform
  std::string new_tokens = "64,512";         // likewise, uniform
  int64_t seed = 1;
};

struct Span {
  int64_t least = 0, most = 0;
};
// "64,512" or "64"; throws InvalidInput naming the option.
[[nodiscard]] Span span_of(const std::string& text, const char* option);

// --requests, --prompt-tokens, --new-tokens and --seed.
void add_load_options(CLI::App& app, LoadShape& shape);

struct LoadItem {
  double at_s = 0;
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;
};
// A Poisson process.
[[nodiscard]] std::vector<LoadItem> make_load(const LoadShape& shape);

}  // namespace shadowkv::apps
