#include "base/suggest.h"

#include <fmt/core.h>

#include <algorithm>
#include <vector>

namespace shadowkv {

int64_t edit_distance(std::string_view a, std::string_view b) {
  // Rows i - 2, i - 1 and i of the table of distances between prefixes.
  std::vector<int64_t> earlier(b.size() + 1);
  std::vector<int64_t> previous(b.size() + 1);
  std::vector<int64_t> current(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) current[j] = static_cast<int64_t>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::swap(earlier, previous);
    std::swap(previous, current);
    current[0] = static_cast<int64_t>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const int64_t replaced = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, replaced});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) current[j] = std::min(current[j], earlier[j - 2] + 1);
    }
  }
  return current[b.size()];
}

std::string_view nearest_name(std::string_view asked, std::span<const std::string> names) {
  constexpr std::size_t kLongest = 256;  // bounds the table: nobody mistypes more
  std::string_view nearest;
  int64_t least = std::max<int64_t>(2, static_cast<int64_t>(asked.size()) / 3) + 1;
  for (const std::string& name : names) {
    const int64_t distance =
        edit_distance(asked.substr(0, kLongest), std::string_view(name).substr(0, kLongest));
    if (distance < least) {
      least = distance;
      nearest = name;
    }
  }
  return nearest;
}

std::string unknown_name(std::string_view kind, std::string_view asked, std::span<const std::string> names) {
  const std::string_view nearest = nearest_name(asked, names);
  std::string text = fmt::format("unknown {} \"{}\"", kind, asked.substr(0, 100));
  text += nearest.empty() ? "." : fmt::format(", did you mean \"{}\"?", nearest);
  text += " Known are: ";
  for (std::size_t i = 0; i < names.size(); ++i) text += (i ? ", " : "") + names[i];
  return text;
}

}  // namespace shadowkv
