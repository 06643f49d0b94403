// Device memory that grows to the largest shape asked for and never shrinks: temporaries of steps that must
// not allocate once they have run at their size.
#pragma once

#include <initializer_list>

#include "base/device.h"
#include "base/tensor.h"

namespace shadowkv {

class Scratch {
 public:
  explicit Scratch(Device& device) : device_(&device) {}

  // Content is whatever was there; the last view handed out is the only valid one.
  [[nodiscard]] TensorView get(DType dtype, std::initializer_list<int64_t> shape) {
    TensorView view(nullptr, dtype, shape);
    if (view.bytes() > memory_.bytes()) {
      device_->compute().synchronize();  // earlier work may still use the old memory
      memory_ = Buffer();
      memory_ = device_->allocate(Tier::device, Purpose::activations, view.bytes());
    }
    view.data = memory_.data();
    return view;
  }
  void free() { memory_ = Buffer(); }

 private:
  Device* device_;
  Buffer memory_;
};

}  // namespace shadowkv
