// Which files of a repository make up a model that this program reads.
#pragma once

#include <set>
#include <span>
#include <string>

#include "shadowkv/hub.h"

namespace shadowkv {

struct Selection {
  std::string gguf;             // the one file, or empty: a folder of safetensors
  std::set<std::string> files;  // all but the shards of the index
  std::string index;            // names further files (ShardedSafetensors), or empty
};

// Chooses among the files of a repository: the GGUF file that model.file names, by whole name or a part of
// it; else config.json with safetensors, the tokenizer's files and the chat template; else the one GGUF file,
// or of several the Q4_K_M or the Q8_0. Throws InvalidInput, naming `place`, where none or several fit.
[[nodiscard]] Selection select_files(std::span<const std::string> names, const HubModel& model,
                                     const std::string& place);

}  // namespace shadowkv
