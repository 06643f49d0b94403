#include "base/bytes.h"

#include <array>
#include <charconv>
#include <cmath>

#include "base/check.h"

namespace shadowkv {
namespace {

constexpr std::string_view kUnits = "BKMGT";

}  // namespace

std::string format_bytes(int64_t bytes) {
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (std::abs(value) >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} B", bytes);
  return fmt::format("{:.1f} {}iB", value, kUnits[unit]);
}

int64_t parse_bytes(std::string_view text, std::string_view option) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  std::size_t power = 0;
  if (!unit.empty()) {
    power = kUnits.find(static_cast<char>(std::toupper(static_cast<unsigned char>(unit.front()))));
    unit.remove_prefix(1);
  }
  const bool known = power != std::string_view::npos && (unit.empty() || unit == "B" || unit == "iB");
  const double bytes =
      value * std::pow(1024.0, static_cast<double>(power == std::string_view::npos ? 0 : power));
  require(error == std::errc() && known && value >= 0 && bytes < 9.2e18,
          "{} = \"{}\" is not a number of bytes; write for example 512M or 6GiB", option, text);
  return static_cast<int64_t>(bytes);
}

}  // namespace shadowkv
