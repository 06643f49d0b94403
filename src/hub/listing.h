// What a repository holds at a commit, as the hub says; nothing of it is trusted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv {

inline constexpr int64_t kMostFileBytes = int64_t{1} << 46;  // 64 TiB

struct RemoteFile {
  std::string path;   // within the repository; safe (names.h)
  std::string etag;   // checksum and name of the blob; empty: not said, to be asked for
  int64_t size = -1;  // bytes; below 0 where etag is empty
};

struct Listing {
  std::string commit;
  std::vector<RemoteFile> files;
};

// Reads the JSON of /api/models/ORG/NAME/revision/REVISION; `name` stands for it in messages. Throws
// InvalidInput for what is not such an answer, and for a file whose name leads out of its folder.
[[nodiscard]] Listing parse_listing(std::string_view json, std::string_view name);

}  // namespace shadowkv
