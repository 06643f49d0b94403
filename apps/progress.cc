#include "progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "interrupt.h"

namespace shadowkv::apps {
namespace {

constexpr std::size_t kWidth = 30;  // of the bar; around it stand the label and "[] 100 %"

}  // namespace

bool stderr_is_terminal() {
  return isatty(STDERR_FILENO) == 1;
}

ProgressBar::ProgressBar(std::string label) : label_(std::move(label)), terminal_(stderr_is_terminal()) {}

ProgressBar::~ProgressBar() {
  clear();
}

Progress ProgressBar::callback() {
  return [this](double share) {
    check_interrupted();
    update(share);
  };
}

void ProgressBar::update(double share) {
  if (!terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (drawn_ && now - last_draw_ < std::chrono::milliseconds(100)) return;
  const double clamped = std::clamp(share, 0.0, 1.0);
  const auto filled = static_cast<std::size_t>(clamped * static_cast<double>(kWidth));
  std::cerr << fmt::format("\r{} [{:<{}}] {:3.0f} %", label_, std::string(filled, '#'), kWidth, clamped * 100)
            << std::flush;
  drawn_ = true;
  last_draw_ = now;
}

void ProgressBar::clear() {
  if (drawn_) std::cerr << fmt::format("\r{:{}}\r", "", label_.size() + kWidth + 9) << std::flush;
  drawn_ = false;
}

}  // namespace shadowkv::apps
