#include "kernels/cuda/launch.h"

#include <fmt/core.h>

#include "shadowkv/error.h"

namespace shadowkv::cuda {

void refuse(const char* op, const char* message) {
  throw InvalidInput(fmt::format("{}: {}", op, message));
}

}  // namespace shadowkv::cuda
