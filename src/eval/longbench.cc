#include "eval/longbench.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "base/suggest.h"
#include "base/utf8.h"
#include "eval/corpus.h"
#include "eval/text.h"
#include "formats/json.h"

namespace shadowkv::eval {
namespace {

using Json = nlohmann::json;

constexpr const char* kFrom = "the benchmark's data (THUDM/LongBench) or MiniLongBench's finished prompts";

struct Facts {
  Metric metric;
  int64_t max_new_tokens;
  bool frame = true;        // may stand in a chat format
  bool characters = false;  // Chinese
  bool line = false;        // nothing of an answer counts behind its first line
};

const std::map<std::string, Facts, std::less<>>& facts() {
  static const std::map<std::string, Facts, std::less<>> all = {
      {"narrativeqa", {Metric::f1, 128}},
      {"qasper", {Metric::f1, 128}},
      {"multifieldqa_en", {Metric::f1, 64}},
      {"multifieldqa_zh", {Metric::f1, 64, true, true}},
      {"hotpotqa", {Metric::f1, 32}},
      {"2wikimqa", {Metric::f1, 32}},
      {"musique", {Metric::f1, 32}},
      {"dureader", {Metric::rouge, 128, true, true}},
      {"gov_report", {Metric::rouge, 512}},
      {"qmsum", {Metric::rouge, 512}},
      {"multi_news", {Metric::rouge, 512}},
      {"vcsum", {Metric::rouge, 512, true, true}},
      {"trec", {Metric::kind, 64, false, false, true}},
      {"triviaqa", {Metric::f1, 32, false, false, true}},
      {"samsum", {Metric::rouge, 128, false, false, true}},
      {"lsht", {Metric::kind, 64, false, false, true}},
      {"passage_count", {Metric::number, 32}},
      {"passage_retrieval_en", {Metric::number, 32}},
      {"passage_retrieval_zh", {Metric::number, 32}},
      {"lcc", {Metric::code, 64, false}},
      {"repobench-p", {Metric::code, 64, false}}};
  return all;
}

const Facts& facts_of(std::string_view task) {
  const auto found = facts().find(task);
  if (found == facts().end()) throw InvalidInput(unknown_name("task", task, longbench_tasks()));
  return found->second;
}

std::string text_of(const Json& line, const char* name, const std::string& place) {
  const auto found = line.find(name);
  require(found != line.end() && found->is_string(), "{}: \"{}\" is no text", place, name);
  return found->get<std::string>();
}

std::vector<std::string> texts_of(const Json& line, const char* name, const std::string& place) {
  const auto found = line.find(name);
  const bool are_texts =
      found != line.end() && found->is_array() && !found->empty() &&
      std::all_of(found->begin(), found->end(), [](const Json& j) { return j.is_string(); });
  require(are_texts, "{}: \"{}\" is no list of texts", place, name);
  return found->get<std::vector<std::string>>();
}

// A line has its prompt, or what a layout is filled with.
std::string prompt_of(const Json& line, const std::string& task, const std::string& place,
                      const std::map<std::string, std::string>& layouts) {
  if (line.contains("prompt")) return text_of(line, "prompt", place);
  const auto layout = layouts.find(task);
  require(layout != layouts.end(),
          "{} has no \"prompt\", and no layout of {} is known; name the benchmark's dataset2prompt.json",
          place, task);
  const std::string input = text_of(line, "input", place), context = text_of(line, "context", place);
  std::string prompt;
  for (std::string_view rest = layout->second; !rest.empty();) {  // in one pass: a context may hold "{input}"
    const bool is_input = rest.starts_with("{input}"), is_context = rest.starts_with("{context}");
    prompt += is_input ? std::string_view(input) : is_context ? std::string_view(context) : rest.substr(0, 1);
    rest.remove_prefix(is_input ? 7 : is_context ? 9 : 1);
  }
  return prompt;
}

// Where the character that holds byte `at` begins.
std::size_t character_at(std::string_view text, std::size_t at) {
  while (at > 0 && at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

// Most bytes, whole characters, that `fits` accepts; it accepts fewer where it accepts more.
template <typename Fits>
std::size_t most_bytes(std::string_view text, const Fits& fits) {
  std::size_t least = 0, beyond = text.size() + 1;
  while (beyond - least > 1) {
    const std::size_t middle = least + (beyond - least) / 2;
    (fits(middle) ? least : beyond) = middle;
  }
  return least;
}

}  // namespace

const std::vector<std::string>& longbench_tasks() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const auto& [name, task] : facts()) all.push_back(name);
    return all;
  }();
  return names;
}

bool counts_characters(std::string_view task) {
  return facts_of(task).characters;
}

bool counts_first_line(std::string_view task) {
  return facts_of(task).line;
}

std::map<std::string, std::string> read_layouts(const std::filesystem::path& path) {
  const JsonDocument json = parse_json(read_data_file(path, kFrom), path.string());
  require(json->is_object(), "{} is no JSON object of layouts by task", path.string());
  std::map<std::string, std::string> layouts;
  for (const auto& [task, layout] : json->items()) {
    require(layout.is_string(), "{}: the layout of \"{}\" is no text", path.string(), task);
    layouts[task] = layout.get<std::string>();
  }
  return layouts;
}

std::vector<Sample> read_longbench(const std::filesystem::path& folder, const std::string& task,
                                   const std::map<std::string, std::string>& layouts) {
  const Facts& fact = facts_of(task);
  const std::filesystem::path path = folder / (task + ".jsonl");
  std::vector<Sample> samples;
  for (const std::string& one : split_lines(read_data_file(path, kFrom))) {
    const std::string place = fmt::format("{}, sample {}", path.string(), samples.size() + 1);
    const JsonDocument line = parse_json(one, place);
    require(line->is_object(), "{} is no JSON object", place);
    Sample sample{.task = task,
                  .index = std::ssize(samples),
                  .prompt = {.question = prompt_of(*line, task, place, layouts), .frame = fact.frame},
                  .outputs = texts_of(*line, "answers", place),
                  .max_new_tokens = fact.max_new_tokens,
                  .metric = fact.metric};
    if (fact.metric == Metric::kind) sample.distractors = texts_of(*line, "all_classes", place);
    samples.push_back(std::move(sample));
  }
  require(!samples.empty(), "{} holds no samples", path.string());
  return samples;
}

Prompt cut_middle(const Prompt& prompt, int64_t tokens, const CountTokens& count) {
  if (count(prompt) <= tokens) return prompt;
  const std::string& text = prompt.question;
  const auto holds = [&](std::string part, int64_t most) {
    Prompt other = prompt;
    other.question = std::move(part);
    return count(other) <= most;
  };
  Prompt around = prompt;  // a chat frame, and what the tokenizer puts before every text
  around.question.clear();
  const int64_t kept = count(around), half = kept + (tokens - kept) / 2;
  const std::size_t first = most_bytes(
      text, [&](std::size_t bytes) { return holds(text.substr(0, character_at(text, bytes)), half); });
  const std::string begin = text.substr(0, character_at(text, first));
  const std::size_t last = most_bytes(text, [&](std::size_t bytes) {
    return holds(begin + text.substr(character_at(text, text.size() - bytes)), tokens);
  });
  Prompt cut = prompt;
  cut.question = begin + text.substr(character_at(text, text.size() - last));
  return cut;
}

}  // namespace shadowkv::eval
