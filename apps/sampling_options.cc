#include "sampling_options.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string_view>

#include "args.h"
#include "base/check.h"

namespace shadowkv::apps {
namespace {

constexpr int64_t kMostLogprobs = 20;

void add_choice(CLI::App& app, SamplingParams& params) {
  const std::string group = "Sampling";
  add_real(app,
           {"--temperature", "NUMBER",
            "Randomness of the choice of tokens, 0 to 100; 0: always the likeliest", group},
           {0.0, 100.0}, params.temperature);
  add_whole(app, {"--top-k", "TOKENS", "Choose among so many of the likeliest tokens; 0: all", group},
            {0, std::numeric_limits<int32_t>::max()}, params.top_k);
  add_real(app,
           {"--top-p", "SHARE",
            "Choose among the likeliest tokens that make up this probability, above 0 and up to 1", group},
           {0.0, 1.0, true}, params.top_p);
  add_real(
      app,
      {"--min-p", "SHARE",
       "Choose among tokens at least so probable, as a share of the likeliest's probability, 0 to 1", group},
      {0.0, 1.0}, params.min_p);
  add_seed(app, {"--seed", "NUMBER", "Seed of the random choices; same seed, same tokens", group},
           params.seed);
}

void add_penalties(CLI::App& app, SamplingArguments& arguments) {
  const std::string group = "Sampling";
  SamplingParams& params = arguments.params;
  add_real(app,
           {"--repetition-penalty", "FACTOR",
            "Divides logits of tokens of prompt and answer (multiplies negative ones), above 0 and up to 10",
            group},
           {0.0, 10.0, true}, params.repetition_penalty);
  add_real(app, {"--presence-penalty", "LOGITS", "Taken off tokens that stand in the answer, -2 to 2", group},
           {-2.0, 2.0}, params.presence_penalty);
  add_real(app,
           {"--frequency-penalty", "LOGITS",
            "Taken off tokens for each time that they stand in the answer, -2 to 2", group},
           {-2.0, 2.0}, params.frequency_penalty);
  add_text(app,
           {"--logit-bias", "PAIRS",
            "Added to the logits of tokens: pairs of id and number from -100 to 100, such as 17=-100,5=2.5 "
            "[default: none]",
            group},
           arguments.logit_bias);
}

void add_ends(CLI::App& app, SamplingArguments& arguments) {
  const std::string group = "Answer";
  add_texts(app,
            {"--stop", "TEXT",
             "End the answer before this text, which is not shown; may be given several times "
             "[default: none]",
             group},
            arguments.params.stop);
  add_text(app, {"--stop-ids", "IDS", "Tokens that end the answer, such as 13,198 [default: none]", group},
           arguments.stop_ids);
  add_whole(app, {"--min-tokens", "TOKENS", "Tokens before which nothing ends the answer", group},
            {0, kMostTokens}, arguments.params.min_tokens);
  add_text(app,
           {"--logprobs", "TOKENS",
            "With --json: the log-probability of each token and of so many of the likeliest, 0 to 20 "
            "[default: none]",
            group},
           arguments.logprobs);
}

void add_constraints(CLI::App& app, SamplingArguments& arguments) {
  const std::string group = "Answer";
  add_text(app, {"--regex", "PATTERN", "What the whole answer must match [default: none]", group},
           arguments.params.regex);
  add_text(app,
           {"--json-schema", "SCHEMA",
            "The answer must be JSON that satisfies this schema: a file, or the schema itself, which begins "
            "with { [default: none]",
            group},
           arguments.json_schema);
  add_flag(app, {"--json-object", "", "The answer must be a JSON object", group},
           arguments.params.json_object);
}

// A schema that stands on the command line, or in a file.
std::string read_schema(const std::string& given) {
  if (given.empty() || given.front() == '{') return given;
  std::ifstream file(given, std::ios::binary);
  std::error_code ignored;
  require(file.is_open() && !std::filesystem::is_directory(given, ignored),
          "cannot read the schema {}; check --json-schema", given);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  require(!text.empty(), "the schema {} is empty; check --json-schema", given);
  return text;
}

// "17=-100,5=2.5"
std::map<int32_t, double> parse_biases(std::string_view text) {
  std::map<int32_t, double> biases;
  for_each_part(text, [&](std::string_view part) {
    const std::size_t equals = part.find('=');
    require(equals != std::string_view::npos,
            "--logit-bias has \"{}\"; it must be pairs such as 17=-100, separated by commas", part);
    const int64_t id =
        parse_whole(part.substr(0, equals), "--logit-bias", {0, std::numeric_limits<int32_t>::max()});
    const double bias = parse_real(part.substr(equals + 1), "--logit-bias", {-100, 100});
    require(biases.emplace(static_cast<int32_t>(id), bias).second, "--logit-bias names token {} twice", id);
  });
  return biases;
}

// The likeliest token is taken, whatever else is said about the others.
void check_greedy(const SamplingParams& params) {
  const auto refuse = [](bool given, std::string_view option, double value) {
    require(!given,
            "{} = {} has no effect at --temperature 0, which takes the likeliest token; give a temperature "
            "above 0 or drop it",
            option, value);
  };
  if (params.temperature > 0) return;
  refuse(params.top_k != 0, "--top-k", static_cast<double>(params.top_k));
  refuse(params.top_p != 1, "--top-p", params.top_p);
  refuse(params.min_p != 0, "--min-p", params.min_p);
}

}  // namespace

void add_sampling_options(CLI::App& app, SamplingArguments& arguments) {
  add_choice(app, arguments.params);
  add_penalties(app, arguments);
  add_ends(app, arguments);
  add_constraints(app, arguments);
}

SamplingParams sampling_of(const SamplingArguments& arguments) {
  SamplingParams params = arguments.params;
  params.logit_bias = parse_biases(arguments.logit_bias);
  params.stop_ids = parse_ids(arguments.stop_ids, "--stop-ids");
  if (!arguments.logprobs.empty()) {
    params.logprobs = parse_whole(arguments.logprobs, "--logprobs", {0, kMostLogprobs});
  }
  params.json_schema = read_schema(arguments.json_schema);
  check_greedy(params);
  check_sampling(params);
  return params;
}

}  // namespace shadowkv::apps
