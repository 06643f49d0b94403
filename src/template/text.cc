#include "template/text.h"

#include <algorithm>

#include "base/check.h"
#include "base/utf8.h"

namespace shadowkv::jinja {
namespace {

// The character that begins at `at` < part.end, and the one that ends at `end` > part.begin.
Utf8Unit character_at(const TextPart& part, int64_t at) {
  return read_utf8(std::string_view(part.text->bytes).substr(static_cast<size_t>(at)));
}

Utf8Unit character_before(const TextPart& part, int64_t end) {
  int64_t begin = end - 1;
  while (begin > part.begin &&
         (static_cast<unsigned char>(part.text->bytes[static_cast<size_t>(begin)]) & 0xC0U) == 0x80)
    --begin;
  return character_at(part, begin);
}

bool holds(std::string_view chars, char32_t c) {
  while (!chars.empty()) {
    const Utf8Unit unit = read_utf8(chars);
    if (unit.code_point == c) return true;
    chars.remove_prefix(static_cast<size_t>(unit.length));
  }
  return false;
}

bool is_stripped(std::optional<std::string_view> chars, char32_t c) {
  return chars ? holds(*chars, c) : is_space(c);
}

int64_t space_end(const TextPart& part, int64_t at) {
  while (at < part.end) {
    const Utf8Unit unit = character_at(part, at);
    if (!is_space(unit.code_point)) break;
    at += unit.length;
  }
  return at;
}

int64_t word_end(const TextPart& part, int64_t at) {
  while (at < part.end) {
    const Utf8Unit unit = character_at(part, at);
    if (is_space(unit.code_point)) break;
    at += unit.length;
  }
  return at;
}

void put(std::vector<TextPart>& parts, const TextPart& part, Budget& budget) {
  budget.take(static_cast<int64_t>(sizeof(TextPart)));
  parts.push_back(part);
}

std::vector<TextPart> split_words(const Text& text, int64_t most, Budget& budget) {
  std::vector<TextPart> parts;
  const TextPart all = whole(text);
  int64_t at = space_end(all, 0);
  while (at < all.end) {
    const bool last = most >= 0 && static_cast<int64_t>(parts.size()) == most;
    const int64_t end = last ? all.end : word_end(all, at);  // what is left keeps the white space at its end
    put(parts, {&text, at, end}, budget);
    at = last ? all.end : space_end(all, end);
  }
  return parts;
}

int64_t word_begin(const TextPart& part, int64_t at) {
  while (at > part.begin) {
    const Utf8Unit unit = character_before(part, at);
    if (is_space(unit.code_point)) break;
    at -= unit.length;
  }
  return at;
}

std::vector<TextPart> split_words_right(const Text& text, int64_t most, Budget& budget) {
  std::vector<TextPart> parts;
  TextPart rest = strip(whole(text), Ends::right, std::nullopt);
  while (rest.end > 0) {
    const bool last = most >= 0 && static_cast<int64_t>(parts.size()) == most;
    const int64_t begin = last ? 0 : word_begin(rest, rest.end);
    put(parts, {&text, begin, rest.end}, budget);
    rest.end = last ? 0 : strip({&text, 0, begin}, Ends::right, std::nullopt).end;
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

// Bytes of the line end at `at`, 0 where there is none.
int64_t line_end_length(const TextPart& part, int64_t at) {
  const Utf8Unit unit = character_at(part, at);
  const char32_t c = unit.code_point;
  if (c == '\r' && at + 1 < part.end && part.text->bytes[static_cast<size_t>(at + 1)] == '\n') return 2;
  const bool ends =
      (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
  return ends ? unit.length : 0;
}

// Between every two characters, at the beginning and at the end.
Text weave(const Text& text, const Text& with, int64_t most, Budget& budget) {
  TextBuilder out(budget);
  int64_t woven = 0;
  const auto add = [&] {
    if (most < 0 || woven < most) out.add(with);
    ++woven;
  };
  for (const TextPart& c : characters(text, budget)) {
    add();
    out.add(c);
  }
  add();
  return out.finish();
}

}  // namespace

TextBuilder& TextBuilder::add(std::string_view bytes, bool given) {
  const auto size = static_cast<int64_t>(bytes.size());
  budget_->take(size);
  if (given && size > 0 && text_.marks.empty()) {
    budget_->take(text_.size());
    text_.marks.assign(text_.bytes.size(), '\0');
  }
  if (given || text_.is_given()) {
    budget_->take(size);
    text_.marks.append(bytes.size(), given ? '\1' : '\0');
  }
  text_.bytes.append(bytes);
  return *this;
}

TextBuilder& TextBuilder::add(const TextPart& part) {
  if (!part.text->is_given()) return add(part.bytes());
  const std::string_view marks =
      std::string_view(part.text->marks)
          .substr(static_cast<size_t>(part.begin), static_cast<size_t>(part.end - part.begin));
  if (marks.find('\1') == std::string_view::npos) return add(part.bytes());
  budget_->take(2 * (part.end - part.begin));
  if (text_.marks.empty()) {
    budget_->take(text_.size());
    text_.marks.assign(text_.bytes.size(), '\0');
  }
  text_.bytes.append(part.bytes());
  text_.marks.append(marks);
  return *this;
}

TextBuilder& TextBuilder::repeat(const Text& text, int64_t count) {
  if (text.size() == 0) return *this;
  for (int64_t i = 0; i < count; ++i) {
    budget_->step();
    add(text);
  }
  return *this;
}

Text copy(const TextPart& part, Budget& budget) {
  return TextBuilder(budget).add(part).finish();
}

int64_t count_characters(std::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80; });
}

std::vector<TextPart> characters(const Text& text, Budget& budget) {
  std::vector<TextPart> parts;
  const int64_t count = count_characters(text.bytes);
  budget.take(count * static_cast<int64_t>(sizeof(TextPart)));
  parts.reserve(static_cast<size_t>(count));
  const TextPart all = whole(text);
  for (int64_t at = 0; at < all.end;) {
    const int64_t length = character_at(all, at).length;
    parts.push_back({&text, at, at + length});
    at += length;
  }
  return parts;
}

int64_t byte_offset(std::string_view bytes, int64_t index) {
  size_t at = 0;
  for (; index > 0 && at < bytes.size(); --index)
    at += static_cast<size_t>(read_utf8(bytes.substr(at)).length);
  return static_cast<int64_t>(at);
}

TextPart strip(TextPart part, Ends ends, std::optional<std::string_view> chars) {
  while (ends != Ends::right && part.begin < part.end) {
    const Utf8Unit unit = character_at(part, part.begin);
    if (!is_stripped(chars, unit.code_point)) break;
    part.begin += unit.length;
  }
  while (ends != Ends::left && part.begin < part.end) {
    const Utf8Unit unit = character_before(part, part.end);
    if (!is_stripped(chars, unit.code_point)) break;
    part.end -= unit.length;
  }
  return part;
}

std::vector<TextPart> split(const Text& text, std::optional<std::string_view> separator, int64_t most,
                            Budget& budget) {
  budget.step(text.size() / 64);
  if (!separator) return split_words(text, most, budget);
  require(!separator->empty(), "a text is split by an empty separator");
  std::vector<TextPart> parts;
  int64_t at = 0;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t found = text.bytes.find(*separator, static_cast<size_t>(at));
    if (found == std::string::npos) break;
    put(parts, {&text, at, static_cast<int64_t>(found)}, budget);
    at = static_cast<int64_t>(found + separator->size());
  }
  put(parts, {&text, at, text.size()}, budget);
  return parts;
}

std::vector<TextPart> split_right(const Text& text, std::optional<std::string_view> separator, int64_t most,
                                  Budget& budget) {
  budget.step(text.size() / 64);
  if (!separator) return split_words_right(text, most, budget);
  require(!separator->empty(), "a text is split by an empty separator");
  std::vector<TextPart> parts;
  std::string_view rest = text.bytes;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t found = rest.rfind(*separator);
    if (found == std::string_view::npos) break;
    put(parts, {&text, static_cast<int64_t>(found + separator->size()), static_cast<int64_t>(rest.size())},
        budget);
    rest = rest.substr(0, found);
  }
  put(parts, {&text, 0, static_cast<int64_t>(rest.size())}, budget);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<TextPart> split_lines(const Text& text, bool keep_ends, Budget& budget) {
  std::vector<TextPart> lines;
  const TextPart all = whole(text);
  budget.step(text.size() / 64);
  int64_t begin = 0;
  for (int64_t at = 0; at < all.end;) {
    const int64_t end_length = line_end_length(all, at);
    if (end_length > 0) put(lines, {&text, begin, keep_ends ? at + end_length : at}, budget);
    at += end_length > 0 ? end_length : character_at(all, at).length;
    if (end_length > 0) begin = at;
  }
  if (begin < all.end) put(lines, {&text, begin, all.end}, budget);
  return lines;
}

Text replace(const Text& text, const Text& old, const Text& with, int64_t most, Budget& budget) {
  if (old.size() == 0) return weave(text, with, most, budget);
  TextBuilder out(budget);
  int64_t at = 0;
  for (int64_t done = 0; most < 0 || done < most; ++done) {
    const size_t found = text.bytes.find(old.bytes, static_cast<size_t>(at));
    if (found == std::string::npos) break;
    budget.step();
    out.add(TextPart{&text, at, static_cast<int64_t>(found)}).add(with);
    at = static_cast<int64_t>(found) + old.size();
  }
  return out.add(TextPart{&text, at, text.size()}).finish();
}

}  // namespace shadowkv::jinja
