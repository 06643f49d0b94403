// Names of devices, and what they may hold.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "shadowkv/shadowkv.h"

namespace shadowkv {

// Whether `name` can be EngineOptions::device; this machine may have no such device all the same.
[[nodiscard]] bool is_device_name(std::string_view name);
// Bytes by tier (device, host) that an engine of these options may hold, weights included. Throws
// InvalidInput where there is no such device, DeviceFailure when a GPU fails.
[[nodiscard]] std::array<int64_t, 2> memory_budgets(const EngineOptions& options);

}  // namespace shadowkv
