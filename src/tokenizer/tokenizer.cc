#include "tokenizer/tokenizer.h"

#include <array>
#include <fstream>

#include "base/check.h"
#include "formats/gguf.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/vocabulary_files.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;

bool starts_like_gguf(const fs::path& path) {
  std::array<char, 4> magic{};
  std::ifstream file(path, std::ios::binary);
  file.read(magic.data(), magic.size());
  return file.gcount() == 4 && std::string_view(magic.data(), magic.size()) == "GGUF";
}

// tokenizer.json of the folder, or else its only .gguf file.
fs::path find_in_folder(const fs::path& folder) {
  std::error_code error;
  if (fs::exists(folder / "tokenizer.json", error)) return folder / "tokenizer.json";
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() == ".gguf") found.push_back(entry->path());
  }
  require(!error, "the folder {} cannot be read: {}", folder.string(), error.message());
  require(found.size() == 1, "the folder {} holds no tokenizer.json and {} .gguf files; name one file",
          folder.string(), found.size());
  return found[0];
}

}  // namespace

std::shared_ptr<const Tokenizer> Tokenizer::from_gguf(const GgufFile& file) {
  return std::make_shared<const BpeTokenizer>(read_gguf_vocabulary(file));
}

std::shared_ptr<const Tokenizer> Tokenizer::from_json_file(const fs::path& tokenizer_json) {
  return std::make_shared<const BpeTokenizer>(read_tokenizer_json(tokenizer_json));
}

std::shared_ptr<const Tokenizer> Tokenizer::open(const fs::path& path) {
  std::error_code error;
  require(fs::exists(path, error), "there is no tokenizer at {}", path.string());
  const fs::path file = fs::is_directory(path, error) ? find_in_folder(path) : path;
  if (starts_like_gguf(file)) return from_gguf(GgufFile(file));
  return from_json_file(file);
}

}  // namespace shadowkv
