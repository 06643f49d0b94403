// Help for someone who mistyped a name: the nearest known one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace shadowkv {

// Least number of single-byte insertions, deletions, replacements and swaps of neighbours that turn a into b.
[[nodiscard]] int64_t edit_distance(std::string_view a, std::string_view b);

// The name nearest to `asked`, the first of equals; empty when none is within a third of its letters (at
// least 2).
[[nodiscard]] std::string_view nearest_name(std::string_view asked, std::span<const std::string> names);

// A sentence for an error: `unknown shape "llama-3-9b", did you mean "llama-3-8b"? Known are: a, b, c`.
[[nodiscard]] std::string unknown_name(std::string_view kind, std::string_view asked,
                                       std::span<const std::string> names);

}  // namespace shadowkv
