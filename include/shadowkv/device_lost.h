// The failure that a process does not get over.
#pragma once

#include "shadowkv/error.h"

namespace shadowkv {

// A GPU failed for good, as after a kernel that read where nothing is: what it held is lost, and only a new
// process can use it again.
class DeviceLost : public DeviceFailure {
 public:
  using DeviceFailure::DeviceFailure;
};

}  // namespace shadowkv
