// A folder's tensors in safetensors: one file, or the shards that model.safetensors.index.json names. The
// index is checked against its shards: each names exactly what the other holds.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "formats/safetensors.h"

namespace shadowkv {

class ShardedSafetensors {
 public:
  // Throws InvalidInput for a folder without weights, one of several files and no index, and an index that is
  // not true of its shards. Files that an index does not name are left alone.
  explicit ShardedSafetensors(const std::filesystem::path& folder);

  // What the tensors come from: the one file, or the index.
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const std::vector<SafetensorsFile>& files() const { return files_; }
  [[nodiscard]] const SafetensorsTensor* find_tensor(std::string_view name) const;  // nullptr: none

 private:
  void open_shards(const std::filesystem::path& folder);

  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t, std::less<>> places_;  // of each tensor's file
};

// The files that an index names, each beside it. Throws InvalidInput for what is no index.
[[nodiscard]] std::set<std::string> shard_names(const std::filesystem::path& index);

}  // namespace shadowkv
