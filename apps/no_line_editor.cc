#include "line_editor.h"

namespace shadowkv::apps {

std::unique_ptr<LineReader> open_line_editor() {
  return nullptr;
}

}  // namespace shadowkv::apps
