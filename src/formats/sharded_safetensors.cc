#include "formats/sharded_safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "formats/json.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kIndexName = "model.safetensors.index.json";

// The folder's only .safetensors file.
fs::path only_file(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") found.push_back(entry.path());
  }
  require(!found.empty(), "{} holds no .safetensors file", folder.string());
  require(found.size() == 1,
          "{} holds {} .safetensors files and no {}; supported are one file, or shards with their index",
          folder.string(), found.size(), kIndexName);
  return found.front();
}

// Whether messages can show the name as it stands, and a folder can hold it.
bool is_plain(std::string_view name) {
  constexpr std::size_t kLongest = 255;
  const bool readable = std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return c >= 0x20 && c != 0x7f && c != '/' && c != '\\';
  });
  return readable && name.size() <= kLongest && name.ends_with(".safetensors");
}

// The shard of each tensor. Names of shards are those of files beside the index, never paths.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const JsonDocument document = read_json_file(path, {.unique_keys = true});
  const Json& json = *document;
  const auto found = json.is_object() ? json.find("weight_map") : json.end();
  require(json.is_object() && found != json.end() && found->is_object() && !found->empty(),
          "{} has no \"weight_map\" that places tensors in files", path.string());
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : found->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : json_text(shard);
    require(shard.is_string() && is_plain(name),
            "{} places tensor {} in {}, expected the name of a .safetensors file beside it", path.string(),
            in_quotes(tensor), in_quotes(name));
    shards.emplace(tensor, name);
  }
  return shards;
}

std::set<std::string> names_in(const std::map<std::string, std::string>& shards) {
  std::set<std::string> names;
  for (const auto& [tensor, shard] : shards) names.insert(shard);
  return names;
}

}  // namespace

std::set<std::string> shard_names(const fs::path& index) {
  return names_in(read_index(index));
}

ShardedSafetensors::ShardedSafetensors(const fs::path& folder) {
  if (fs::exists(folder / kIndexName)) {
    open_shards(folder);
    return;
  }
  path_ = only_file(folder);
  files_.emplace_back(path_);
  for (const SafetensorsTensor& tensor : files_[0].tensors()) places_.emplace(tensor.name, 0);
}

void ShardedSafetensors::open_shards(const fs::path& folder) {
  path_ = folder / kIndexName;
  const std::map<std::string, std::string> shards = read_index(path_);
  for (const std::string& name : names_in(shards)) {
    const SafetensorsFile& file = files_.emplace_back(folder / name);
    for (const SafetensorsTensor& tensor : file.tensors()) {
      const auto placed = shards.find(tensor.name);
      require(placed != shards.end() && placed->second == name,
              "{} holds tensor {}, which {} {}; download both again", file.path().string(),
              in_quotes(tensor.name), path_.string(),
              placed == shards.end() ? "does not name" : "places in another file");
      places_.emplace(tensor.name, files_.size() - 1);
    }
  }
  for (const auto& [tensor, shard] : shards) {
    require(places_.contains(tensor),
            "{} places tensor {} in {}, which has no such tensor; download both again", path_.string(),
            in_quotes(tensor), in_quotes(shard));
  }
}

const SafetensorsTensor* ShardedSafetensors::find_tensor(std::string_view name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? nullptr : files_[found->second].find_tensor(name);
}

}  // namespace shadowkv
