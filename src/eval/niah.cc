#include "eval/niah.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/text.h"

namespace shadowkv::eval {
namespace {

struct Wording {
  const char* question;
  const char* prefix;
};
constexpr Wording kPlural = {
    "Some special magic {type} are hidden within the following text. Make sure to memorize it. I will quiz "
    "you "
    "about the {type} afterwards.\n{context}\nWhat are all the special magic {type} for {query} mentioned in "
    "the "
    "provided text?",
    " The special magic {type} for {query} mentioned in the provided text are"};
constexpr Wording kSingular = {
    "A special magic {type} is hidden within the following text. Make sure to memorize it. I will quiz you "
    "about "
    "the {type} afterwards.\n{context}\nWhat is the special magic {type} for {query} mentioned in the "
    "provided "
    "text?",
    " The special magic {type} for {query} mentioned in the provided text is"};
constexpr int64_t kDepths = 40;  // evenly from 0 to 100 per cent

std::string_view name_of(Token kind) {
  return kind == Token::uuids ? "uuids" : kind == Token::numbers ? "numbers" : "words";
}

std::string draw_token(Token kind, Random& random, const Draw& draw) {
  if (kind == Token::numbers) return random_number(random, 7);
  if (kind == Token::uuids) return random_uuid(random);
  const WordLists& words = draw.corpus.words();
  const std::string& adjective = random.pick(words.adjectives);
  return adjective + "-" + random.pick(words.nouns);
}

struct Needles {
  std::vector<std::string> sentences;  // in the order they are planted
  std::vector<std::string> queries;
  std::vector<std::string> answers;
};

Needles draw_needles(const NiahTask& task, const Draw& draw, Random& random) {
  const auto token = [&](Token kind) { return [&, kind] { return draw_token(kind, random, draw); }; };
  const std::vector<std::string> keys = distinct(task.keys, token(task.key));
  const std::vector<std::string> values = distinct(task.keys * task.values, token(task.value));
  Needles needles;
  const auto value_of = [&](int64_t key, int64_t i) {
    return values[static_cast<std::size_t>(key * task.values + i)];
  };
  for (int64_t key = 0; key < task.keys; ++key) {
    for (int64_t i = 0; i < task.values; ++i) {
      needles.sentences.push_back(
          needle_sentence(task.value, keys[static_cast<std::size_t>(key)], value_of(key, i)));
    }
  }
  random.shuffle(needles.sentences);
  for (const int64_t key : random.sample(task.keys, task.queries)) {
    needles.queries.push_back(keys[static_cast<std::size_t>(key)]);
    for (int64_t i = 0; i < task.values; ++i) needles.answers.push_back(value_of(key, i));
  }
  return needles;
}

// The first `size` words of the filler, from its beginning again where it runs out.
std::vector<std::string> essay_sentences(const std::vector<std::string>& words, int64_t size) {
  std::string text;
  for (int64_t i = 0; i < size; ++i) {
    if (i > 0) text += ' ';
    text += words[static_cast<std::size_t>(i) % words.size()];
  }
  return split_sentences(text);
}

std::vector<int64_t> draw_depths(Random& random, int64_t count) {
  std::vector<int64_t> depths;
  for (const int64_t i : random.sample(kDepths, count)) {
    depths.push_back(static_cast<int64_t>(std::lround(100.0 * static_cast<double>(i) / (kDepths - 1))));
  }
  std::sort(depths.begin(), depths.end());
  return depths;
}

// Filler of one size with the needles in it.
std::string make_context(const NiahTask& task, const Draw& draw, Random random, const Needles& needles,
                         int64_t size) {
  const auto count = static_cast<int64_t>(needles.sentences.size());
  if (task.filler == Filler::essay) {
    const std::vector<int64_t> depths = draw_depths(random, count);
    return essay_context(essay_sentences(draw.corpus.haystack_words(), size), needles.sentences, depths);
  }
  std::vector<int64_t> before = random.sample(size, count);
  std::sort(before.begin(), before.end());
  std::vector<std::string> lines(static_cast<std::size_t>(size), kNoiseLine);
  if (task.filler == Filler::needles) {
    for (std::string& line : lines) {
      const std::string key = draw_token(task.key, random, draw);
      line = needle_sentence(task.value, key, draw_token(task.value, random, draw));
    }
  }
  return line_context(lines, needles.sentences, before);
}

}  // namespace

std::string needle_sentence(Token value_kind, std::string_view key, std::string_view value) {
  return fmt::format("One of the special magic {} for {} is: {}.", name_of(value_kind), key, value);
}

std::string essay_context(std::span<const std::string> sentences, std::span<const std::string> needles,
                          std::span<const int64_t> depths) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < needles.size(); ++i) {
    const std::size_t end = sentences.size() * static_cast<std::size_t>(depths[i]) / 100;
    parts.push_back(join(sentences.subspan(begin, end - begin), " "));
    parts.push_back(needles[i]);
    begin = end;
  }
  parts.push_back(join(sentences.subspan(begin), " "));
  return join(parts, " ");
}

std::string line_context(std::span<const std::string> lines, std::span<const std::string> needles,
                         std::span<const int64_t> before) {
  std::vector<std::string> all;
  std::size_t needle = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    while (needle < needles.size() && before[needle] == static_cast<int64_t>(i))
      all.push_back(needles[needle++]);
    all.push_back(lines[i]);
  }
  return join(all, "\n");
}

Prompt niah_prompt(Token value_kind, std::string_view context, std::span<const std::string> queries,
                   bool one_answer) {
  const Wording& wording = one_answer ? kSingular : kPlural;
  std::string type(name_of(value_kind));
  if (one_answer) type.pop_back();
  std::string query = queries.front();
  if (queries.size() > 1) {
    query = join(queries.first(queries.size() - 1), ", ") + ", and " + queries.back();
  }
  const auto filled = [&](const char* text) { return fill_in(fill_in(text, "type", type), "query", query); };
  return {fill_in(filled(wording.question), "context", context), filled(wording.prefix)};
}

Sample make_niah(const NiahTask& task, const Draw& draw) {
  Random random = draw.random();
  const Needles needles = draw_needles(task, draw, random);
  const bool one_answer = task.queries * task.values == 1;
  const auto make = [&](int64_t size) {
    const std::string context = make_context(task, draw, random, needles, size);
    return Draft{niah_prompt(task.value, context, needles.queries, one_answer), needles.answers};
  };
  return fit_sample(draw, kNiahAnswerTokens, {static_cast<int64_t>(needles.sentences.size()), draw.length},
                    make);
}

}  // namespace shadowkv::eval
