// The devices that a test runs on.
#pragma once

#include <string>
#include <vector>

#include "base/device.h"

namespace shadowkv::testing {

// The CPU, and a GPU where there is one.
inline std::vector<std::string> devices() {
  std::vector<std::string> names = {"cpu"};
  if (cuda_device_count() > 0) names.emplace_back("cuda");
  return names;
}

}  // namespace shadowkv::testing
