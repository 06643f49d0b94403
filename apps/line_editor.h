// Editing and history of lines by libedit, where the build found it.
#pragma once

#include <memory>

#include "line_reader.h"

namespace shadowkv::apps {

// Null where the build has none, and where input or output is no terminal that can move its cursor.
[[nodiscard]] std::unique_ptr<LineReader> open_line_editor();

}  // namespace shadowkv::apps
