// The page at "/": a chat, and a picture of the engine.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/http.h"

namespace shadowkv {

struct Page {
  std::string html;
  std::vector<HttpHeader> headers;
};

// A page whose own styles and scripts run by `nonce`, letters and digits that nobody can guess, and no others
// do.
[[nodiscard]] Page page_of(std::string_view nonce);

// page.html as it is written.
[[nodiscard]] std::string_view page_text();

}  // namespace shadowkv
