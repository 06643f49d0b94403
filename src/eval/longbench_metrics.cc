#include <algorithm>

#include "base/utf8.h"
#include "eval/longbench.h"
#include "eval/metrics.h"
#include "eval/similarity.h"
#include "eval/text.h"

namespace shadowkv::eval {
namespace {

using Words = std::vector<std::string>;

// Punctuation of Chinese texts, which does not count there.
constexpr std::string_view kChinesePunctuation =
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚"
    "〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏.";

Words words_of(std::string_view text, bool characters) {
  if (!characters) return split_words(normalized(text));
  Words words = characters_of(normalized(text));
  std::erase_if(words,
                [](const std::string& c) { return kChinesePunctuation.find(c) != std::string_view::npos; });
  return words;
}

std::string for_rouge(std::string_view text, bool characters) {
  return characters ? join(characters_of(text), " ") : std::string(text);
}

double share_of_number(std::string_view output, std::string_view reference) {
  const Words found = digit_runs(output), wanted = digit_runs(reference);
  if (found.empty() || wanted.empty()) return 0;
  return static_cast<double>(std::count(found.begin(), found.end(), wanted.front())) /
         static_cast<double>(found.size());
}

// Names that are part of the right one do not count as others.
double share_of_kind(std::string_view output, const std::string& reference, const Words& names) {
  const bool is_right = output.find(reference) != std::string_view::npos;
  const auto others = std::count_if(names.begin(), names.end(), [&](const std::string& name) {
    return output.find(name) != std::string_view::npos && reference.find(name) == std::string::npos;
  });
  return is_right ? 1.0 / static_cast<double>(1 + others) : 0;
}

std::string_view without_line_ends(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}

// The first line that is neither a comment nor the mark of a block; without one, all of it.
std::string_view line_of_code(std::string_view text) {
  for (std::string_view rest = without_line_ends(text);;) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    const bool is_code = line.find('`') == std::string_view::npos &&
                         line.find('#') == std::string_view::npos &&
                         line.find("//") == std::string_view::npos;
    if (is_code) return line;
    if (end == rest.size()) return text;
    rest.remove_prefix(end + 1);
  }
}

double score_one(const Sample& sample, std::string_view output, const std::string& reference) {
  const bool characters = counts_characters(sample.task);
  switch (sample.metric) {
    case Metric::f1:
      return words_f1(words_of(output, characters), words_of(reference, characters));
    case Metric::rouge:
      return rouge_l(for_rouge(output, characters), for_rouge(reference, characters));
    case Metric::number:
      return share_of_number(output, reference);
    case Metric::kind:
      return share_of_kind(output, reference, sample.distractors);
    case Metric::code:
      return edit_similarity(line_of_code(output), reference);
    default:
      return 0;
  }
}

}  // namespace

double longbench_score(const Sample& sample, std::string_view output) {
  if (counts_first_line(sample.task)) {
    output = without_line_ends(output);
    output = output.substr(0, output.find('\n'));
  }
  double best = 0;
  for (const std::string& reference : sample.outputs)
    best = std::max(best, score_one(sample, output, reference));
  return best;
}

}  // namespace shadowkv::eval
