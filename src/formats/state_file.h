// The file of a saved sequence: what it is, and its memory in blocks, every byte under a checksum. Numbers
// are little-endian:
//
//   0   "SKVSTATE", version uint32 (1), bytes of a block uint32 (1 MiB)
//   16  bytes of the description int64, of the content int64
//   32  checksum uint64 of the description, then of all that stands before
//   48  description: a JSON object
//   ..  blocks of the content: checksum uint64, then its bytes; the last may be shorter
//
// Checksums (base/checksum.h) are seeded by what they are of: 2^64 - 1 the header, 2^64 - 2 the description,
// else the block, from 0.
//
// Readers trust nothing: sizes are checked against the file's before any memory is asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/parallel.h"

namespace shadowkv {

inline constexpr int64_t kStateBlockBytes = int64_t{1} << 20;

// An open file, closed with it.
class FileDescriptor {
 public:
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { close(); }

  [[nodiscard]] int number() const { return number_; }
  bool close() noexcept;  // false where the system says that something was lost

 private:
  int number_;
};

struct StateDescription {
  std::string model;             // its name, for people
  std::string fingerprint;       // of its weights and positions
  std::string dtype;             // of computation
  std::string attention;         // every knob that changes results, as text
  int64_t tokens = 0;            // held
  int64_t ids = 0;               // token ids in the content, of all that is held at least
  int64_t note_bytes = 0;        // of whatever its writer put there, after the ids
  std::vector<int64_t> numbers;  // of the attention method; its memory is the rest of the content
};

class StateReader {
 public:
  // Checks all but the blocks. Throws InvalidInput naming the file for one that cannot be read, is no saved
  // state, is of a newer version, cut short, or damaged.
  explicit StateReader(std::filesystem::path path);

  [[nodiscard]] const StateDescription& description() const { return description_; }
  [[nodiscard]] int64_t content_bytes() const { return content_bytes_; }
  [[nodiscard]] std::string name() const;  // of the file, for people
  [[nodiscard]] int64_t blocks() const;
  // All of it will be read soon: the system may begin with that.
  void will_read() const noexcept;
  // Content from block `first` on, whole blocks but for the last of all. Throws InvalidInput for a damaged
  // block, DeviceFailure where the disk fails.
  void read(int64_t first, std::span<std::byte> to, ThreadPool& threads) const;

 private:
  void check_header();

  std::filesystem::path path_;
  FileDescriptor file_;
  StateDescription description_;
  int64_t content_at_ = 0, content_bytes_ = 0;
};

// Appears whole or not at all: written under a temporary name beside its place.
class StateWriter {
 public:
  // Throws InvalidInput where no file can be made there.
  StateWriter(std::filesystem::path path, const StateDescription& description, int64_t content_bytes);
  ~StateWriter();  // removes what was not committed
  StateWriter(const StateWriter&) = delete;
  StateWriter& operator=(const StateWriter&) = delete;

  // As StateReader::read. Throws DeviceFailure where the disk fails or is full.
  void write(int64_t first, std::span<const std::byte> from, ThreadPool& threads);
  // All of it is on the disk, and then has its name.
  void commit();

 private:
  void write_at(int64_t offset, std::span<const std::byte> bytes);
  [[noreturn]] void fail(int error) const;

  std::filesystem::path path_, temporary_;
  FileDescriptor file_;
  int64_t content_at_ = 0;
  bool is_committed_ = false;
};

}  // namespace shadowkv
