#include "eval/similarity.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/utf8.h"
#include "eval/text.h"

namespace shadowkv::eval {
namespace {

using Words = std::vector<std::string>;

double harmonic_mean(double precision, double recall, double added) {
  return 2 * (precision * recall) / (precision + recall + added);
}

double ratio(std::size_t part, std::size_t whole) {
  return static_cast<double>(part) / static_cast<double>(whole);
}

std::u32string code_points_of(std::string_view text) {
  std::u32string points;
  while (!text.empty()) {
    const Utf8Unit unit = read_utf8(text);
    points += unit.kind == Utf8Kind::valid ? unit.code_point : U'\uFFFD';
    text.remove_prefix(static_cast<std::size_t>(unit.length));
  }
  return points;
}

// ---- ROUGE-L ----------------------------------------------------------------------------------------------

// Words of the sentences of a text; what lies between two full stops and is white space alone is one empty
// word.
std::vector<Words> sentences_of(std::string_view text) {
  std::vector<Words> sentences;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('.', begin), text.size());
    if (end > begin) {
      Words words = split_words(text.substr(begin, end - begin));
      sentences.push_back(words.empty() ? Words{""} : std::move(words));
    }
    begin = end + 1;
  }
  return sentences;
}

// Adds the words of one longest common subsequence: where several are, the one found from the ends, leaving
// out a word of `b` before one of `a`.
void add_common(const Words& a, const Words& b, std::set<std::string>& common) {
  const std::size_t width = b.size() + 1;
  std::vector<int32_t> table((a.size() + 1) * width);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      table[i * width + j] = a[i - 1] == b[j - 1]
                                 ? table[(i - 1) * width + j - 1] + 1
                                 : std::max(table[(i - 1) * width + j], table[i * width + j - 1]);
    }
  }
  for (std::size_t i = a.size(), j = b.size(); i > 0 && j > 0;) {
    if (a[i - 1] == b[j - 1]) {
      common.insert(a[i - 1]);
      --i, --j;
    } else if (table[(i - 1) * width + j] > table[i * width + j - 1]) {
      --i;
    } else {
      --j;
    }
  }
}

std::set<std::string> distinct(const std::vector<Words>& sentences) {
  std::set<std::string> words;
  for (const Words& sentence : sentences) words.insert(sentence.begin(), sentence.end());
  return words;
}

// ---- matching blocks --------------------------------------------------------------------------------------

// Finds blocks that two texts share.
class Matcher {
 public:
  Matcher(const std::u32string& a, const std::u32string& b) : a_(a), b_(b) {
    constexpr std::size_t kLong = 200;
    for (std::size_t j = 0; j < b.size(); ++j) places_[b[j]].push_back(j);
    if (b.size() < kLong) return;
    std::erase_if(places_, [&](const auto& entry) { return entry.second.size() > b.size() / 100 + 1; });
  }

  // Characters of all blocks within those ranges: the longest, then on both sides of it.
  [[nodiscard]] std::size_t matches(std::size_t a_first, std::size_t a_end, std::size_t b_first,
                                    std::size_t b_end) const {
    if (a_first >= a_end || b_first >= b_end) return 0;
    const Block block = longest(a_first, a_end, b_first, b_end);
    if (block.size == 0) return 0;
    return block.size + matches(a_first, block.a, b_first, block.b) +
           matches(block.a + block.size, a_end, block.b + block.size, b_end);
  }

 private:
  struct Block {
    std::size_t a, b, size;
  };

  // The first of the longest, by places in a, then in b; then grown by equal characters, those that begin
  // none included.
  [[nodiscard]] Block longest(std::size_t a_first, std::size_t a_end, std::size_t b_first,
                              std::size_t b_end) const {
    Block best{a_first, b_first, 0};
    std::map<std::size_t, std::size_t> before, now;  // lengths of blocks that end at a place of b
    for (std::size_t i = a_first; i < a_end; ++i, before = std::move(now), now.clear()) {
      const auto found = places_.find(a_[i]);
      if (found == places_.end()) continue;
      for (const std::size_t j : found->second) {
        if (j < b_first || j >= b_end) continue;
        const auto shorter = j == 0 ? before.end() : before.find(j - 1);
        const std::size_t size = now[j] = 1 + (shorter == before.end() ? 0 : shorter->second);
        if (size > best.size) best = {i + 1 - size, j + 1 - size, size};
      }
    }
    while (best.a > a_first && best.b > b_first && a_[best.a - 1] == b_[best.b - 1])
      --best.a, --best.b, ++best.size;
    while (best.a + best.size < a_end && best.b + best.size < b_end &&
           a_[best.a + best.size] == b_[best.b + best.size])
      ++best.size;
    return best;
  }

  const std::u32string& a_;
  const std::u32string& b_;
  std::map<char32_t, std::vector<std::size_t>> places_;  // in b, ascending
};

}  // namespace

double words_f1(std::span<const std::string> output, std::span<const std::string> reference) {
  std::map<std::string, int64_t> left;
  for (const std::string& word : reference) ++left[word];
  const auto common = static_cast<std::size_t>(
      std::count_if(output.begin(), output.end(), [&](const std::string& word) { return left[word]-- > 0; }));
  if (common == 0) return 0;
  return harmonic_mean(ratio(common, output.size()), ratio(common, reference.size()), 0);
}

double rouge_l(std::string_view output, std::string_view reference) {
  constexpr double kAdded = 1e-8;  // of the package
  const std::vector<Words> of_output = sentences_of(output), of_reference = sentences_of(reference);
  if (of_output.empty() || of_reference.empty()) return 0;
  std::set<std::string> common;
  for (const Words& sentence : of_reference) {
    for (const Words& other : of_output) add_common(sentence, other, common);
  }
  return harmonic_mean(ratio(common.size(), distinct(of_output).size()),
                       ratio(common.size(), distinct(of_reference).size()), kAdded);
}

double edit_similarity(std::string_view output, std::string_view reference) {
  const std::u32string a = code_points_of(output), b = code_points_of(reference);
  if (a.empty() && b.empty()) return 1;
  const std::size_t matches = Matcher(a, b).matches(0, a.size(), 0, b.size());
  return std::nearbyint(100 * 2 * ratio(matches, a.size() + b.size())) / 100;
}

std::vector<std::string> characters_of(std::string_view text) {
  std::vector<std::string> characters;
  for (const char32_t point : code_points_of(text)) {
    if (is_white_space(point)) continue;
    append_utf8(characters.emplace_back(), point);
  }
  return characters;
}

}  // namespace shadowkv::eval
