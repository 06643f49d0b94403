// A progress bar on stderr, drawn only when that is a terminal.
#pragma once

#include <chrono>
#include <string>

#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar();  // takes the bar off the screen
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // For the library's long calls; throws Interrupted after Ctrl-C. Must not outlive the bar.
  [[nodiscard]] Progress callback();
  // share: of the work done, 0 to 1.
  void update(double share);
  void clear();

 private:
  std::string label_;
  bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_draw_;
};

[[nodiscard]] bool stderr_is_terminal();

// Seconds since construction.
class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace shadowkv::apps
