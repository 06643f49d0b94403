// A small table that the host writes and kernels read: a host copy and a device copy, brought together on
// demand.
#pragma once

#include <cstdint>
#include <vector>

#include "base/device.h"

namespace shadowkv {

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(Device& device) : device_(&device) {}

  // Entries beyond the old size are T{}.
  void resize(int64_t size) {
    host_.resize(static_cast<std::size_t>(size));
    dirty_ = true;
  }
  // All entries T{}, to be set by a new rule, such as another stride: the device copy will lie elsewhere, so
  // that no recorded step reads it by the old one (Device::address_epoch()).
  void lay_out(int64_t size) {
    host_.assign(static_cast<std::size_t>(size), T{});
    dirty_ = laid_out_ = true;
  }
  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(host_.size()); }

  [[nodiscard]] const T& operator[](int64_t i) const { return host_[static_cast<std::size_t>(i)]; }
  void set(int64_t i, const T& value) {
    host_[static_cast<std::size_t>(i)] = value;
    dirty_ = true;
  }
  void assign(std::vector<T> values) {
    host_ = std::move(values);
    dirty_ = true;
  }

  // The device copy, up to date with the host's in the queue's order. The address changes when the table
  // grew or was laid out.
  const T* upload(Queue& queue) {
    if (dirty_) {
      const int64_t bytes = size() * static_cast<int64_t>(sizeof(T));
      if (bytes > memory_.bytes() || laid_out_) {
        queue.synchronize();  // earlier work may still read the old copy
        memory_ =
            device_->allocate(Tier::device, Purpose::tables, bytes * 2);  // room to grow: few reallocations
      }
      queue.copy(memory_.data(), host_.data(), bytes);
      dirty_ = laid_out_ = false;
    }
    return reinterpret_cast<const T*>(memory_.data());
  }

 private:
  Device* device_;
  std::vector<T> host_;
  Buffer memory_;
  bool dirty_ = false;
  bool laid_out_ = false;  // since it was brought to the device
};

}  // namespace shadowkv
