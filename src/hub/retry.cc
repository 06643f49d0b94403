#include "hub/retry.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

namespace shadowkv {
namespace {

constexpr double kLongestPause = 30;  // seconds, of our own accord
constexpr double kLongestWait = 600;  // that a server may ask for

void pause(double seconds, const std::function<void()>& check) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < end) {
    check();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

void Retries::failed(const TransientFailure& failure) {
  const std::string tries = count_ == 0 ? "once" : fmt::format("{} times", count_ + 1);
  if (count_ >= options_.retries) {
    throw DeviceFailure(
        fmt::format("{} (tried {}); check the network, or try again later: what has come is kept",
                    failure.what(), tries));
  }
  if (failure.wait_s() > kLongestWait) {
    throw DeviceFailure(fmt::format("{}, and asks to wait {:.0f} s; try again then: what has come is kept",
                                    failure.what(), failure.wait_s()));
  }
  const double own = std::min(kLongestPause, options_.first_pause_s * std::exp2(static_cast<double>(count_)));
  ++count_;
  pause(std::max(own, failure.wait_s()), check_);
}

}  // namespace shadowkv
