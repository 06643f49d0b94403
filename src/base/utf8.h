// UTF-8 as the Unicode standard defines it: no surrogates, no overlong forms, nothing above U+10FFFF.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace shadowkv {

enum class Utf8Kind { valid, invalid, truncated };

// What stands first in a byte string. Where it is no character, `length` covers the longest start of one
// (at least one byte), the unit that lossy decoding replaces by a single U+FFFD.
struct Utf8Unit {
  Utf8Kind kind;
  int64_t length;       // bytes, 1 to 4
  char32_t code_point;  // only of a valid unit
};

// `bytes` must not be empty. `truncated`: the bytes end where a character could still be completed.
[[nodiscard]] Utf8Unit read_utf8(std::string_view bytes);

void append_utf8(std::string& out, char32_t code_point);

// Offset in bytes of the first byte that is not part of a character.
[[nodiscard]] std::optional<int64_t> find_invalid_utf8(std::string_view bytes);

// Appends `bytes` with U+FFFD for each invalid unit. With `keep_truncated` a truncated unit at the end is
// left out; the result is the number of bytes consumed.
int64_t append_lossy_utf8(std::string& out, std::string_view bytes, bool keep_truncated);

// Unicode's White_Space property.
[[nodiscard]] bool is_white_space(char32_t code_point);
// A word character of UTS 18: Alphabetic, marks, decimal digits, connectors, join controls.
[[nodiscard]] bool is_word(char32_t code_point);

}  // namespace shadowkv
