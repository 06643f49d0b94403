// The interface's description for machines.
#pragma once

#include <string_view>

namespace shadowkv {

// OpenAPI 3.1, JSON.
[[nodiscard]] std::string_view openapi_text();

}  // namespace shadowkv
