#include "formats/quote.h"

#include <fmt/core.h>

namespace shadowkv {

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  std::string out = "\"";
  for (const char c : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x20 && byte < 0x7f && c != '"' && c != '\\';
    out += plain ? std::string(1, c) : fmt::format("\\x{:02x}", byte);
  }
  if (text.size() > kLongest) out += "...";
  return out + "\"";
}

}  // namespace shadowkv
