#include "tokenizer/tokenizer.h"

#include "base/check.h"
#include "formats/gguf.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/vocabulary_files.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_with_extension(const fs::path& folder, std::string_view extension) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() == extension) found.push_back(entry->path());
  }
  require(!error, "the folder {} cannot be read: {}", folder.string(), error.message());
  return found;
}

// What find_file finds, or else the folder's only .gguf file.
fs::path find_in_folder(const fs::path& folder) {
  if (const std::optional<fs::path> file = Tokenizer::find_file(folder)) return *file;
  const std::vector<fs::path> found = files_with_extension(folder, ".gguf");
  require(found.size() == 1,
          "the folder {} holds no tokenizer.json, no *.tiktoken and {} .gguf files; name one file",
          folder.string(), found.size());
  return found[0];
}

}  // namespace

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  DecodeState state;
  std::string text;
  for (const int32_t id : ids) decode_next(id, skip_special, state, text);
  decode_end(state, text);
  return text;
}

std::shared_ptr<const Tokenizer> Tokenizer::from_gguf(const GgufFile& file) {
  return std::make_shared<const BpeTokenizer>(read_gguf_vocabulary(file));
}

std::shared_ptr<const Tokenizer> Tokenizer::from_json_file(const fs::path& tokenizer_json) {
  return std::make_shared<const BpeTokenizer>(read_tokenizer_json(tokenizer_json));
}

std::shared_ptr<const Tokenizer> Tokenizer::from_rank_file(const fs::path& ranks) {
  return std::make_shared<const BpeTokenizer>(read_rank_file(ranks));
}

std::optional<fs::path> Tokenizer::find_file(const fs::path& folder) {
  std::error_code error;
  if (fs::exists(folder / "tokenizer.json", error)) return folder / "tokenizer.json";
  const std::vector<fs::path> found = files_with_extension(folder, ".tiktoken");
  require(found.size() <= 1, "the folder {} holds {} *.tiktoken files; name one", folder.string(),
          found.size());
  if (!found.empty()) return found[0];
  if (is_rank_file(folder / "tokenizer.model")) return folder / "tokenizer.model";
  return std::nullopt;
}

fs::path Tokenizer::file_at(const fs::path& path) {
  std::error_code error;
  require(fs::exists(path, error), "there is no tokenizer at {}", path.string());
  return fs::is_directory(path, error) ? find_in_folder(path) : path;
}

std::shared_ptr<const Tokenizer> Tokenizer::open(const fs::path& path) {
  const fs::path file = file_at(path);
  if (starts_like_gguf(file)) return from_gguf(GgufFile(file));
  if (file.extension() == ".tiktoken" || file.extension() == ".model") return from_rank_file(file);
  return from_json_file(file);
}

}  // namespace shadowkv
