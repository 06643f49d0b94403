// The printable alphabet in which byte-level vocabularies write bytes: one character per byte.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace shadowkv {

// Printable Latin-1 bytes stand for themselves, the other 68 for U+0100 upwards in order of their value.
[[nodiscard]] char32_t alphabet_character(unsigned char byte);

// The bytes that `token` writes; nullopt when a character of it is not of the alphabet.
[[nodiscard]] std::optional<std::string> alphabet_to_bytes(std::string_view token);

}  // namespace shadowkv
