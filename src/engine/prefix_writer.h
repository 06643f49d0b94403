// Writes files of prefixes on a thread of its own: the service's thread copies memory into one of two places
// while the other is being written, and waits for the disk only where it chooses to.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "formats/state_file.h"

namespace shadowkv {

// Blocks of a file that are copied, written or read at a time.
inline constexpr int64_t kPrefixPieceBlocks = 4;
inline constexpr int64_t kPrefixPieceBytes = kPrefixPieceBlocks * kStateBlockBytes;

// All but the constructor's callback is for one thread.
class PrefixWriter {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr const char* kGivenUp = "it was given up";
  struct File {
    std::filesystem::path path;
    StateDescription description;
    int64_t content_bytes = 0;
  };
  // on_news: called on the writer's thread when there is a place again, or a file has ended.
  explicit PrefixWriter(std::function<void()> on_news);
  ~PrefixWriter();  // a file whose bytes were given is written to its end; another is gone
  PrefixWriter(const PrefixWriter&) = delete;
  PrefixWriter& operator=(const PrefixWriter&) = delete;

  // One file at a time: until take_end() has said how it ended.
  void begin(File file);
  // Where the next bytes of the content are to be put; empty while both places are being written at `until`,
  // when all bytes were given, or the file has failed.
  [[nodiscard]] std::span<std::byte> place(Clock::time_point until);
  void give();     // they are there
  void abandon();  // it is to be no file, unless it is one already
  // How it ended, once: an empty text where it is on the disk, else why not (kGivenUp after abandon()).
  // Nothing while it has not, at `until`.
  [[nodiscard]] std::optional<std::string> take_end(Clock::time_point until);

 private:
  void run() noexcept;
  [[nodiscard]] std::string write(const File& file);
  void write_content(StateWriter& writer, const File& file);
  [[nodiscard]] int64_t bytes_of(int64_t turn) const;

  std::function<void()> on_news_;
  std::array<std::vector<std::byte>, 2> places_;  // piece i is at place i % 2
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<File> file_;        // guarded by mutex_, as all below; that is under way
  std::optional<std::string> end_;  // of it
  int64_t pieces_ = 0, given_ = 0, written_ = 0;
  bool is_abandoned_ = false, stops_ = false;
  std::thread thread_;  // the last member: begins when all else is there
};

}  // namespace shadowkv
