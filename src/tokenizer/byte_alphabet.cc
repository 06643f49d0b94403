#include "tokenizer/byte_alphabet.h"

#include <array>

#include "base/utf8.h"

namespace shadowkv {
namespace {

constexpr char32_t kAlphabetEnd = 256 + 68;

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

constexpr std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> table{};
  char32_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    table[static_cast<size_t>(byte)] = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return table;
}

// By character below kAlphabetEnd: its byte, or -1.
constexpr std::array<int, kAlphabetEnd> make_inverse() {
  std::array<int, kAlphabetEnd> table{};
  for (int& byte : table) byte = -1;
  const auto alphabet = make_alphabet();
  for (size_t byte = 0; byte < 256; ++byte) table[alphabet[byte]] = static_cast<int>(byte);
  return table;
}

constexpr auto kAlphabet = make_alphabet();
constexpr auto kInverse = make_inverse();

}  // namespace

char32_t alphabet_character(unsigned char byte) {
  return kAlphabet[byte];
}

std::optional<std::string> alphabet_to_bytes(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Unit unit = read_utf8(token);
    if (unit.kind != Utf8Kind::valid || unit.code_point >= kAlphabetEnd) return std::nullopt;
    const int byte = kInverse[unit.code_point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    token.remove_prefix(static_cast<size_t>(unit.length));
  }
  return bytes;
}

}  // namespace shadowkv
