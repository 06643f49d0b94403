// Python's formatting by "%".
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "template/operators.h"
#include "template/writing.h"

namespace shadowkv::jinja {
namespace {

struct Conversion {
  std::string key;  // "%(key)s"
  bool left = false, zeros = false, plus = false, space = false;
  int64_t width = 0, precision = -1;
  char kind = 's';
};

class Formatter {
 public:
  Formatter(const Text& form, const Value& values, Budget& budget)
      : form_(form), values_(values), budget_(budget), out_(budget) {}

  Text run() {
    while (at_ < form_.size()) {
      const size_t found = std::min(form_.bytes.find('%', static_cast<size_t>(at_)), form_.bytes.size());
      out_.add(TextPart{&form_, at_, static_cast<int64_t>(found)});
      at_ = static_cast<int64_t>(found) + 1;
      if (found < form_.bytes.size()) write(read_conversion());
    }
    const bool may_be_left = values_.is_dict() || (values_.is_sequence() && !is_tuple());  // as Python has it
    const bool all_used = may_be_left || used_ == count();
    require(all_used, "a text is formatted with more values than it has places");
    return out_.finish();
  }

 private:
  [[nodiscard]] bool is_tuple() const {
    return values_.is_sequence() && values_.sequence().kind == SequenceKind::tuple;
  }
  [[nodiscard]] size_t count() const { return is_tuple() ? values_.sequence().items.size() : 1; }

  char take() {
    require(at_ < form_.size(), "a format ends within a \"%\"");
    return form_.bytes[static_cast<size_t>(at_++)];
  }
  int64_t take_number(char& c) {
    int64_t number = 0;
    for (; c >= '0' && c <= '9'; c = take()) {
      number = number * 10 + (c - '0');
      require(number <= 1'000'000, "a format asks for a width of more than a million");
    }
    return number;
  }

  Conversion read_conversion() {
    Conversion found;
    char c = take();
    if (c == '(') {
      for (c = take(); c != ')'; c = take()) found.key.push_back(c);
      c = take();
    }
    for (; std::string_view("-0+ #").find(c) != std::string_view::npos; c = take()) {
      found.left = found.left || c == '-';
      found.zeros = found.zeros || c == '0';
      found.plus = found.plus || c == '+';
      found.space = found.space || c == ' ';
      require(c != '#', "\"#\" in a format is not supported");
    }
    found.width = take_number(c);
    if (c == '.') {
      c = take();
      found.precision = take_number(c);
    }
    found.kind = c;
    return found;
  }

  const Value& next_value(const Conversion& conversion) {
    if (!conversion.key.empty()) {
      require(values_.is_dict(), "a format names its values, but is given {}", kind_of(values_));
      const Value* found = find(values_.dict(), conversion.key, budget_);
      require(found != nullptr, "a format names a value that it is not given");
      ++used_;
      return *found;
    }
    require(used_ < count(), "a text is formatted with fewer values than it has places");
    const size_t i = used_++;
    return is_tuple() ? values_.sequence().items[i] : values_;
  }

  static int64_t integer_of(const Value& value) {
    require(value.is_number(), "{} is formatted as a number", kind_of(value));
    if (value.is_whole()) return value.integer();
    require(std::fabs(value.real()) < 9e18, "a number that is formatted as a whole one leaves 64 bits");
    return static_cast<int64_t>(value.real());
  }

  std::string digits(const Conversion& conversion, const Value& value) const {
    switch (conversion.kind) {
      case 'd':
      case 'i':
      case 'u':
        return fmt::format("{}", integer_of(value));
      case 'x':
      case 'X':
      case 'o': {
        require(value.is_whole(), "{} is formatted as a whole number", kind_of(value));
        if (conversion.kind == 'o') return fmt::format("{:o}", value.integer());
        return conversion.kind == 'x' ? fmt::format("{:x}", value.integer())
                                      : fmt::format("{:X}", value.integer());
      }
      case 'f':
      case 'F': {
        require(value.is_number(), "{} is formatted as a number", kind_of(value));
        const int64_t precision = std::min<int64_t>(conversion.precision < 0 ? 6 : conversion.precision, 100);
        return fmt::format("{:.{}f}", value.real(), precision);
      }
      default:
        throw InvalidInput(
            fmt::format("the conversion \"%{}\" of a format is not supported",
                        conversion.kind >= ' ' && conversion.kind < 0x7F ? conversion.kind : '?'));
    }
  }

  void write(const Conversion& conversion) {
    if (conversion.kind == '%') return out_.add("%"), void();
    const Value& value = next_value(conversion);
    if (conversion.kind == 's' || conversion.kind == 'r') return write_text(conversion, value);
    std::string text = digits(conversion, value);
    const bool signless = text[0] != '-';
    if (signless && conversion.plus) text.insert(text.begin(), '+');
    if (signless && !conversion.plus && conversion.space) text.insert(text.begin(), ' ');
    const auto missing = conversion.width - static_cast<int64_t>(text.size());
    if (conversion.zeros && !conversion.left && missing > 0) {
      budget_.take(missing);
      text.insert(text.find_first_of("0123456789in"), static_cast<size_t>(missing), '0');
    }
    pad(conversion, Text{text, {}});
  }

  void write_text(const Conversion& conversion, const Value& value) {
    Text text = to_text(value, budget_);
    if (conversion.kind == 'r' && value.is_text()) {
      const Value list = make_sequence(SequenceKind::list, {value}, budget_);
      const Text in_brackets = to_text(list, budget_);
      text = copy(TextPart{&in_brackets, 1, in_brackets.size() - 1}, budget_);
    }
    if (conversion.precision >= 0)
      text = copy({&text, 0, byte_offset(text.bytes, conversion.precision)}, budget_);
    pad(conversion, text);
  }

  void pad(const Conversion& conversion, const Text& text) {
    const int64_t missing = conversion.width - count_characters(text.bytes);
    const Text space{" ", {}};
    if (!conversion.left) out_.repeat(space, missing);
    out_.add(text);
    if (conversion.left) out_.repeat(space, missing);
  }

  const Text& form_;
  const Value& values_;
  Budget& budget_;
  TextBuilder out_;
  int64_t at_ = 0;
  size_t used_ = 0;
};

}  // namespace

Text percent_format(const Text& form, const Value& values, Budget& budget) {
  return Formatter(form, values, budget).run();
}

}  // namespace shadowkv::jinja
