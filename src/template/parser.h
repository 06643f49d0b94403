// Tokens -> tree.
#pragma once

#include <string_view>

#include "template/syntax.h"

namespace shadowkv::jinja {

// Throws InvalidInput "line 3: ..." for what is not Jinja, is nested too deep, or is a construct that chat
// templates have no use for (include, extends, import, block, recursive loops).
[[nodiscard]] Syntax parse(std::string_view source);

}  // namespace shadowkv::jinja
