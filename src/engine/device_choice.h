// The device that EngineOptions ask for.
#pragma once

#include <memory>
#include <string_view>

#include "base/device.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv {

// Both throw InvalidInput naming the known values.
[[nodiscard]] DType compute_dtype(std::string_view name);

// What matrices are kept in. Throws InvalidInput naming the known.
[[nodiscard]] DType matrix_dtype(const EngineOptions& options);
[[nodiscard]] std::unique_ptr<Device> make_device(const EngineOptions& options);

}  // namespace shadowkv
