// A file that comes in pieces and out of order, and survives the end of its process: its bytes, and beside
// them a journal of the ranges that are there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

namespace shadowkv {

// Bytes [first, second).
using ByteRange = std::pair<int64_t, int64_t>;

// A set of bytes as ranges that neither touch nor overlap.
class ByteRanges {
 public:
  void add(ByteRange range);
  void clear() { ends_.clear(); }
  [[nodiscard]] int64_t bytes() const;
  [[nodiscard]] const std::map<int64_t, int64_t>& ranges() const { return ends_; }  // ends by begin
  // What of [0, size) is missing, in ranges of at most `longest` bytes.
  [[nodiscard]] std::vector<ByteRange> missing(int64_t size, int64_t longest) const;

 private:
  std::map<int64_t, int64_t> ends_;
};

// Its functions may be called by several threads at once. They throw DeviceFailure where the disk fails.
class PartialFile {
 public:
  // blob: what the file will be called once it is whole. Takes up what an earlier process has left, unless it
  // is of another size.
  PartialFile(const std::filesystem::path& blob, int64_t size);
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] int64_t size() const { return size_; }
  // Whether some of it was there when it was opened.
  [[nodiscard]] bool resumed() const { return resumed_; }
  [[nodiscard]] int64_t present_bytes() const;
  [[nodiscard]] std::vector<ByteRange> missing(int64_t longest) const;

  void write(int64_t offset, std::span<const std::byte> bytes);
  // What was written there counts as present from now on, for later processes too.
  void mark(ByteRange range);
  // Forgets all that is present.
  void restart();
  // Gives the file its name, whole as its caller has checked.
  void commit();
  // Removes it.
  void discard();

 private:
  void open_files();
  void read_journal();
  void write_journal();

  std::filesystem::path blob_, path_, journal_path_;
  int64_t size_;
  int fd_ = -1, journal_ = -1;
  bool resumed_ = false;
  mutable std::mutex mutex_;
  ByteRanges present_;
};

// Bytes that a blob's partial file takes on the disk already; 0 where there is none.
[[nodiscard]] int64_t partial_bytes_on_disk(const std::filesystem::path& blob);

}  // namespace shadowkv
