#include "hub/partial_file.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <string>
#include <system_error>

#include "shadowkv/error.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(std::string_view what, const fs::path& path) {
  const std::string reason = std::generic_category().message(errno);
  throw DeviceFailure(fmt::format("cannot {} {}: {}", what, path.string(), reason));
}

// Names of our own: other programs read no journal, and would take a file with holes for its beginning.
fs::path partial_path(const fs::path& blob) {
  return blob.string() + ".shadowkv.incomplete";
}

int open_or_fail(const fs::path& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) fail("write", path);
  return fd;
}

void write_all(int fd, const fs::path& path, std::span<const std::byte> bytes, int64_t offset) {
  while (!bytes.empty()) {
    const ssize_t count =
        offset < 0 ? ::write(fd, bytes.data(), bytes.size()) : pwrite(fd, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("write", path);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    if (offset >= 0) offset += count;
  }
}

}  // namespace

void ByteRanges::add(ByteRange range) {
  auto [begin, end] = range;
  if (begin >= end) return;
  auto at = ends_.upper_bound(begin);
  if (at != ends_.begin() && std::prev(at)->second >= begin) --at;
  while (at != ends_.end() && at->first <= end) {
    begin = std::min(begin, at->first);
    end = std::max(end, at->second);
    at = ends_.erase(at);
  }
  ends_.emplace(begin, end);
}

int64_t ByteRanges::bytes() const {
  int64_t sum = 0;
  for (const auto& [begin, end] : ends_) sum += end - begin;
  return sum;
}

std::vector<ByteRange> ByteRanges::missing(int64_t size, int64_t longest) const {
  std::vector<ByteRange> gaps;
  int64_t at = 0;
  const auto fill_up_to = [&](int64_t end) {
    for (; at < end; at = gaps.back().second) gaps.emplace_back(at, std::min(at + longest, end));
  };
  for (const auto& [begin, end] : ends_) {
    fill_up_to(std::min(begin, size));
    at = std::max(at, end);
  }
  fill_up_to(size);
  return gaps;
}

PartialFile::PartialFile(const fs::path& blob, int64_t size)
    : blob_(blob),
      path_(partial_path(blob)),
      journal_path_(blob.string() + ".shadowkv.journal"),
      size_(size) {
  try {
    open_files();
  } catch (...) {
    if (fd_ >= 0) close(fd_);
    throw;
  }
}

PartialFile::~PartialFile() {
  if (fd_ >= 0) close(fd_);
  if (journal_ >= 0) close(journal_);
}

void PartialFile::open_files() {
  fd_ = open_or_fail(path_, O_RDWR);
  struct stat status = {};
  if (fstat(fd_, &status) != 0) fail("examine", path_);
  if (status.st_size == size_) read_journal();
  resumed_ = present_.bytes() > 0;
  if (ftruncate(fd_, size_) != 0) fail("make room for", path_);
  journal_ = open_or_fail(journal_path_, O_WRONLY | O_APPEND | O_TRUNC);
  write_journal();  // anew: what is appended must not meet a line that was cut
}

void PartialFile::write_journal() {
  std::string lines;
  for (const auto& [begin, end] : present_.ranges()) lines += fmt::format("{} {}\n", begin, end);
  write_all(journal_, journal_path_, std::as_bytes(std::span(lines)), -1);
}

// Lines "begin end"; the last may be cut. What the disk lost of the bytes themselves, the checksum finds.
void PartialFile::read_journal() {
  std::ifstream file(journal_path_);
  int64_t begin = 0, end = 0;
  while (file >> begin >> end && file.get() == '\n' && begin >= 0 && begin < end && end <= size_) {
    present_.add({begin, end});
  }
}

int64_t PartialFile::present_bytes() const {
  const std::lock_guard lock(mutex_);
  return present_.bytes();
}

std::vector<ByteRange> PartialFile::missing(int64_t longest) const {
  const std::lock_guard lock(mutex_);
  return present_.missing(size_, longest);
}

void PartialFile::write(int64_t offset, std::span<const std::byte> bytes) {
  write_all(fd_, path_, bytes, offset);
}

void PartialFile::mark(ByteRange range) {
  if (range.first >= range.second) return;
  const std::string line = fmt::format("{} {}\n", range.first, range.second);
  const std::lock_guard lock(mutex_);
  write_all(journal_, journal_path_, std::as_bytes(std::span(line)), -1);
  present_.add(range);
}

void PartialFile::restart() {
  const std::lock_guard lock(mutex_);
  if (ftruncate(journal_, 0) != 0) fail("write", journal_path_);
  present_.clear();
  resumed_ = false;
}

void PartialFile::commit() {
  if (fsync(fd_) != 0) fail("write", path_);
  if (rename(path_.c_str(), blob_.c_str()) != 0) fail("rename", path_);
  unlink(journal_path_.c_str());
}

void PartialFile::discard() {
  unlink(journal_path_.c_str());
  unlink(path_.c_str());
}

int64_t partial_bytes_on_disk(const fs::path& blob) {
  struct stat status = {};
  if (stat(partial_path(blob).c_str(), &status) != 0) return 0;
  return std::min<int64_t>(status.st_blocks * int64_t{512}, status.st_size);
}

}  // namespace shadowkv
