#include "tokenizer/normalize.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"

namespace shadowkv {
namespace {

// U+FDFA decomposes into 18 characters, more than any other.
constexpr int64_t kLongestDecomposition = 18;

int combining_class(utf8proc_int32_t c) {
  return utf8proc_get_property(c)->combining_class;
}

std::vector<utf8proc_int32_t> decompose(std::string_view text, utf8proc_option_t options) {
  std::vector<utf8proc_int32_t> out;
  out.reserve(text.size());
  std::array<utf8proc_int32_t, kLongestDecomposition> parts{};
  while (!text.empty()) {
    const Utf8Unit unit = read_utf8(text);
    text.remove_prefix(static_cast<size_t>(unit.length));
    int boundary = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(unit.code_point), parts.data(),
                                static_cast<utf8proc_ssize_t>(parts.size()), options, &boundary);
    require(count >= 0 && count <= kLongestDecomposition, "U+{:04X} cannot be normalized",
            static_cast<uint32_t>(unit.code_point));
    out.insert(out.end(), parts.begin(), parts.begin() + count);
  }
  return out;
}

void order_marks(std::vector<utf8proc_int32_t>& characters) {
  const auto is_starter = [](utf8proc_int32_t c) { return combining_class(c) == 0; };
  auto begin = characters.begin();
  while (begin != characters.end()) {
    begin = std::find_if_not(begin, characters.end(), is_starter);
    const auto end = std::find_if(begin, characters.end(), is_starter);
    std::stable_sort(begin, end, [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
}

}  // namespace

std::string normalize(std::string_view text, UnicodeForm form) {
  const bool ascii =
      std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (ascii) return std::string(text);
  int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  if (form == UnicodeForm::nfkc) options |= UTF8PROC_COMPAT;
  std::vector<utf8proc_int32_t> characters = decompose(text, static_cast<utf8proc_option_t>(options));
  order_marks(characters);
  const auto compose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const utf8proc_ssize_t count =
      utf8proc_normalize_utf32(characters.data(), static_cast<utf8proc_ssize_t>(characters.size()), compose);
  require(count >= 0, "text of {} bytes cannot be normalized: {}", text.size(), utf8proc_errmsg(count));
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    append_utf8(out, static_cast<char32_t>(characters[static_cast<size_t>(i)]));
  }
  return out;
}

}  // namespace shadowkv
