// Readers of the files that describe a tokenizer.
#pragma once

#include <filesystem>

#include "tokenizer/tokenizer_spec.h"

namespace shadowkv {

class GgufFile;

// All throw InvalidInput naming the file and the construct for what is not BPE, is not supported or
// contradicts itself.
[[nodiscard]] TokenizerSpec read_gguf_vocabulary(const GgufFile& file);
[[nodiscard]] TokenizerSpec read_tokenizer_json(const std::filesystem::path& path);
// tiktoken's ranks, with the special tokens of the tokenizer_config.json in the same folder, if there is one.
[[nodiscard]] TokenizerSpec read_rank_file(const std::filesystem::path& path);

// Whether the file begins with a line of a rank file.
[[nodiscard]] bool is_rank_file(const std::filesystem::path& path);

}  // namespace shadowkv
