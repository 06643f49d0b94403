// How far a download is, on stderr: one line that changes on a terminal, a few plain lines elsewhere.
#pragma once

#include <chrono>
#include <string>

#include "progress.h"
#include "shadowkv/hub.h"

namespace shadowkv::apps {

class DownloadProgress {
 public:
  // name: of what is fetched, as the user gave it.
  explicit DownloadProgress(std::string name);
  ~DownloadProgress();  // takes the line off the screen
  DownloadProgress(const DownloadProgress&) = delete;
  DownloadProgress& operator=(const DownloadProgress&) = delete;

  // For fetch_model(); throws Interrupted after Ctrl-C. Must not outlive this.
  [[nodiscard]] HubProgressCallback callback();
  // What was fetched, and how fast; nothing where nothing was.
  void finish(const HubFiles& files);

 private:
  void update(const HubProgress& progress);
  void draw(const HubProgress& progress);
  void print(const HubProgress& progress);
  void clear();
  [[nodiscard]] double bytes_per_second(const HubProgress& progress);

  std::string name_;
  bool terminal_;
  bool drawn_ = false, told_waiting_ = false;
  int64_t first_bytes_ = -1;    // that were there when the download began
  int64_t printed_share_ = -1;  // tenths of the bytes, as of the last plain line
  Stopwatch watch_;
  std::chrono::steady_clock::time_point last_draw_, begin_;
};

// "12 s", "3 min 20 s", "2 h 5 min".
[[nodiscard]] std::string format_duration(double seconds);

}  // namespace shadowkv::apps
