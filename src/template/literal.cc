#include "template/literal.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/utf8.h"

namespace shadowkv::jinja {
namespace {

bool is_digit(char c, int base) {
  if (c >= '0' && c <= '9') return c - '0' < base;
  const char lower = static_cast<char>(c | 0x20);
  return base == 16 && lower >= 'a' && lower <= 'f';
}

// Digits of the base with single underscores between them.
size_t digits_length(std::string_view text, int base) {
  const auto digit_at = [&](size_t at) { return at < text.size() && is_digit(text[at], base); };
  size_t at = 0;
  while (digit_at(at) || (at > 0 && at < text.size() && text[at] == '_' && digit_at(at + 1))) ++at;
  return at;
}

int base_of(std::string_view text) {
  if (text.size() < 2 || text[0] != '0') return 10;
  switch (text[1] | 0x20) {
    case 'x':
      return 16;
    case 'o':
      return 8;
    case 'b':
      return 2;
    default:
      return 10;
  }
}

std::string without_underscores(std::string_view text) {
  std::string plain(text);
  plain.erase(std::remove(plain.begin(), plain.end(), '_'), plain.end());
  return plain;
}

// A number of `most` digits at most, of exactly so many where `exact`.
std::optional<char32_t> read_code(std::string_view& rest, int base, size_t most, bool exact) {
  char32_t code = 0;
  size_t count = 0;
  while (count < most && count < rest.size() && is_digit(rest[count], base)) {
    const char c = rest[count];
    const int digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
    code = code * static_cast<char32_t>(base) + static_cast<char32_t>(digit);
    ++count;
  }
  if (count == 0 || (exact && count < most)) return std::nullopt;
  rest.remove_prefix(count);
  return code;
}

bool is_character(char32_t code) {
  return code < 0x110000 && (code < 0xD800 || code > 0xDFFF);
}

// What follows a backslash, of which there is at least one byte.
bool read_escape(std::string_view& rest, std::string& out) {
  constexpr std::string_view kNames = "abfnrtv\\'\"", kValues = "\a\b\f\n\r\t\v\\'\"";
  const char c = rest[0];
  if (const size_t found = kNames.find(c); found != std::string_view::npos) {
    out.push_back(kValues[found]);
    return rest.remove_prefix(1), true;
  }
  if (c == '\n') return rest.remove_prefix(1), true;
  std::optional<char32_t> code;
  if (is_digit(c, 8)) {
    code = read_code(rest, 8, 3, false);
  } else if (c == 'x' || c == 'u' || c == 'U') {
    rest.remove_prefix(1);
    code = read_code(rest, 16, c == 'x' ? 2 : c == 'u' ? 4 : 8, true);
  } else {
    out.push_back('\\');  // no escape
    return c != 'N';
  }
  if (!code || !is_character(*code)) return false;
  append_utf8(out, *code);
  return true;
}

}  // namespace

std::optional<std::string> unescape(std::string_view body) {
  std::string out;
  while (!body.empty()) {
    const size_t plain = std::min(body.find('\\'), body.size());
    out.append(body.substr(0, plain));
    body.remove_prefix(plain);
    if (body.empty()) break;
    body.remove_prefix(1);
    if (body.empty() || !read_escape(body, out)) return std::nullopt;
  }
  return out;
}

size_t integer_length(std::string_view text) {
  const int base = base_of(text);
  if (base != 10) {
    std::string_view digits = text.substr(2);
    const size_t skipped = digits.starts_with('_') ? 1 : 0;
    const size_t length = digits_length(digits.substr(skipped), base);
    if (length > 0) return 2 + skipped + length;
  }
  const size_t length = digits_length(text, 10);
  if (length == 0 || text[0] != '0') return length;
  const size_t zeros = std::min(text.find_first_not_of("0_"), length);  // "07" is 0 and then 7
  return text[zeros - 1] == '_' ? zeros - 1 : zeros;
}

size_t real_length(std::string_view text) {
  size_t at = digits_length(text, 10);
  if (at == 0) return 0;
  bool real = false;
  if (at < text.size() && text[at] == '.') {
    const size_t fraction = digits_length(text.substr(at + 1), 10);
    if (fraction > 0) at += 1 + fraction;
    real = fraction > 0;
  }
  if (at < text.size() && (text[at] | 0x20) == 'e') {
    size_t exponent = at + 1;
    if (exponent < text.size() && (text[exponent] == '+' || text[exponent] == '-')) ++exponent;
    const size_t digits = exponent < text.size() ? digits_length(text.substr(exponent), 10) : 0;
    if (digits > 0) return exponent + digits;
  }
  return real ? at : 0;
}

std::optional<int64_t> integer_value(std::string_view text) {
  const int base = base_of(text);
  const std::string plain = without_underscores(base == 10 ? text : text.substr(2));
  int64_t value = 0;
  const auto [end, error] = std::from_chars(plain.data(), plain.data() + plain.size(), value, base);
  if (error != std::errc() || end != plain.data() + plain.size()) return std::nullopt;
  return value;
}

std::optional<double> real_value(std::string_view text) {
  const std::string plain = without_underscores(text);
  double value = 0;
  const auto [end, error] = std::from_chars(plain.data(), plain.data() + plain.size(), value);
  if (end != plain.data() + plain.size() || plain.empty()) return std::nullopt;
  if (error == std::errc()) return value;
  // Beyond the range: huge or vanishing.
  const bool small = plain.find("e-") != std::string::npos || plain.find("E-") != std::string::npos;
  return small ? 0.0 : std::numeric_limits<double>::infinity();
}

}  // namespace shadowkv::jinja
