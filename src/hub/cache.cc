#include "hub/cache.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <system_error>
#include <thread>
#include <utility>

#include "hub/names.h"
#include "shadowkv/error.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(std::string_view what, const fs::path& path, const std::error_code& error) {
  throw DeviceFailure(
      fmt::format("cannot {} {}: {}; choose another cache by HF_HOME", what, path.string(), error.message()));
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail("make the folder", path, error);
}

// Beside `path`, of this process alone.
fs::path temporary_beside(const fs::path& path) {
  return fmt::format("{}.{}.tmp", path.string(), getpid());
}

void rename_over(const fs::path& from, const fs::path& to) {
  std::error_code error, ignored;
  fs::rename(from, to, error);
  if (!error) return;
  fs::remove(from, ignored);
  fail("write", to, error);
}

}  // namespace

FileLock::FileLock(fs::path path, const std::function<void()>& waiting) : path_(std::move(path)) {
  while (!try_lock()) {
    waiting();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

// The file may have been removed by who held it before: only a lock on what bears the name counts.
bool FileLock::try_lock() {
  const int fd = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664);
  if (fd < 0) fail("open the lock", path_, std::error_code(errno, std::generic_category()));
  const int result = flock(fd, LOCK_EX | LOCK_NB);
  const int error = result == 0 ? 0 : errno;
  // Where the file system has no locks, two processes may do the same work; neither spoils the other's.
  const bool locked = result == 0 || error == EOPNOTSUPP || error == ENOSYS || error == ENOLCK;
  struct stat held = {}, named = {};
  if (locked && fstat(fd, &held) == 0 && stat(path_.c_str(), &named) == 0 && held.st_ino == named.st_ino) {
    fd_ = fd;
    return true;
  }
  close(fd);
  if (!locked && error != EWOULDBLOCK && error != EINTR) {
    fail("lock", path_, std::error_code(error, std::generic_category()));
  }
  return false;
}

FileLock::~FileLock() {
  if (fd_ >= 0) close(fd_);
}

FileLock::FileLock(FileLock&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

RepositoryCache::RepositoryCache(const fs::path& cache, const std::string& repository) : cache_(cache) {
  const std::size_t slash = repository.find('/');
  const std::string name =
      fmt::format("models--{}--{}", repository.substr(0, slash), repository.substr(slash + 1));
  folder_ = cache_ / name;
  locks_ = cache_ / ".locks" / name;
}

fs::path RepositoryCache::blob(const std::string& etag) const {
  return folder_ / "blobs" / etag;
}

fs::path RepositoryCache::snapshot(const std::string& commit) const {
  return folder_ / "snapshots" / commit;
}

std::optional<std::string> RepositoryCache::commit_of(const std::string& revision) const {
  if (is_commit(revision)) return revision;
  std::ifstream file(folder_ / "refs" / revision);
  std::string commit;
  if (!std::getline(file, commit) || !is_commit(commit)) return std::nullopt;
  return commit;
}

std::vector<std::string> RepositoryCache::files_of(const std::string& commit) const {
  const fs::path root = snapshot(commit);
  std::vector<std::string> found;
  std::error_code error;
  for (fs::recursive_directory_iterator at(root, error), end; !error && at != end; at.increment(error)) {
    std::error_code gone;
    if (fs::is_regular_file(at->path(), gone)) found.push_back(at->path().lexically_relative(root).string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

void RepositoryCache::create() const {
  make_folder(folder_ / "blobs");
  make_folder(folder_ / "snapshots");
  make_folder(folder_ / "refs");
  make_folder(locks_);
  const fs::path tag = cache_ / "CACHEDIR.TAG";  // says to backups that it can be fetched again
  if (std::error_code error; fs::exists(tag, error) || error) return;
  std::ofstream(tag) << "Signature: 8a477f597d28d172789f06886806bc55\n"
                        "# A cache of models, shared with huggingface_hub: https://bford.info/cachedir/\n";
}

FileLock RepositoryCache::lock(const std::string& etag, const std::function<void()>& waiting) const {
  return {locks_ / (etag + ".lock"), waiting};
}

void RepositoryCache::link(const std::string& commit, const std::string& path,
                           const std::string& etag) const {
  const fs::path place = snapshot(commit) / path;
  const fs::path target = blob(etag).lexically_relative(place.parent_path());
  std::error_code error;
  if (fs::read_symlink(place, error) == target && !error) return;
  make_folder(place.parent_path());
  const fs::path temporary = temporary_beside(place);
  fs::remove(temporary, error);
  fs::create_symlink(target, temporary, error);
  if (error) fail("make the link", place, error);
  rename_over(temporary, place);
}

void RepositoryCache::set_commit(const std::string& revision, const std::string& commit) const {
  if (revision == commit || commit_of(revision) == commit) return;
  const fs::path place = folder_ / "refs" / revision;
  make_folder(place.parent_path());
  const fs::path temporary = temporary_beside(place);
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  file << commit;
  file.close();
  if (!file) fail("write", place, std::make_error_code(std::errc::io_error));
  rename_over(temporary, place);
}

}  // namespace shadowkv
