// What the service's thread knows of the folder that prefixes are kept in, and of what is on its way there
// and back: one each at a time.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/prefix_cache.h"
#include "engine/prefix_folder.h"
#include "engine/prefix_writer.h"

namespace shadowkv {

struct PrefixDisk {
  using Clock = std::chrono::steady_clock;

  // From memory to a file. Until its end is known the prefix counts as in the file, once all was given.
  struct Saving {
    PrefixId id = 0;
    PrefixDigest name{};
    std::shared_ptr<const std::vector<int32_t>> ids;
    std::string note;
    int64_t given = 0, content_bytes = 0;
    bool is_dropped = false;  // nobody wants it any more
  };
  // From a file to memory, where nobody uses it before it is whole.
  struct Loading {
    PrefixId id = 0;
    std::unique_ptr<StateReader> file;
    std::vector<int32_t> ids;       // that the file says
    std::string note;               // likewise
    std::vector<int32_t> expected;  // the first of them, of who asked
    int64_t read = 0;               // bytes of its content
  };

  PrefixDisk(const std::filesystem::path& path, std::string_view identity, int64_t bytes,
             std::function<void()> on_news)
      : folder(path, identity), most_bytes(bytes), writer(std::move(on_news)) {}

  PrefixFolder folder;
  int64_t most_bytes;
  PrefixWriter writer;
  std::optional<Saving> saving;
  std::optional<Loading> loading;
  std::optional<PrefixId> restoring;  // that is to be in memory, though no request waits for it
  std::vector<std::byte> piece;       // that is being read
  Clock::time_point waits_until{};    // of this turn: who needs room at once waits no longer
  Clock::time_point rests_until{};    // after a file could not be written
};

}  // namespace shadowkv
