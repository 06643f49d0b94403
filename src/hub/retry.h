// How long a failing request is tried again.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "hub/http.h"
#include "shadowkv/hub.h"

namespace shadowkv {

// Counts tries of one thing, and pauses between them. Used by one thread.
class Retries {
 public:
  Retries(const HubOptions& options, std::function<void()> check)
      : options_(options), check_(std::move(check)) {}

  // A try has failed: pauses before the next, or throws DeviceFailure with what failed last when there were
  // enough. Throws what the check throws, which is called during the pause.
  void failed(const TransientFailure& failure);
  // Something new came: what fails from now on is counted from the beginning.
  void progressed() { count_ = 0; }

 private:
  const HubOptions& options_;
  std::function<void()> check_;
  int64_t count_ = 0;
};

}  // namespace shadowkv
