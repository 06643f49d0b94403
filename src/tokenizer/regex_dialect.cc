#include "tokenizer/regex_dialect.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

// PCRE2 counts U+180E as white space, Unicode since 6.3 and Oniguruma do not.
constexpr std::string_view kSpace =
    R"(\t-\r\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kNotSpace = R"(\S\x{180E})";
// PCRE2's \w lacks marks and connectors. The six characters from U+B2 on are Oniguruma's: superscript digits
// and vulgar fractions of Latin-1.
constexpr std::string_view kWord =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149})"
    R"(\x{1F150}-\x{1F169}\x{1F170}-\x{1F189})";

constexpr std::array<std::string_view, 36> kCategories = {
    "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",  "Mc", "Me", "Mn", "N",  "Nd",
    "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S",  "Sc",
    "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs", "C",  "Cc", "Cf", "Cn", "Co"};
constexpr std::array<std::string_view, 7> kGroups = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};

bool is_ascii_alnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_hex(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos;
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (at_ < pattern_.size()) element();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view construct) const {
    throw InvalidInput(fmt::format("the pattern '{}' uses '{}' at byte {}, which is not supported",
                                   printable(pattern_), printable(construct), at_));
  }
  [[nodiscard]] bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  void copy(size_t count) {
    out_.append(pattern_.substr(at_, count));
    at_ += count;
  }
  void replace(size_t count, std::string_view by) {
    out_.append(by);
    at_ += count;
  }

  void element() {
    switch (pattern_[at_]) {
      case '\\':
        return escape(false);
      case '[':
        return character_class();
      case '(':
        return group();
      case '{':
        return interval();
      default:
        return copy(1);
    }
  }

  void group() {
    if (next_is("(*")) refuse("(*");
    if (!next_is("(?")) return copy(1);
    const auto known = std::find_if(kGroups.begin(), kGroups.end(),
                                    [this](std::string_view group) { return next_is(group); });
    if (known == kGroups.end()) refuse(pattern_.substr(at_, 4));
    copy(known->size());
  }

  // {n}, {n,} or {n,m}, and {n,m}? (in Oniguruma {n}? and {n,m}+ do not mean what they mean in PCRE2).
  void interval() {
    const size_t close = pattern_.find('}', at_);
    if (close == std::string_view::npos) refuse("{");
    const std::string_view inside = pattern_.substr(at_ + 1, close - at_ - 1);
    const size_t comma = inside.find(',');
    const std::string_view low = inside.substr(0, comma);
    const std::string_view high = comma == std::string_view::npos ? "" : inside.substr(comma + 1);
    const auto is_number = [](std::string_view s) {
      return s.find_first_not_of("0123456789") == std::string_view::npos;
    };
    if (low.empty() || !is_number(low) || !is_number(high)) refuse(pattern_.substr(at_, close + 1 - at_));
    const std::string_view after = pattern_.substr(close + 1, 1);
    if (after == "+" || (after == "?" && comma == std::string_view::npos)) {
      refuse(pattern_.substr(at_, close + 2 - at_));
    }
    copy(close + 1 - at_);
  }

  void character_class() {
    copy(1);
    if (next_is("^")) copy(1);
    if (next_is("]")) refuse("[]");
    while (!next_is("]")) {
      if (at_ >= pattern_.size()) refuse("[ without ]");
      if (next_is("[")) refuse("[ inside [ ]");
      if (next_is("&&")) refuse("&&");
      if (next_is("\\")) {
        escape(true);
      } else {
        copy(1);
      }
    }
    copy(1);
  }

  void escape(bool in_class) {
    if (at_ + 1 >= pattern_.size()) refuse("\\");
    const char c = pattern_[at_ + 1];
    if (c == 'p' || c == 'P') return property();
    if (c == 'x' || c == 'u') return code_point();
    if (c == 'v') return replace(2, R"(\x0B)");
    if (std::string_view("rntfaedD").find(c) != std::string_view::npos) return copy(2);
    if (std::string_view("sSwW").find(c) != std::string_view::npos) return class_escape(c, in_class);
    if (is_ascii_alnum(c)) refuse(pattern_.substr(at_, 2));
    copy(2);
  }

  void class_escape(char c, bool in_class) {
    if (c == 'W' && in_class) refuse("\\W inside [ ]");
    const std::string_view members = c == 's' ? kSpace : (c == 'S' ? kNotSpace : kWord);
    if (in_class) return replace(2, members);
    replace(2, fmt::format("[{}{}]", c == 'W' ? "^" : "", members));
  }

  // General categories are the same in both; a script's name means its extensions too in PCRE2 unless one
  // says sc.
  void property() {
    const size_t close = pattern_.find('}', at_);
    if (pattern_.substr(at_ + 2, 1) != "{" || close == std::string_view::npos)
      refuse(pattern_.substr(at_, 3));
    std::string_view name = pattern_.substr(at_ + 3, close - at_ - 3);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    const bool plain =
        std::all_of(name.begin(), name.end(), [](char c) { return is_ascii_alnum(c) || c == '_'; });
    if (name.empty() || !plain) refuse(pattern_.substr(at_, close + 1 - at_));
    const bool category = std::find(kCategories.begin(), kCategories.end(), name) != kCategories.end();
    replace(close + 1 - at_, fmt::format("\\{}{{{}{}{}}}", pattern_[at_ + 1], negated ? "^" : "",
                                         category ? "" : "sc:", name));
  }

  // \x{H..}, \xHH of an ASCII character and \uHHHH.
  void code_point() {
    if (next_is("\\x{")) {
      const size_t close = pattern_.find('}', at_);
      if (close == std::string_view::npos || !is_hex(pattern_.substr(at_ + 3, close - at_ - 3)))
        refuse("\\x{");
      return copy(close + 1 - at_);
    }
    const size_t digits = pattern_[at_ + 1] == 'x' ? 2 : 4;
    const std::string_view hex = pattern_.substr(at_ + 2, digits);
    const bool beyond_ascii = digits == 2 && !hex.empty() && (hex[0] < '0' || hex[0] > '7');
    if (hex.size() != digits || !is_hex(hex) || beyond_ascii) refuse(pattern_.substr(at_, 2 + digits));
    replace(2 + digits, fmt::format("\\x{{{}}}", hex));
  }

  std::string_view pattern_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string oniguruma_to_pcre2(std::string_view pattern) {
  return Translator(pattern).run();
}

std::string quote_pattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !is_ascii_alnum(c)) {
      out += fmt::format("\\x{{{:02X}}}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace shadowkv
