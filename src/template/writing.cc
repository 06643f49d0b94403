#include "template/writing.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/check.h"
#include "base/utf8.h"

namespace shadowkv::jinja {
namespace {

// Shortest digits that read back as the number, d.ddd without exponent, and the power of ten of the first.
struct Digits {
  std::string digits;
  int exponent;
};

Digits digits_of(double value) {
  std::array<char, 40> buffer{};
  const auto [end, error] =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  const std::string_view text(buffer.data(), static_cast<size_t>(end - buffer.data()));
  const size_t e = text.find('e');
  Digits found{std::string(1, text[0]), 0};
  if (e > 1) found.digits += text.substr(2, e - 2);
  const char* exponent = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(exponent, text.data() + text.size(), found.exponent);
  return found;
}

std::string fixed_text(Digits number) {
  std::string& digits = number.digits;
  if (number.exponent < 0)
    return fmt::format("0.{:0>{}}", digits, digits.size() + static_cast<size_t>(-number.exponent - 1));
  const auto whole = static_cast<size_t>(number.exponent) + 1;
  if (digits.size() <= whole) return fmt::format("{:0<{}}.0", digits, whole);
  return fmt::format("{}.{}", digits.substr(0, whole), digits.substr(whole));
}

std::string hex(std::string_view prefix, char32_t c, int digits) {
  return fmt::format("{}{:0{}x}", prefix, static_cast<uint32_t>(c), digits);
}

// What Python's str.isprintable says.
bool is_printable(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return c == ' ';
    default:
      return true;
  }
}

std::string python_escape(char32_t c, char quote) {
  if (c == '\\' || c == static_cast<char32_t>(quote)) return std::string("\\") + static_cast<char>(c);
  if (c == '\n') return "\\n";
  if (c == '\r') return "\\r";
  if (c == '\t') return "\\t";
  if (is_printable(c)) return {};
  if (c < 0x100) return hex("\\x", c, 2);
  return c < 0x10000 ? hex("\\u", c, 4) : hex("\\U", c, 8);
}

std::string json_escape(char32_t c, bool ascii) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    default:
      break;
  }
  if (c < 0x20 || (ascii && c >= 0x7F && c < 0x10000)) return hex("\\u", c, 4);
  if (!ascii || c < 0x80) return {};
  const char32_t rest = c - 0x10000;
  return hex("\\u", 0xD800 + (rest >> 10), 4) + hex("\\u", 0xDC00 + (rest & 0x3FF), 4);
}

// The text with what `escape` gives in place of a character; empty: the character itself.
template <typename Escape>
void add_escaped(const Text& text, Escape escape, TextBuilder& out) {
  int64_t copied = 0;
  for (int64_t at = 0; at < text.size();) {
    const Utf8Unit unit = read_utf8(std::string_view(text.bytes).substr(static_cast<size_t>(at)));
    const std::string escaped = escape(unit.code_point);
    if (!escaped.empty()) {
      out.add(TextPart{&text, copied, at});
      out.add(escaped, text.is_given() && text.marks[static_cast<size_t>(at)] != '\0');
      copied = at + unit.length;
    }
    at += unit.length;
  }
  out.add(TextPart{&text, copied, text.size()});
}

void write_repr(const Value& value, TextBuilder& out, Budget& budget);

void write_text_repr(const Text& text, TextBuilder& out) {
  const bool has_single = text.bytes.find('\'') != std::string::npos;
  const char quote = has_single && text.bytes.find('"') == std::string::npos ? '"' : '\'';
  const std::string_view mark(&quote, 1);
  out.add(mark);
  add_escaped(
      text, [quote](char32_t c) { return python_escape(c, quote); }, out);
  out.add(mark);
}

void write_dict_repr(const Dict& dict, TextBuilder& out, Budget& budget) {
  out.add("{");
  bool first = true;
  for (const auto& [key, value] : dict.entries) {
    if (!first) out.add(", ");
    first = false;
    write_repr(key, out, budget);
    out.add(": ");
    write_repr(value, out, budget);
  }
  out.add("}");
}

std::pair<std::string_view, std::string_view> brackets_of(const Sequence& sequence) {
  switch (sequence.kind) {
    case SequenceKind::list:
      return {"[", "]"};
    case SequenceKind::tuple:
      return {"(", sequence.items.size() == 1 ? ",)" : ")"};
    case SequenceKind::keys:
      return {"dict_keys([", "])"};
    case SequenceKind::values:
      return {"dict_values([", "])"};
    case SequenceKind::items:
      return {"dict_items([", "])"};
    default:
      throw InvalidInput("an iterator or range is written out; make a list of it first");
  }
}

void write_sequence_repr(const Sequence& sequence, TextBuilder& out, Budget& budget) {
  const auto [open, close] = brackets_of(sequence);
  out.add(open);
  for (size_t i = 0; i < sequence.items.size(); ++i) {
    if (i > 0) out.add(", ");
    write_repr(sequence.items[i], out, budget);
  }
  out.add(close);
}

void write_repr(const Value& value, TextBuilder& out, Budget& budget) {
  budget.step();
  if (value.is_text()) return write_text_repr(value.text(), out);
  if (value.is_sequence()) return write_sequence_repr(value.sequence(), out, budget);
  if (value.is_dict()) return write_dict_repr(value.dict(), out, budget);
  if (value.is_undefined()) return out.add("Undefined"), void();
  out.add(to_text(value, budget));
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, TextBuilder& out, Budget& budget)
      : style_(style), out_(out), budget_(budget) {}

  void write(const Value& value) {
    budget_.step();
    if (value.is_none()) return add("null");
    if (value.is_bool()) return add(value.boolean() ? "true" : "false");
    if (value.is_number()) return write_number(value);
    if (value.is_text()) return write_text(value.text());
    if (value.is_dict()) return write_dict(value.dict());
    require(value.is_sequence() && value.sequence().kind <= SequenceKind::tuple, "{} has no form in JSON",
            value.is_sequence() ? "an iterator" : kind_of(value));
    write_sequence(value.sequence());
  }

 private:
  void add(std::string_view bytes) { out_.add(bytes); }

  void write_number(const Value& value) {
    if (value.is_whole()) return add(std::to_string(value.integer()));
    const double real = value.real();
    if (std::isnan(real)) return add("NaN");
    if (std::isinf(real)) return add(real > 0 ? "Infinity" : "-Infinity");
    add(real_text(real));
  }
  void write_text(const Text& text) {
    add("\"");
    add_escaped(
        text, [this](char32_t c) { return json_escape(c, style_.ascii); }, out_);
    add("\"");
  }
  void new_line() {
    if (!style_.has_indent) return;
    add("\n");
    for (int64_t i = 0; i < level_; ++i) add(style_.indent);
  }
  void next_item(bool first) {
    if (!first) add(style_.item_separator);
    new_line();
  }
  void write_sequence(const Sequence& sequence) {
    if (sequence.items.empty()) return add("[]");
    add("[");
    ++level_;
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      next_item(i == 0);
      write(sequence.items[i]);
    }
    --level_;
    new_line();
    add("]");
  }
  void write_key(const Value& key) {
    if (key.is_text()) return write_text(key.text());
    require(key.is_number() || key.is_none(), "{} has no form as a key in JSON", kind_of(key));
    add("\"");
    write(key);
    add("\"");
  }
  void write_dict(const Dict& dict) {
    if (dict.entries.empty()) return add("{}");
    auto entries = dict.entries;
    budget_.take(static_cast<int64_t>(entries.size() * sizeof(entries[0])));
    if (style_.sorted) {
      std::stable_sort(entries.begin(), entries.end(),
                       [this](const auto& a, const auto& b) { return less(a.first, b.first, budget_); });
    }
    add("{");
    ++level_;
    for (size_t i = 0; i < entries.size(); ++i) {
      next_item(i == 0);
      write_key(entries[i].first);
      add(style_.key_separator);
      write(entries[i].second);
    }
    --level_;
    new_line();
    add("}");
  }

  const JsonStyle& style_;
  TextBuilder& out_;
  Budget& budget_;
  int64_t level_ = 0;
};

}  // namespace

std::string real_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  if (value == 0) return std::signbit(value) ? "-0.0" : "0.0";
  const std::string sign = value < 0 ? "-" : "";
  const Digits number = digits_of(std::fabs(value));
  if (number.exponent >= -4 && number.exponent < 16) return sign + fixed_text(number);
  const std::string rest = number.digits.size() > 1 ? fmt::format(".{}", number.digits.substr(1)) : "";
  return fmt::format("{}{}{}e{}{:02}", sign, number.digits[0], rest, number.exponent < 0 ? '-' : '+',
                     std::abs(number.exponent));
}

Text to_text(const Value& value, Budget& budget) {
  TextBuilder out(budget);
  if (value.is_text()) return out.add(value.text()).finish();
  if (value.is_undefined()) return {};
  if (value.is_none()) return out.add("None").finish();
  if (value.is_bool()) return out.add(value.boolean() ? "True" : "False").finish();
  if (value.is_integer()) return out.add(std::to_string(value.integer())).finish();
  if (value.is_real()) return out.add(real_text(value.real())).finish();
  require(value.is_sequence() || value.is_dict(), "{} is written out, which has no text", kind_of(value));
  write_repr(value, out, budget);
  return out.finish();
}

Text to_json(const Value& value, const JsonStyle& style, Budget& budget) {
  TextBuilder out(budget);
  JsonWriter(style, out, budget).write(value);
  return out.finish();
}

}  // namespace shadowkv::jinja
