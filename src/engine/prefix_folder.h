// The folder that prefixes are kept in: one file for each, named by its key, in the form of a saved state
// (formats/state_file.h) whose note says what the cache must know to find it again. A folder serves one
// service at a time; each model and configuration has a folder of its own within it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/prefix_key.h"
#include "formats/state_file.h"

namespace shadowkv {

// What a file says of its prefix.
struct PrefixNote {
  PrefixDigest name{};
  PrefixDigest tenant{};  // whose it is: what their salt is known by
  PrefixDigest parent{};  // name of the file that its first tokens are in
  int64_t shared = 0;     // how many these are; 0: none, and no parent
  std::vector<int64_t> parts = {};
  std::vector<PrefixKey> keys = {};  // that it is found by
};

[[nodiscard]] std::string text_of(const PrefixNote& note);
// Throws InvalidInput naming the file.
[[nodiscard]] PrefixNote parse_prefix_note(std::string_view text, const std::string& file);

struct PrefixFile {
  PrefixNote note;
  int64_t tokens = 0;
  int64_t bytes = 0;  // of the file
  std::filesystem::file_time_type used;
};

class PrefixFolder {
 public:
  // Makes what is not there of it. identity: of model and configuration. Throws InvalidInput with a line for
  // a folder that cannot be made or written to, or that serves another service.
  PrefixFolder(const std::filesystem::path& folder, std::string_view identity);

  // What is there, the least recently used first; what cannot be read is removed and told of, a line each.
  [[nodiscard]] std::vector<PrefixFile> read(const std::function<void(const std::string&)>& tell) const;
  [[nodiscard]] std::filesystem::path path_of(const PrefixDigest& name) const;
  [[nodiscard]] int64_t bytes_of(const PrefixDigest& name) const noexcept;  // 0: it is not there
  void touch(const PrefixDigest& name) const noexcept;                      // it is used now
  void remove(const PrefixDigest& name) const noexcept;

 private:
  std::filesystem::path folder_;
  FileDescriptor lock_;  // held while this lives
};

}  // namespace shadowkv
