// A repository's folder in the cache, as huggingface_hub lays it out:
//
//     models--org--name/blobs/CHECKSUM                contents
//                       snapshots/COMMIT/PATH         -> ../../blobs/CHECKSUM
//                       refs/REVISION                 a commit
//     .locks/models--org--name/CHECKSUM.lock          held while CHECKSUM is fetched
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace shadowkv {

// Held by one process at a time; given back when that ends, however it ends.
class FileLock {
 public:
  // Waits; `waiting` is called many times a second meanwhile, and may throw. Throws DeviceFailure.
  FileLock(std::filesystem::path path, const std::function<void()>& waiting);
  ~FileLock();
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&&) = delete;

 private:
  bool try_lock();

  std::filesystem::path path_;
  int fd_ = -1;
};

class RepositoryCache {
 public:
  // `repository` is checked (names.h). Touches no file.
  RepositoryCache(const std::filesystem::path& cache, const std::string& repository);

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  [[nodiscard]] std::filesystem::path blob(const std::string& etag) const;
  [[nodiscard]] std::filesystem::path snapshot(const std::string& commit) const;
  // Of a revision that is none itself, as last fetched; nothing where it never was.
  [[nodiscard]] std::optional<std::string> commit_of(const std::string& revision) const;
  // The files that a snapshot has, sorted; those whose blobs are gone are not among them.
  [[nodiscard]] std::vector<std::string> files_of(const std::string& commit) const;

  // Makes the folders; throws DeviceFailure where they cannot be made. The others throw it likewise.
  void create() const;
  [[nodiscard]] FileLock lock(const std::string& etag, const std::function<void()>& waiting) const;
  // Gives the blob the file's name in the snapshot; what stood there gives way.
  void link(const std::string& commit, const std::string& path, const std::string& etag) const;
  void set_commit(const std::string& revision, const std::string& commit) const;

 private:
  std::filesystem::path cache_;
  std::filesystem::path folder_;
  std::filesystem::path locks_;
};

}  // namespace shadowkv
