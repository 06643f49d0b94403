// Text of a template's values: UTF-8, each byte of which is known to come from the template or from what the
// template was given. Whatever is done to a text carries the marks along, so that a message that spells a
// special token can be told from the template's own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "template/budget.h"

namespace shadowkv::jinja {

struct Text {
  std::string bytes;  // valid UTF-8
  std::string
      marks;  // empty: all of it is the template's; else for each byte '\1' where it was given, or '\0'

  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(bytes.size()); }
  [[nodiscard]] bool is_given() const { return !marks.empty(); }  // in part at least
};

// A part of a text, in bytes; the text outlives it.
struct TextPart {
  const Text* text;
  int64_t begin, end;
  [[nodiscard]] std::string_view bytes() const {
    return std::string_view(text->bytes).substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  }
};
[[nodiscard]] inline TextPart whole(const Text& text) {
  return {&text, 0, text.size()};
}

// Grows a text and pays for it.
class TextBuilder {
 public:
  explicit TextBuilder(Budget& budget) : budget_(&budget) {}

  TextBuilder& add(std::string_view bytes, bool given = false);
  TextBuilder& add(const TextPart& part);
  TextBuilder& add(const Text& text) { return add(whole(text)); }
  // `count` times the text; a negative count is none.
  TextBuilder& repeat(const Text& text, int64_t count);
  [[nodiscard]] const Text& text() const { return text_; }
  [[nodiscard]] Text finish() { return std::move(text_); }

 private:
  Budget* budget_;
  Text text_;
};

[[nodiscard]] Text copy(const TextPart& part, Budget& budget);
// Python's len(): characters.
[[nodiscard]] int64_t count_characters(std::string_view bytes);
// Every character of a text, in order.
[[nodiscard]] std::vector<TextPart> characters(const Text& text, Budget& budget);
// Bytes before the character `index`, 0 to count_characters.
[[nodiscard]] int64_t byte_offset(std::string_view bytes, int64_t index);

// Python's str.strip, lstrip and rstrip: of white space, or of the characters of `chars`.
enum class Ends : uint8_t { both, left, right };
[[nodiscard]] TextPart strip(TextPart part, Ends ends, std::optional<std::string_view> chars);
// str.split and rsplit: by white space where there is no separator; at most `most` cuts where it is not
// negative.
[[nodiscard]] std::vector<TextPart> split(const Text& text, std::optional<std::string_view> separator,
                                          int64_t most, Budget& budget);
[[nodiscard]] std::vector<TextPart> split_right(const Text& text, std::optional<std::string_view> separator,
                                                int64_t most, Budget& budget);
// str.splitlines.
[[nodiscard]] std::vector<TextPart> split_lines(const Text& text, bool keep_ends, Budget& budget);
// str.replace; all of them where `most` is negative.
[[nodiscard]] Text replace(const Text& text, const Text& old, const Text& with, int64_t most, Budget& budget);

// Case of single characters; German sharp s is the only one that becomes two.
enum class Case : uint8_t { lower, upper, capitalize, python_title, title, swap };
[[nodiscard]] Text change_case(const Text& text, Case to, Budget& budget);

// Python's str.isspace of one character.
[[nodiscard]] bool is_space(char32_t code_point);

}  // namespace shadowkv::jinja
