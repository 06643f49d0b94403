// What the commands of `eval` share: options, the run itself, and what comes out of it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "args.h"
#include "eval/runner.h"
#include "eval_subject.h"
#include "methods.h"

namespace shadowkv::apps {

struct EvalArguments {
  EngineOptions engine;
  MethodsArguments methods{{}, "full;shadow;paper"};
  std::filesystem::path data;
  std::string lengths = "4096";
  int64_t samples = 10;
  int64_t seed = 42;
  std::filesystem::path out;
  std::filesystem::path report;
  bool chat = false, json = false;
};

// All of them, model and methods included.
void add_eval_options(CLI::App& app, EvalArguments& arguments);
// Those of samples that are not made to a length.
void add_finished_eval_options(CLI::App& app, EvalArguments& arguments);
// "all", or names of the known separated by commas; throws InvalidInput naming the known otherwise.
[[nodiscard]] std::vector<std::string> names_of(const std::string& text, const char* option,
                                                const std::vector<std::string>& known);
[[nodiscard]] std::vector<int64_t> lengths_of(const EvalArguments& arguments);

// What samples are made for.
struct SourceModel {
  eval::CountTokens count;  // by its tokenizer; good while the run lasts
  int64_t context = 0;      // tokens of prompt and answer at most
};
// Makes the samples once the model is there.
using MakeSource = std::function<eval::SampleSource(const SourceModel& model)>;

struct EvalRun {
  std::string title;  // "RULER"
  eval::Scoring scoring = eval::Scoring::ruler;
  // Called once when all is answered: SVG that stands first in the report; may be empty.
  std::function<std::vector<std::string>(const eval::RunOutcome& outcome)> figures;
};
// Loads the model, runs, prints the tables or the JSON, writes the report.
void run_eval(EvalArguments& arguments, const EvalRun& run, const MakeSource& make_source);

}  // namespace shadowkv::apps
