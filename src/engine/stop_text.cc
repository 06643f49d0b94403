#include "engine/stop_text.h"

#include <algorithm>
#include <utility>

namespace shadowkv {

std::string StopText::add(std::string_view piece) {
  if (is_found_) return {};
  held_ += piece;
  std::size_t begin = held_.size() - held_bytes(), end = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at == std::string::npos || std::pair(at + stop.size(), at) >= std::pair(end, begin)) continue;
    begin = at;
    end = at + stop.size();
    is_found_ = true;
  }
  std::string shown = held_.substr(0, begin);
  held_.erase(0, is_found_ ? held_.size() : begin);
  return shown;
}

std::string StopText::finish() {
  return std::exchange(held_, {});
}

// Bytes of the longest end of the text that a stop text begins with.
std::size_t StopText::held_bytes() const {
  std::size_t longest = 0;
  const std::string_view text = held_;
  for (const std::string& stop : stops_) {
    std::size_t length = std::min(stop.size() - 1, text.size());
    while (length > longest && !text.ends_with(std::string_view(stop).substr(0, length))) --length;
    longest = std::max(longest, length);
  }
  return longest;
}

}  // namespace shadowkv
