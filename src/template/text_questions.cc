// Methods of texts that give a truth value.
#include <utf8proc.h>

#include <algorithm>

#include "base/utf8.h"
#include "template/builtins.h"

namespace shadowkv::jinja {
namespace {

bool is_letter(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_ND;
}

// The superscripts are the digits that are no decimals of which texts make use.
bool is_digit(char32_t c) {
  const bool superscript = c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
                           (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089);
  return superscript || is_decimal(c);
}

bool is_numeric(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool is_letter_or_number(char32_t c) {
  return is_letter(c) || is_numeric(c);
}

// Of every character, of which there is one at least.
template <bool (*question)(char32_t)>
Value all(const Input& in) {
  const std::vector<TextPart> parts = characters(in.self.text(), in.budget);
  return !parts.empty() && std::all_of(parts.begin(), parts.end(), [](const TextPart& c) {
    return question(read_utf8(c.bytes()).code_point);
  });
}

template <bool is_lower>
Value in_case(const Input& in) {
  return apply_test(is_lower ? "lower" : "upper", in.self, {}, in.budget);
}

constexpr Builtin kMethods[] = {
    {"isalpha", {}, 0, all<is_letter>},
    {"isdigit", {}, 0, all<is_digit>},
    {"isdecimal", {}, 0, all<is_decimal>},
    {"isnumeric", {}, 0, all<is_numeric>},
    {"isalnum", {}, 0, all<is_letter_or_number>},
    {"isspace", {}, 0, all<is_space>},
    {"islower", {}, 0, in_case<true>},
    {"isupper", {}, 0, in_case<false>},
};

}  // namespace

std::span<const Builtin> text_questions() {
  return kMethods;
}

}  // namespace shadowkv::jinja
