#include "eval/metrics.h"

#include <algorithm>
#include <functional>

#include "base/check.h"
#include "base/suggest.h"
#include "eval/longbench.h"
#include "eval/text.h"

namespace shadowkv::eval {
namespace {

using Words = std::vector<std::string>;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_punctuation(char c) {
  const auto code = static_cast<unsigned char>(c);
  return code > 0x20 && code < 0x7f && !is_digit(c) && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z');
}

bool contains(const Words& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// Share of the references that `found` accepts.
double share(const Words& references, const std::function<bool(const std::string&)>& found) {
  if (references.empty()) return 0;
  const auto count = std::count_if(references.begin(), references.end(), found);
  return static_cast<double>(count) / static_cast<double>(references.size());
}

// The reference as a word of the output, or as its beginning.
bool is_word_of(const std::string& reference, std::string_view output) {
  const std::string text = normalized(output), wanted = normalized(reference);
  return text.starts_with(wanted) || contains(split_words(text), wanted);
}

// Of InfiniteBench: dashes hold a word together, the punctuation of JSON and of sentences does not.
bool is_json_word(const std::string& reference, std::string_view output) {
  std::string text(output);
  for (char& c : text) {
    if (std::string_view("\n:\"'.,?!{}").find(c) != std::string_view::npos) c = ' ';
  }
  return contains(split_words(text), reference);
}

// Of BABILong: what follows the first sentence, or looks like a further example, does not count.
bool is_only_label(const Sample& sample, std::string_view output) {
  std::string text = lower_case(output);
  text = text.substr(0, text.find('.'));
  text = text.substr(0, text.find("<context>"));
  text = text.substr(0, text.find("<example>"));
  const auto occurs = [&](const std::string& label) {
    return text.find(lower_case(label)) != std::string::npos;
  };
  return occurs(sample.outputs.front()) &&
         std::none_of(sample.distractors.begin(), sample.distractors.end(), occurs);
}

double string_match(const Sample& sample, std::string_view output) {
  const std::string text = lower_case(clean_output(output));
  const auto occurs = [&](const std::string& reference) {
    return text.find(lower_case(reference)) != std::string::npos;
  };
  const double found = share(sample.outputs, occurs);
  return sample.metric == Metric::part ? static_cast<double>(found > 0) : found;
}

double shadowkv_score(const Sample& sample, std::string_view output) {
  if (sample.metric == Metric::part) {  // either within the other
    const std::string text = normalized(output);
    return static_cast<double>(share(sample.outputs, [&](const std::string& reference) {
                                 const std::string wanted = normalized(reference);
                                 return text.find(wanted) != std::string::npos ||
                                        wanted.find(text) != std::string::npos;
                               }) > 0);
  }
  if (sample.task == "niah_multivalue" || sample.task == "niah_multiquery") {
    const Words runs = digit_runs(output);
    return share(sample.outputs, [&](const std::string& reference) { return contains(runs, reference); });
  }
  if (sample.task.starts_with("niah")) {
    return share(sample.outputs, [&](const std::string& reference) { return is_word_of(reference, output); });
  }
  const Words words = split_words(normalized(output));
  return share(sample.outputs,
               [&](const std::string& reference) { return contains(words, normalized(reference)); });
}

}  // namespace

Scoring parse_scoring(std::string_view name) {
  if (name == "ruler") return Scoring::ruler;
  if (name == "shadowkv") return Scoring::shadowkv;
  throw InvalidInput(unknown_name("metric", name, std::vector<std::string>{"ruler", "shadowkv"}));
}

std::string clean_output(std::string_view output) {
  std::string text = strip(output);
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20) c = '\n';
  }
  return strip(text);
}

std::string normalized(std::string_view text) {
  std::string letters;
  for (const char c : lower_case(text)) {
    if (!is_punctuation(c)) letters += c;
  }
  Words words = split_words(letters);
  std::erase_if(words, [](const std::string& word) { return word == "a" || word == "an" || word == "the"; });
  return join(words, " ");
}

double score(const Sample& sample, std::string_view output, Scoring scoring) {
  const auto of_first = [&](const auto& right) {
    return static_cast<double>(!sample.outputs.empty() && right(sample.outputs.front()));
  };
  if (sample.metric >= Metric::f1) return longbench_score(sample, output);
  if (sample.metric == Metric::contained) {
    return of_first(
        [&](const std::string& r) { return normalized(output).find(normalized(r)) != std::string::npos; });
  }
  if (sample.metric == Metric::word)
    return of_first([&](const std::string& r) { return is_json_word(r, output); });
  if (sample.metric == Metric::only)
    return of_first([&](const std::string&) { return is_only_label(sample, output); });
  return scoring == Scoring::ruler ? string_match(sample, output) : shadowkv_score(sample, output);
}

}  // namespace shadowkv::eval
