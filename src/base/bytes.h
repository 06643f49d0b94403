// Byte counts as people write them ("6.0 GiB") and read them ("512M", "2GiB").
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace shadowkv {

[[nodiscard]] std::string format_bytes(int64_t bytes);

// Accepts a number with an optional unit: B, K, M, G, T (powers of 1024), each with optional "B" or "iB".
// Throws InvalidInput naming `option` otherwise.
[[nodiscard]] int64_t parse_bytes(std::string_view text, std::string_view option);

}  // namespace shadowkv
