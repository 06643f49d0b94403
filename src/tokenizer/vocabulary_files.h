// Readers of the files that describe a tokenizer.
#pragma once

#include <filesystem>

#include "tokenizer/tokenizer_spec.h"

namespace shadowkv {

class GgufFile;

// Both throw InvalidInput naming the file and the construct for what is not byte-level BPE, is not supported
// or contradicts itself.
[[nodiscard]] TokenizerSpec read_gguf_vocabulary(const GgufFile& file);
[[nodiscard]] TokenizerSpec read_tokenizer_json(const std::filesystem::path& path);

}  // namespace shadowkv
