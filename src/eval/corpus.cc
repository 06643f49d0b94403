#include "eval/corpus.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/check.h"
#include "eval/text.h"
#include "formats/json.h"

namespace shadowkv::eval {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kNoBreakSpace = "\u00a0";  // white space to RULER, too
constexpr const char* kEssaysFrom =
    "data/ruler/synthetic/json/PaulGrahamEssays.json of github.com/bytedance/ShadowKV, or name a text with "
    "--haystack";
constexpr const char* kWordsFrom = "wonderwords/assets of github.com/mrmaxguns/wonderwordsmodule";
constexpr const char* kSquadFrom = "rajpurkar.github.io/SQuAD-explorer, as dev-v2.0.json";
constexpr const char* kHotpotFrom = "hotpotqa.github.io, as hotpot_dev_distractor_v1.json";

std::string field_text(const Json& object, const char* name, const fs::path& path) {
  const auto found = object.find(name);
  require(object.is_object() && found != object.end() && found->is_string(),
          "{} has no text \"{}\" where one is expected; is it the file it should be?", path.string(), name);
  return found->get<std::string>();
}

const Json& field_list(const Json& object, const char* name, const fs::path& path) {
  require(object.is_object() && object.contains(name) && object.at(name).is_array(),
          "{} has no list \"{}\" where one is expected; is it the file it should be?", path.string(), name);
  return object.at(name);
}

JsonDocument read_json(const fs::path& path, std::string_view where) {
  return parse_json(read_data_file(path, where), path.string());
}

// The first of the names that exists, or the last.
fs::path first_existing(const fs::path& folder, std::initializer_list<const char*> names) {
  fs::path path;
  for (const char* name : names) {
    path = folder / name;
    if (fs::exists(path)) return path;
  }
  return path;
}

// Documents by their text, each once.
class DocumentPool {
 public:
  explicit DocumentPool(QuestionSet& set) : set_(set) {}
  int64_t add(std::string text) {
    const auto [found, fresh] = index_.try_emplace(text, static_cast<int64_t>(set_.documents.size()));
    if (fresh) set_.documents.push_back(std::move(text));
    return found->second;
  }

 private:
  QuestionSet& set_;
  std::unordered_map<std::string, int64_t> index_;
};

void add_squad_questions(const Json& paragraph, const Question& place, QuestionSet& set,
                         const fs::path& path) {
  for (const Json& asked : field_list(paragraph, "qas", path)) {
    if (asked.is_object() && asked.contains("is_impossible") && asked.at("is_impossible") == true) continue;
    Question question = place;
    question.text = field_text(asked, "question", path);
    for (const Json& answer : field_list(asked, "answers", path)) {
      question.answers.push_back(field_text(answer, "text", path));
    }
    if (!question.answers.empty()) set.questions.push_back(std::move(question));
  }
}

QuestionSet read_squad(const fs::path& folder) {
  const fs::path path = first_existing(folder, {"dev-v2.0.json", "squad_dev_v2_half.json"});
  const JsonDocument json = read_json(path, kSquadFrom);
  QuestionSet set{path.string(), {}, {}};
  DocumentPool pool(set);
  for (const Json& article : field_list(*json, "data", path)) {
    std::vector<int64_t> paragraphs;
    const Json& list = field_list(article, "paragraphs", path);
    for (const Json& paragraph : list) paragraphs.push_back(pool.add(field_text(paragraph, "context", path)));
    for (std::size_t i = 0; i < list.size(); ++i) {
      Question place;
      place.gold = {paragraphs[i]};
      for (const int64_t other : paragraphs) {
        if (other != paragraphs[i]) place.related.push_back(other);
      }
      add_squad_questions(list[i], place, set, path);
    }
  }
  // Paragraphs of the articles whose questions are not at hand, so that the pool is whole.
  const fs::path rest = folder / "squad_dev_v2_other_contexts.json";
  if (path.filename() == "squad_dev_v2_half.json" && fs::exists(rest)) {
    const JsonDocument others = read_json(rest, kSquadFrom);
    for (const Json& text : field_list(*others, "contexts", rest)) {
      if (text.is_string()) pool.add(text.get<std::string>());
    }
  }
  return set;
}

QuestionSet read_hotpot(const fs::path& folder) {
  const fs::path path =
      first_existing(folder, {"hotpot_dev_distractor_v1.json", "hotpot_dev_distractor_first100.json"});
  const JsonDocument json = read_json(path, kHotpotFrom);
  require(json->is_array(), "{} is no list of examples; is it the file it should be?", path.string());
  QuestionSet set{path.string(), {}, {}};
  DocumentPool pool(set);
  for (const Json& example : *json) {
    Question question;
    question.text = field_text(example, "question", path);
    question.answers = {field_text(example, "answer", path)};
    for (const Json& document : field_list(example, "context", path)) {
      require(
          document.is_array() && document.size() == 2 && document[0].is_string() && document[1].is_array(),
          "{}: a document is no pair of title and sentences", path.string());
      std::string text = document[0].get<std::string>() + "\n";
      for (const Json& sentence : document[1])
        text += sentence.is_string() ? sentence.get<std::string>() : "";
      question.gold.push_back(pool.add(std::move(text)));
    }
    set.questions.push_back(std::move(question));
  }
  return set;
}

std::vector<std::string> read_words(const fs::path& path) {
  std::vector<std::string> words;
  for (const std::string& line : split_lines(read_data_file(path, kWordsFrom))) words.push_back(strip(line));
  return words;
}

WordLists read_word_lists(const fs::path& folder) {
  WordLists lists{read_words(folder / "nounlist.txt"), read_words(folder / "adjectivelist.txt"),
                  read_words(folder / "verblist.txt")};
  require(!lists.nouns.empty() && !lists.adjectives.empty(), "{} holds empty word lists", folder.string());
  lists.all.insert(lists.all.end(), lists.nouns.begin(), lists.nouns.end());
  lists.all.insert(lists.all.end(), lists.adjectives.begin(), lists.adjectives.end());
  std::sort(lists.all.begin(), lists.all.end());
  lists.all.erase(std::unique(lists.all.begin(), lists.all.end()), lists.all.end());
  return lists;
}

}  // namespace

std::string read_data_file(const fs::path& path, std::string_view where) {
  std::ifstream file(path, std::ios::binary);
  require(file.is_open(), "{} cannot be read{}{}", path.string(),
          where.empty() ? "" : "; it can be had from ", where);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  require(!file.bad(), "{} cannot be read to its end", path.string());
  return text;
}

Corpus::Corpus(fs::path folder, fs::path haystack)
    : folder_(std::move(folder)), haystack_(std::move(haystack)) {
  if (haystack_.empty()) haystack_ = folder_ / "ruler/PaulGrahamEssays.json";
}

const std::vector<std::string>& Corpus::haystack_words() {
  if (!haystack_words_) {
    std::string text = read_data_file(haystack_, kEssaysFrom);
    if (haystack_.extension() == ".json") {
      text = field_text(*parse_json(text, haystack_.string()), "text", haystack_);
    }
    std::vector<std::string> words = split_words(replace_all(std::move(text), kNoBreakSpace, " "));
    require(!words.empty(), "{} holds no words; name a text with --haystack", haystack_.string());
    haystack_words_ = std::move(words);
  }
  return *haystack_words_;
}

const WordLists& Corpus::words() {
  if (!words_) words_ = read_word_lists(folder_ / "ruler/words");
  return *words_;
}

const QuestionSet& Corpus::squad() {
  if (!squad_) squad_ = read_squad(folder_ / "ruler");
  return *squad_;
}

const QuestionSet& Corpus::hotpot() {
  if (!hotpot_) hotpot_ = read_hotpot(folder_ / "ruler");
  return *hotpot_;
}

}  // namespace shadowkv::eval
