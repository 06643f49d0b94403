#include "formats/quote.h"

#include <fmt/core.h>

namespace shadowkv {
namespace {

// Bytes of `escaped` are taken for not printable.
std::string shown(std::string_view text, int64_t longest, std::string_view escaped) {
  const auto most = static_cast<std::size_t>(longest);
  std::string out;
  for (const char c : text.substr(0, most)) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x20 && byte < 0x7f && escaped.find(c) == std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("\\x{:02x}", byte);
  }
  if (text.size() > most) out += "...";
  return out;
}

}  // namespace

std::string printable(std::string_view text, int64_t longest) {
  return shown(text, longest, "");
}

std::string in_quotes(std::string_view text) {
  return fmt::format("\"{}\"", shown(text, 80, "\"\\"));
}

}  // namespace shadowkv
