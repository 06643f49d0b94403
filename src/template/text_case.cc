// Upper and lower case.
#include <utf8proc.h>

#include "base/utf8.h"
#include "template/text.h"

namespace shadowkv::jinja {
namespace {

constexpr char32_t kSharpS = 0xDF;

char32_t lower_of(char32_t c) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}
char32_t upper_of(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
char32_t title_of(char32_t c) {
  return static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
}

bool has_case(char32_t c) {
  return lower_of(c) != c || upper_of(c) != c;
}

// Where the title filter begins a new word: after white space and opening brackets.
bool opens_word(char32_t c) {
  return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_space(c);
}

class CaseChange {
 public:
  CaseChange(Case to, TextBuilder& out) : to_(to), out_(out) {}

  void add(char32_t c, bool given) {
    const bool starts = at_start_;
    switch (to_) {
      case Case::lower:
        return put(lower_of(c), given);
      case Case::upper:
        return put_upper(c, upper_of(c), given);
      case Case::swap:
        return lower_of(c) != c ? put(lower_of(c), given) : put_upper(c, upper_of(c), given);
      case Case::capitalize:
        at_start_ = false;
        return starts ? put_title(c, given) : put(lower_of(c), given);
      case Case::python_title:
        at_start_ = !has_case(c);
        return starts ? put_title(c, given) : put(lower_of(c), given);
      case Case::title:
        at_start_ = opens_word(c);
        return starts ? put_upper(c, upper_of(c), given) : put(lower_of(c), given);
    }
  }

 private:
  void put(char32_t c, bool given) {
    std::string bytes;
    append_utf8(bytes, c);
    out_.add(bytes, given);
  }
  void put_upper(char32_t c, char32_t upper, bool given) {
    if (c == kSharpS) return out_.add("SS", given), void();
    put(upper, given);
  }
  void put_title(char32_t c, bool given) {
    if (c == kSharpS) return out_.add("Ss", given), void();
    put(title_of(c), given);
  }

  Case to_;
  TextBuilder& out_;
  bool at_start_ = true;
};

}  // namespace

bool is_space(char32_t code_point) {
  return is_white_space(code_point) || (code_point >= 0x1C && code_point <= 0x1F);
}

Text change_case(const Text& text, Case to, Budget& budget) {
  TextBuilder out(budget);
  CaseChange change(to, out);
  std::string_view rest = text.bytes;
  budget.step(text.size() / 8);
  for (size_t at = 0; at < text.bytes.size();) {
    const Utf8Unit unit = read_utf8(rest.substr(at));
    change.add(unit.code_point, text.is_given() && text.marks[at] != '\0');
    at += static_cast<size_t>(unit.length);
  }
  return out.finish();
}

}  // namespace shadowkv::jinja
