// fetch_model(): from a name to files, by way of the hub where it can be asked.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "formats/quote.h"
#include "formats/sharded_safetensors.h"
#include "hub/cache.h"
#include "hub/digest.h"
#include "hub/download.h"
#include "hub/names.h"
#include "hub/partial_file.h"
#include "hub/remote.h"
#include "hub/retry.h"
#include "hub/selection.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;

bool is_whole(const fs::path& blob, int64_t size) {
  std::error_code error;
  return fs::is_regular_file(blob, error) && static_cast<int64_t>(fs::file_size(blob, error)) == size &&
         !error;
}

class ModelFetch {
 public:
  ModelFetch(const HubModel& model, const HubOptions& options, const HubProgressCallback& progress)
      : model_(model),
        options_(options),
        progress_(progress),
        cache_(options.cache, model.repository),
        remote_(model, options) {}

  HubFiles run() {
    std::optional<HubFiles> cached = find_cached();
    if (options_.offline) {
      require(cached.has_value(),
              "{} is not whole in {}, and HF_HUB_OFFLINE forbids to fetch it; fetch it once without", title(),
              options_.cache.string());
      return *std::move(cached);
    }
    Listing listing;
    try {
      listing = list(cached.has_value());
    } catch (const DeviceFailure& failure) {
      if (!cached) throw;
      cached->note = fmt::format("the hub could not be asked about {}, the copy in the cache is used: {}",
                                 model_.repository, failure.what());
      return *std::move(cached);
    }
    return fetch(listing);
  }

 private:
  [[nodiscard]] std::string title() const {
    return model_.revision == "main" ? model_.repository
                                     : fmt::format("{}@{}", model_.repository, model_.revision);
  }

  void report() const {
    if (progress_) progress_(state_);
  }

  // What the cache holds at the commit that was fetched last, where that is a whole model.
  std::optional<HubFiles> find_cached() const {
    const std::optional<std::string> commit = cache_.commit_of(model_.revision);
    if (!commit) return std::nullopt;
    const std::vector<std::string> names = cache_.files_of(*commit);
    const fs::path snapshot = cache_.snapshot(*commit);
    try {
      const Selection selection = select_files(names, model_, title());
      for (const std::string& shard : shards_of(selection, snapshot / selection.index)) {
        if (!std::binary_search(names.begin(), names.end(), shard)) return std::nullopt;
      }
      return HubFiles{model_path(selection, *commit), *commit, 0, {}};
    } catch (const InvalidInput&) {  // part of a model, or an index that is none
      return std::nullopt;
    }
  }

  [[nodiscard]] fs::path model_path(const Selection& selection, const std::string& commit) const {
    const fs::path snapshot = cache_.snapshot(commit);
    return selection.gguf.empty() ? snapshot : snapshot / selection.gguf;
  }

  static std::set<std::string> shards_of(const Selection& selection, const fs::path& index) {
    return selection.index.empty() ? std::set<std::string>() : shard_names(index);
  }

  // Where there is a copy to fall back on, one try is enough.
  Listing list(bool once) {
    HubOptions patience = options_;
    if (once) patience.retries = 0;
    return tried(patience, [this](HubClient& client) { return remote_.list(client); });
  }

  template <typename Request>
  auto tried(const HubOptions& patience, Request&& request) -> decltype(request(std::declval<HubClient&>())) {
    const auto check = [this] { report(); };
    if (!client_) client_ = std::make_unique<HubClient>(check);
    Retries retries(patience, check);
    while (true) {
      try {
        return request(*client_);
      } catch (const TransientFailure& failure) {
        retries.failed(failure);
      }
    }
  }

  HubFiles fetch(const Listing& listing) {
    std::map<std::string, RemoteFile> by_path;
    std::vector<std::string> names;
    for (const RemoteFile& file : listing.files) {
      names.push_back(file.path);
      by_path.emplace(file.path, file);
    }
    const Selection selection = select_files(names, model_, title());
    cache_.create();
    std::vector<RemoteFile> files = described(listing.commit, by_path, selection.files);
    obtain(listing.commit, files);
    if (!selection.index.empty()) {
      const auto shards =
          described(listing.commit, by_path, shards_of(selection, blob_of(files, selection.index)));
      obtain(listing.commit, shards);
      files.insert(files.begin(), shards.begin(), shards.end());
    }
    link_all(listing.commit, files);
    return {model_path(selection, listing.commit), listing.commit, fetched_, {}};
  }

  fs::path blob_of(const std::vector<RemoteFile>& files, const std::string& path) const {
    const auto found =
        std::find_if(files.begin(), files.end(), [&](const RemoteFile& f) { return f.path == path; });
    return cache_.blob(found->etag);
  }

  std::vector<RemoteFile> described(const std::string& commit,
                                    const std::map<std::string, RemoteFile>& by_path,
                                    const std::set<std::string>& names) {
    std::vector<RemoteFile> files;
    for (const std::string& name : names) {
      const auto found = by_path.find(name);
      require(found != by_path.end(), "the index of {} names the file {}, which the repository does not have",
              title(), in_quotes(name));
      RemoteFile file = found->second;
      if (file.etag.empty()) {
        tried(options_, [&](HubClient& client) { remote_.describe(client, commit, file); });
      }
      (void)digest_kind(file.etag, file.path);  // also keeps it from leading out of blobs/
      files.push_back(std::move(file));
    }
    return files;
  }

  // Fetches what of it the cache lacks.
  void obtain(const std::string& commit, const std::vector<RemoteFile>& files) {
    std::map<std::string, Wanted> lacking;  // by checksum: the order in which every process takes its locks
    for (const RemoteFile& file : files) {
      const fs::path blob = cache_.blob(file.etag);
      if (!is_whole(blob, file.size)) lacking.emplace(file.etag, Wanted{file, blob});
    }
    std::vector<FileLock> locks;
    std::vector<Wanted> wanted;
    int64_t total = 0;
    for (const auto& [etag, want] : lacking) {
      locks.push_back(cache_.lock(etag, [this] { report_waiting(); }));
      if (is_whole(want.blob, want.file.size)) continue;  // another process was faster
      total = checked_add(total, want.file.size, "the model's files");
      wanted.push_back(want);
    }
    if (wanted.empty()) return;
    check_room(wanted);
    const int64_t before = state_.done_bytes;
    state_ = {before, checked_add(before, total, "the model's files"), false};
    download({remote_, options_, commit, wanted}, [&](int64_t bytes) {
      state_.done_bytes = before + bytes;
      report();
    });
    fetched_ += total;
    state_.done_bytes = state_.total_bytes;
    report();
  }

  void report_waiting() const {
    HubProgress waiting = state_;
    waiting.waiting = true;
    if (progress_) progress_(waiting);
  }

  void check_room(const std::vector<Wanted>& wanted) const {
    int64_t needed = 0;
    for (const Wanted& want : wanted)
      needed += std::max<int64_t>(want.file.size - partial_bytes_on_disk(want.blob), 0);
    const auto room =
        static_cast<int64_t>(std::min<uint64_t>(fs::space(cache_.folder()).available, kMostFileBytes));
    require(needed <= room,
            "{} needs {} more on the disk, and {} has {}; make room, or set HF_HOME to another place",
            title(), format_bytes(needed), cache_.folder().string(), format_bytes(room));
  }

  // What makes a folder a model is linked last: whatever happens in between, there is none without its
  // weights.
  void link_all(const std::string& commit, std::vector<RemoteFile> files) const {
    std::stable_partition(files.begin(), files.end(),
                          [](const RemoteFile& f) { return f.path != "config.json"; });
    for (const RemoteFile& file : files) cache_.link(commit, file.path, file.etag);
    cache_.set_commit(model_.revision, commit);
  }

  const HubModel& model_;
  const HubOptions& options_;
  const HubProgressCallback& progress_;
  RepositoryCache cache_;
  RemoteRepository remote_;
  std::unique_ptr<HubClient> client_;  // from the first question on
  HubProgress state_;
  int64_t fetched_ = 0;
};

}  // namespace

HubFiles fetch_model(const HubModel& model, const HubOptions& options, const HubProgressCallback& progress) {
  require(is_repository_name(model.repository), "{} is no name of a model; it must be org/name",
          in_quotes(model.repository));
  require(is_revision(model.revision), "{} is no revision of {}", in_quotes(model.revision),
          model.repository);
  return ModelFetch(model, options, progress).run();
}

}  // namespace shadowkv
