// Python's literals as templates write them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace shadowkv::jinja {

// Resolves the escapes of what stands between quotes; nullopt for an escape that names no character.
[[nodiscard]] std::optional<std::string> unescape(std::string_view body);
// Bytes at the beginning of `text` that are a number without fraction, or with a fraction or an exponent; 0:
// none.
[[nodiscard]] size_t integer_length(std::string_view text);
[[nodiscard]] size_t real_length(std::string_view text);
// Value of what integer_length or Python's int() takes, sign and white space aside; nullopt beyond 64 bits.
[[nodiscard]] std::optional<int64_t> integer_value(std::string_view text);
// Of what Python's float() takes.
[[nodiscard]] std::optional<double> real_value(std::string_view text);

}  // namespace shadowkv::jinja
