// Names that came from a file, made fit for an error message.
#pragma once

#include <string>
#include <string_view>

namespace shadowkv {

// "text" in double quotes; bytes outside printable ASCII become \xNN, and what exceeds 80 bytes is cut with
// "...".
[[nodiscard]] std::string in_quotes(std::string_view text);

}  // namespace shadowkv
