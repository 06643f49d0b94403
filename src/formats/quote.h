// Text that came from a file, made fit for an error message.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace shadowkv {

// Bytes outside of printable ASCII become \xNN, and what exceeds `longest` bytes is cut with "...".
[[nodiscard]] std::string printable(std::string_view text, int64_t longest = 80);
// The same within double quotes, of which, as of backslashes, there are none inside.
[[nodiscard]] std::string in_quotes(std::string_view text);

}  // namespace shadowkv
