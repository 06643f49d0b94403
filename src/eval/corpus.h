// The texts that samples are made of, from a folder laid out as docs/ACCURACY.md says. Each is read when it
// is first asked for; what is missing throws InvalidInput that names the file and where it can be had.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace shadowkv::eval {

struct WordLists {
  std::vector<std::string> nouns;
  std::vector<std::string> adjectives;
  std::vector<std::string> all;  // verbs, too; sorted, each once
};

struct Question {
  std::string text;
  std::vector<std::string> answers;  // any of them counts
  std::vector<int64_t> gold;         // documents that hold the answer, by index
  std::vector<int64_t> related;      // the first to stand beside them
};
struct QuestionSet {
  std::string source;  // file it came from
  std::vector<std::string> documents;
  std::vector<Question> questions;
};

class Corpus {
 public:
  // `haystack`: the filler of RULER's essay tasks, a text or a JSON object with a field "text"; empty: the
  // folder's own.
  explicit Corpus(std::filesystem::path folder, std::filesystem::path haystack = {});

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  // Words of the filler, at least one.
  [[nodiscard]] const std::vector<std::string>& haystack_words();
  [[nodiscard]] const WordLists& words();
  [[nodiscard]] const QuestionSet& squad();
  [[nodiscard]] const QuestionSet& hotpot();

 private:
  std::filesystem::path folder_;
  std::filesystem::path haystack_;
  std::optional<std::vector<std::string>> haystack_words_;
  std::optional<WordLists> words_;
  std::optional<QuestionSet> squad_;
  std::optional<QuestionSet> hotpot_;
};

// The whole file; `where`, unless empty, says where it can be had.
[[nodiscard]] std::string read_data_file(const std::filesystem::path& path, std::string_view where);

}  // namespace shadowkv::eval
