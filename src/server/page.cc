#include "server/page.h"

#include <fmt/format.h>

namespace shadowkv {
namespace {

constexpr std::string_view kPlace = "{{nonce}}";

std::string with_nonce(std::string_view text, std::string_view nonce) {
  std::string html;
  html.reserve(text.size() + 4 * nonce.size());
  for (std::size_t at = text.find(kPlace); at != std::string_view::npos; at = text.find(kPlace)) {
    html += text.substr(0, at);
    html += nonce;
    text.remove_prefix(at + kPlace.size());
  }
  return html.append(text);
}

}  // namespace

// It asks its own server alone, shows no pictures from elsewhere, stands in no frame, and makes no markup or
// code of text. Other sites hear nothing of it when a link is followed.
Page page_of(std::string_view nonce) {
  const std::string policy = fmt::format(
      "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
      "trusted-types 'none'",
      nonce);
  return {.html = with_nonce(page_text(), nonce),
          .headers = {{"Content-Security-Policy", policy},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cross-Origin-Opener-Policy", "same-origin"},
                      {"Cache-Control", "no-store"}}};
}

}  // namespace shadowkv
