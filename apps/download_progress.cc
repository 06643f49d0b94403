#include "download_progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <utility>

#include "base/bytes.h"
#include "interrupt.h"

namespace shadowkv::apps {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

std::string format_duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::ceil(std::clamp(seconds, 0.0, 1e9)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole / 60 % 60);
}

DownloadProgress::DownloadProgress(std::string name)
    : name_(std::move(name)), terminal_(stderr_is_terminal()) {}

DownloadProgress::~DownloadProgress() {
  clear();
}

HubProgressCallback DownloadProgress::callback() {
  return [this](const HubProgress& progress) {
    check_interrupted();
    update(progress);
  };
}

void DownloadProgress::update(const HubProgress& progress) {
  if (progress.waiting && !told_waiting_) {
    clear();
    std::cerr << fmt::format("waiting for another process that fetches {}\n", name_) << std::flush;
    told_waiting_ = true;
  }
  if (progress.total_bytes == 0 || progress.waiting) return;
  if (first_bytes_ < 0) {
    first_bytes_ = progress.done_bytes;
    begin_ = Clock::now();
  }
  terminal_ ? draw(progress) : print(progress);
}

double DownloadProgress::bytes_per_second(const HubProgress& progress) {
  const double seconds = seconds_since(begin_);
  return seconds < 0.2
             ? 0
             : static_cast<double>(std::max<int64_t>(progress.done_bytes - first_bytes_, 0)) / seconds;
}

void DownloadProgress::draw(const HubProgress& progress) {
  if (drawn_ && seconds_since(last_draw_) < 0.1) return;
  const double rate = bytes_per_second(progress);
  std::string speed;
  if (rate >= 1) {
    const auto left = static_cast<double>(progress.total_bytes - progress.done_bytes);
    speed = fmt::format(", {}/s, {} left", format_bytes(static_cast<int64_t>(rate)),
                        format_duration(left / rate));
  }
  std::cerr << fmt::format("\rfetching {}: {} of {}{}\x1b[K", name_, format_bytes(progress.done_bytes),
                           format_bytes(progress.total_bytes), speed)
            << std::flush;
  drawn_ = true;
  last_draw_ = Clock::now();
}

// One line at the beginning, then one for every tenth, at most one in 5 s.
void DownloadProgress::print(const HubProgress& progress) {
  const auto share = static_cast<int64_t>(10.0 * static_cast<double>(progress.done_bytes) /
                                          static_cast<double>(progress.total_bytes));
  const bool first = printed_share_ < 0;
  if (!first && (share <= printed_share_ || seconds_since(last_draw_) < 5)) return;
  printed_share_ = share;
  last_draw_ = Clock::now();
  std::cerr << fmt::format("fetching {}: {} of {}\n", name_, format_bytes(progress.done_bytes),
                           format_bytes(progress.total_bytes))
            << std::flush;
}

void DownloadProgress::finish(const HubFiles& files) {
  clear();
  if (!files.note.empty()) std::cerr << fmt::format("shadowkv: note: {}\n", files.note);
  if (files.fetched_bytes == 0) return;
  std::cerr << fmt::format("fetched {}: {} in {:.1f} s\n", name_, format_bytes(files.fetched_bytes),
                           watch_.seconds());
}

void DownloadProgress::clear() {
  if (drawn_) std::cerr << "\r\x1b[K" << std::flush;
  drawn_ = false;
}

}  // namespace shadowkv::apps
