// A place on the device that the host writes anew for each step, through pinned memory: both stay where they
// are until more is needed than ever before.
#pragma once

#include <algorithm>
#include <utility>

#include "base/device.h"

namespace shadowkv {

class StagedUpload {
 public:
  explicit StagedUpload(Device& device) : device_(&device) {}

  // Room for `bytes`, to be written by the host: what was sent before has arrived.
  [[nodiscard]] std::byte* host(int64_t bytes) {
    if (is_sent_) device_->compute().synchronize();
    is_sent_ = false;
    if (bytes > host_.bytes()) grow(std::max(bytes, 2 * host_.bytes()));
    return host_.data();
  }
  // The compute queue was waited for since the last send: what was sent has arrived.
  void arrived() { is_sent_ = false; }
  // Where the room lies on the device.
  [[nodiscard]] std::byte* device() const { return on_device_.data(); }
  // Brings its first bytes there, in the compute queue's order.
  void send(int64_t bytes) {
    device_->compute().copy(on_device_.data(), host_.data(), bytes);
    is_sent_ = true;
  }

 private:
  void grow(int64_t bytes) {
    host_ = Buffer();
    on_device_ = Buffer();
    Buffer on_device = device_->allocate(Tier::device, Purpose::tables, bytes);
    host_ = device_->allocate(Tier::pinned_host, Purpose::tables, bytes);
    on_device_ = std::move(on_device);
  }

  Device* device_;
  Buffer host_, on_device_;
  bool is_sent_ = false;  // and perhaps still under way
};

}  // namespace shadowkv
