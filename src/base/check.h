// Checks that throw, and arithmetic on sizes that came from a file or the network.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "shadowkv/error.h"

namespace shadowkv {

// Throws InvalidInput with the formatted sentence unless `condition` holds.
template <typename... Args>
void require(bool condition, fmt::format_string<Args...> message, Args&&... args) {
  if (!condition) throw InvalidInput(fmt::format(message, std::forward<Args>(args)...));
}

// a * b and a + b of non-negative sizes; throws InvalidInput naming `what` when the result leaves int64
// or an operand is negative.
[[nodiscard]] int64_t checked_mul(int64_t a, int64_t b, std::string_view what);
[[nodiscard]] int64_t checked_add(int64_t a, int64_t b, std::string_view what);

[[nodiscard]] constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
[[nodiscard]] constexpr int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

}  // namespace shadowkv
