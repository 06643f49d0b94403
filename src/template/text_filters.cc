// Filters that give texts.
#include "base/check.h"
#include "base/utf8.h"
#include "template/builtins.h"
#include "template/operators.h"
#include "template/writing.h"

namespace shadowkv::jinja {
namespace {

Text self_text(const Input& in) {
  return to_text(in.self, in.budget);
}

Value in_case(const Input& in, Case to) {
  return change_case(self_text(in), to, in.budget);
}

Value trim(const Input& in) {
  const Text text = self_text(in);
  std::optional<std::string_view> chars;
  if (!in.is_absent(0)) chars = in.exact_text_at(0).bytes;
  return copy(strip(whole(text), Ends::both, chars), in.budget);
}

Value replace_filter(const Input& in) {
  const int64_t most = in.is_absent(2) ? -1 : in.integer_at(2, -1);
  return replace(self_text(in), in.text_at(0, ""), in.text_at(1, ""), most, in.budget);
}

Value join(const Input& in) {
  const Text separator = in.text_at(0, "");
  TextBuilder out(in.budget);
  bool first = true;
  for (const Value& value : items_of(in.self, in.budget)) {
    if (!first) out.add(separator);
    first = false;
    in.budget.step();
    out.add(to_text(in.is_absent(1) ? value : path(value, in.at(1), in.budget), in.budget));
  }
  return out.finish();
}

Value indent(const Input& in) {
  require(in.self.is_text(), "{} is indented", kind_of(in.self));
  const bool by_text = in.has(0) && in.at(0).is_text();
  const Text space{" ", {}};
  const Text indention =
      by_text ? in.at(0).text() : TextBuilder(in.budget).repeat(space, in.integer_at(0, 4)).finish();
  const bool first_too = in.truth_at(1, false), blank_too = in.truth_at(2, false);
  // With one more newline, so that a last empty line is a line.
  const Text text = TextBuilder(in.budget).add(in.self.text()).add("\n").finish();
  TextBuilder out(in.budget);
  bool first = true;
  for (const TextPart& line : split_lines(text, false, in.budget)) {
    if (!first) out.add("\n");
    const bool wanted = first ? first_too : blank_too || line.begin < line.end;
    if (wanted) out.add(indention);
    out.add(line);
    first = false;
  }
  return out.finish();
}

JsonStyle json_style(const Input& in) {
  JsonStyle style;
  style.ascii = in.truth_at(0, false);
  style.sorted = in.truth_at(3, false);
  if (!in.is_absent(1)) {
    style.has_indent = true;
    style.item_separator.assign(1, ',');
    const Text space{" ", {}};
    style.indent = in.at(1).is_text()
                       ? in.at(1).text().bytes
                       : TextBuilder(in.budget).repeat(space, in.integer_at(1, 0)).finish().bytes;
  }
  if (in.is_absent(2)) return style;
  const std::vector<Value> separators = items_of(in.at(2), in.budget);
  require(separators.size() == 2 && separators[0].is_text() && separators[1].is_text(),
          "the separators of tojson are not two texts");
  style.item_separator = separators[0].text().bytes;
  style.key_separator = separators[1].text().bytes;
  return style;
}

Value tojson(const Input& in) {
  return to_json(in.self, json_style(in), in.budget);
}

Value escape(const Input& in) {
  const Text text = self_text(in);
  TextBuilder out(in.budget);
  for (int64_t at = 0; at < text.size(); ++at) {
    const bool given = text.is_given() && text.marks[static_cast<size_t>(at)] != '\0';
    switch (text.bytes[static_cast<size_t>(at)]) {
      case '&':
        out.add("&amp;", given);
        break;
      case '<':
        out.add("&lt;", given);
        break;
      case '>':
        out.add("&gt;", given);
        break;
      case '"':
        out.add("&#34;", given);
        break;
      case '\'':
        out.add("&#39;", given);
        break;
      default:
        out.add(TextPart{&text, at, at + 1});
    }
  }
  return out.finish();
}

Value format(const Input& in) {
  const Text form = self_text(in);
  if (!in.given.named.empty()) {
    require(in.given.positional.empty(), "\"format\" is given values with names and without");
    auto values = std::make_shared<Dict>();
    for (const auto& [name, value] : in.given.named) put(*values, Value::text(name), value, in.budget);
    return percent_format(form, Value(Value::DictPointer(values)), in.budget);
  }
  return percent_format(form, make_sequence(SequenceKind::tuple, in.given.positional, in.budget), in.budget);
}

Value center(const Input& in) {
  const Text text = self_text(in), space{" ", {}};
  const int64_t width = in.integer_at(0, 80),
                missing = std::max<int64_t>(width - count_characters(text.bytes), 0);
  const int64_t left = missing / 2 + (missing & width & 1);
  return TextBuilder(in.budget).repeat(space, left).add(text).repeat(space, missing - left).finish();
}

Value truncate(const Input& in) {
  const Text text = in.self.is_text() ? in.self.text() : Text();
  const Text end = in.text_at(2, "...");
  const int64_t length = in.integer_at(0, 255), leeway = in.is_absent(3) ? 5 : in.integer_at(3, 5);
  const int64_t kept = length - count_characters(end.bytes);
  require(kept >= 0 && leeway >= 0, "a text is shortened to less than what marks its end");
  if (length_of(in.self) - leeway <= length) return in.self;
  require(in.self.is_text(), "{} is shortened", kind_of(in.self));
  const Text start = copy({&text, 0, byte_offset(text.bytes, kept)}, in.budget);
  const std::vector<TextPart> words = split_right(start, " ", 1, in.budget);
  return TextBuilder(in.budget).add(in.truth_at(1, false) ? whole(start) : words[0]).add(end).finish();
}

Value wordcount(const Input& in) {
  const Text text = self_text(in);
  int64_t count = 0;
  bool inside = false;
  for (const TextPart& c : characters(text, in.budget)) {
    const bool word = is_word(read_utf8(c.bytes()).code_point);
    if (word && !inside) ++count;
    inside = word;
  }
  return count;
}

constexpr Builtin kFilters[] = {
    {"trim", {"chars"}, 0, trim},
    {"upper", {}, 0, [](const Input& in) { return in_case(in, Case::upper); }},
    {"lower", {}, 0, [](const Input& in) { return in_case(in, Case::lower); }},
    {"capitalize", {}, 0, [](const Input& in) { return in_case(in, Case::capitalize); }},
    {"title", {}, 0, [](const Input& in) { return in_case(in, Case::title); }},
    {"string", {}, 0, [](const Input& in) { return Value(self_text(in)); }},
    {"safe", {}, 0, [](const Input& in) { return Value(self_text(in)); }},
    {"replace", {"old", "new", "count"}, 2, replace_filter},
    {"join", {"d", "attribute"}, 0, join},
    {"indent", {"width", "first", "blank"}, 0, indent},
    {"tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0, tojson},
    {"e", {}, 0, escape},
    {"escape", {}, 0, escape},
    {"forceescape", {}, 0, escape},
    {"format", kAnyArguments, 0, format},
    {"center", {"width"}, 0, center},
    {"truncate", {"length", "killwords", "end", "leeway"}, 0, truncate},
    {"wordcount", {}, 0, wordcount},
};

}  // namespace

std::span<const Builtin> text_filters() {
  return kFilters;
}

}  // namespace shadowkv::jinja
