// A folder of made-up words and questions in the layout of the real one, for tests that always run.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "eval/corpus.h"
#include "eval/random.h"

namespace shadowkv::eval {

class SmallCorpus {
 public:
  SmallCorpus()
      : folder_(std::filesystem::temp_directory_path() / fmt::format("shadowkv_eval_{}", getpid())) {
    std::filesystem::create_directories(folder_ / "ruler/words");
    Random random(11);
    write_words("nounlist.txt", 900, random);
    write_words("adjectivelist.txt", 300, random);
    write_words("verblist.txt", 300, random);
    write("ruler/dev-v2.0.json", squad());
    write("ruler/hotpot_dev_distractor_v1.json", hotpot());
  }
  ~SmallCorpus() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  SmallCorpus(const SmallCorpus&) = delete;
  SmallCorpus& operator=(const SmallCorpus&) = delete;

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  [[nodiscard]] Corpus open() const {
    return Corpus(folder_, std::filesystem::path(SHADOWKV_TEXTS) / "a_scandal_in_bohemia.txt");
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
  }

 private:
  void write_words(const std::string& name, int64_t count, Random& random) const {
    std::string text;
    for (const std::string& word : distinct(count, [&] { return random_letters(random, 5, 'a'); }))
      text += word + "\n";
    write("ruler/words/" + name, text);
  }

  // Two articles of three paragraphs; each has a question that can be answered and one that cannot.
  static std::string squad() {
    std::string articles;
    for (int article = 0; article < 2; ++article) {
      std::string paragraphs;
      for (int p = 0; p < 3; ++p) {
        paragraphs += fmt::format(
            R"({}{{"context": "Paragraph {} of article {} says blue.", "qas": [)"
            R"({{"question": "What says {}-{}?", "answers": [{{"text": "blue"}}, {{"text": "says blue"}}], "is_impossible": false}},)"
            R"({{"question": "Impossible?", "answers": [], "is_impossible": true}}]}})",
            p ? "," : "", p, article, article, p);
      }
      articles += fmt::format(R"({}{{"title": "T", "paragraphs": [{}]}})", article ? "," : "", paragraphs);
    }
    return fmt::format(R"({{"version": "v2.0", "data": [{}]}})", articles);
  }

  static std::string hotpot() {
    std::string examples;
    for (int e = 0; e < 4; ++e) {
      std::string documents;
      for (int d = 0; d < 10; ++d) {
        documents +=
            fmt::format(R"({}["Title {}-{}", ["First sentence.", " Second of {}."]])", d ? "," : "", e, d, d);
      }
      examples += fmt::format(R"({}{{"question": "Who {}?", "answer": "yes", "context": [{}]}})",
                              e ? "," : "", e, documents);
    }
    return "[" + examples + "]";
  }

  std::filesystem::path folder_;
};

// Stands in for a tokenizer: a token for every four bytes begun.
inline int64_t quarter_bytes(const Prompt& prompt) {
  return static_cast<int64_t>(prompt.question.size() + prompt.answer_prefix.size() + 3) / 4;
}

}  // namespace shadowkv::eval
