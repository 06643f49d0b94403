// Contents that the cache lacks: several files, and parts of large ones, over several connections at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "hub/listing.h"
#include "hub/remote.h"
#include "shadowkv/hub.h"

namespace shadowkv {

struct Wanted {
  RemoteFile file;             // with checksum and size
  std::filesystem::path blob;  // where its contents belong; nobody else writes there meanwhile
};

struct DownloadPlan {
  const RemoteRepository& repository;
  const HubOptions& options;
  std::string commit;
  std::span<const Wanted> wanted;
};

// Fetches all of them; each gets its name when it is whole and its checksum is right. `progress` sees the
// bytes that are there, those that an earlier process has left included; what it throws ends the download,
// which the next one takes up. Throws as fetch_model() does.
void download(const DownloadPlan& plan, const std::function<void(int64_t bytes)>& progress);

}  // namespace shadowkv
