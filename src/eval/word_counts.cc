#include "eval/word_counts.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "eval/text.h"

namespace shadowkv::eval {
namespace {

constexpr const char* kCommonQuestion =
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the "
    "ones that "
    "appear most often.\n{context}\nQuestion: What are the 10 most common words in the above list?";
constexpr const char* kCommonPrefix = " Answer: The top 10 words that appear most often in the list are:";
constexpr const char* kFrequentQuestion =
    "Read the following coded text and track the frequency of each coded word. Find the three most "
    "frequently "
    "appeared coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots "
    "'....'. What "
    "are the three most frequently appeared words in the above coded text?";
constexpr const char* kFrequentPrefix =
    " Answer: According to the coded text above, the three most frequently appeared words are:";

constexpr int64_t kCommon = 10;
constexpr int64_t kLong = 4096;              // from here on lists repeat more and examples are longer
constexpr int64_t kTokensPerCodedWord = 50;  // the coded text's vocabulary: the length by this

struct Repeats {
  int64_t words;     // distinct
  int64_t common;    // how often each of the ten stands in the list
  int64_t uncommon;  // and each of the others
};

std::string numbered(std::span<const std::string> words) {
  std::vector<std::string> parts;
  parts.reserve(words.size());
  for (std::size_t i = 0; i < words.size(); ++i) parts.push_back(fmt::format("{}. {}", i + 1, words[i]));
  return join(parts, " ");
}

// `order`: indices into all words, of which the first ten are the common ones.
WordList make_list(const std::vector<std::string>& all, std::span<const int64_t> order,
                   const Repeats& repeats, Random random) {
  WordList list;
  for (int64_t i = 0; i < repeats.words; ++i) {
    const std::string& word = all[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
    if (i < kCommon) list.common.push_back(word);
    list.words.insert(list.words.end(),
                      static_cast<std::size_t>(i < kCommon ? repeats.common : repeats.uncommon), word);
  }
  random.shuffle(list.words);
  return list;
}

std::string common_question(const WordList& list) {
  return fill_in(kCommonQuestion, "context", numbered(list.words));
}

// Coded words, of which the first is written as dots, in a random order by rank.
std::string coded_text(const std::vector<std::string>& vocabulary, int64_t size, Random random) {
  std::vector<std::string> words;
  for (std::size_t i = 0; i < vocabulary.size(); ++i) {
    const int64_t count = frequent_count(size, static_cast<int64_t>(i) + 1);
    words.insert(words.end(), static_cast<std::size_t>(count), vocabulary[i]);
  }
  random.shuffle(words);
  return join(words, " ");
}

}  // namespace

Prompt common_words_prompt(const WordList& example, const WordList& asked) {
  return {common_question(example) + kCommonPrefix + numbered(example.common) + "\n" + common_question(asked),
          kCommonPrefix};
}

Sample make_common_words(const Draw& draw) {
  const std::vector<std::string>& all = draw.corpus.words().all;
  const auto known = static_cast<int64_t>(all.size());
  const bool is_long = draw.length >= kLong;
  const Repeats few = is_long ? Repeats{40, 10, 3} : Repeats{20, 3, 1};
  Random random = draw.random();
  const std::vector<int64_t> few_order = random.sample(known, few.words);
  const WordList example = make_list(all, few_order, few, random);
  const std::vector<int64_t> order = random.sample(known, known);
  const auto make = [&](int64_t words) {
    const Repeats many = is_long ? Repeats{words, 30, 3} : Repeats{words, 6, 1};
    const WordList list = make_list(all, order, many, random);
    return Draft{common_words_prompt(example, list), list.common};
  };
  return fit_sample(draw, kCommonAnswerTokens, {kCommon + 1, known}, make);
}

int64_t frequent_count(int64_t size, int64_t rank) {
  constexpr double kZeta2 = std::numbers::pi * std::numbers::pi / 6;
  return static_cast<int64_t>(static_cast<double>(size) / (static_cast<double>(rank * rank) * kZeta2));
}

Prompt frequent_words_prompt(std::string_view context) {
  return {fill_in(kFrequentQuestion, "context", context), kFrequentPrefix};
}

Sample make_frequent_words(const Draw& draw) {
  Random random = draw.random();
  const int64_t words = std::max<int64_t>(draw.length / kTokensPerCodedWord, 4);
  std::vector<std::string> vocabulary = distinct(words, [&] { return random_letters(random, 6, 'a'); });
  vocabulary[0] = "...";
  const auto make = [&](int64_t size) {
    return Draft{frequent_words_prompt(coded_text(vocabulary, size, random)),
                 {vocabulary.begin() + 1, vocabulary.begin() + 4}};
  };
  // From 50 on the fourth rank is there and the ranks before it stand more often.
  return fit_sample(draw, kFrequentAnswerTokens, {50, draw.length}, make);
}

}  // namespace shadowkv::eval
