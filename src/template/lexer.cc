#include "template/lexer.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/utf8.h"
#include "formats/quote.h"
#include "template/literal.h"
#include "template/text.h"

namespace shadowkv::jinja {
namespace {

constexpr std::array<std::string_view, 6> kLongSymbols = {"//", "**", "==", "!=", ">=", "<="};
constexpr std::string_view kSymbols = "+-/*%~[](){}><=.:|,;";

std::string with_plain_newlines(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      out.push_back('\n');
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool is_name_byte(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(with_plain_newlines(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) read_root();
    add(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  [[nodiscard]] std::string_view rest() const { return std::string_view(source_).substr(at_); }
  [[nodiscard]] char sign_at(size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : ' ';
  }
  [[nodiscard]] size_t skip_space(size_t at) const {
    while (at < source_.size()) {
      const Utf8Unit unit = read_utf8(std::string_view(source_).substr(at));
      if (!is_space(unit.code_point)) break;
      at += static_cast<size_t>(unit.length);
    }
    return at;
  }

  void add(TokenKind kind, std::string_view text) { tokens_.push_back({kind, std::string(text), line_}); }
  // Everything up to `to` has been dealt with.
  void advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }

  void read_root();
  void add_data(std::string_view text, char sign, bool is_output);
  [[nodiscard]] size_t raw_begin_end(size_t begin) const;
  void read_raw(size_t begin_end);
  void read_comment();
  void read_tag(bool is_output);
  [[nodiscard]] size_t close_tag(bool is_output, size_t at) const;
  void read_token();
  void read_text();
  void read_symbol();
  void balance(char symbol);

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // whether the last tag took the end of its line along
  std::string open_;           // brackets that close those open within a tag
  std::vector<Token> tokens_;
};

void Lexer::add_data(std::string_view text, char sign, bool is_output) {
  const Text all{std::string(text), {}};
  if (sign == '-') {
    text = text.substr(0, static_cast<size_t>(strip(whole(all), Ends::right, std::nullopt).end));
  } else if (sign != '+' && !is_output) {
    const size_t line = text.rfind('\n') + 1;  // 0 where there is none
    const Text tail{std::string(text.substr(line)), {}};
    const TextPart stripped = strip(whole(tail), Ends::left, std::nullopt);
    if ((line > 0 || line_starting_) && stripped.begin == tail.size()) text = text.substr(0, line);
  }
  if (!text.empty()) add(TokenKind::data, text);
}

// Text up to the next tag, and the tag.
void Lexer::read_root() {
  size_t begin = at_;
  while (begin < source_.size()) {
    begin = source_.find('{', begin);
    if (begin == std::string::npos || begin + 1 >= source_.size()) break;
    if (std::string_view("{%#").find(source_[begin + 1]) != std::string_view::npos) break;
    ++begin;
  }
  if (begin == std::string::npos || begin + 1 >= source_.size()) {
    add(TokenKind::data, rest());
    return advance(source_.size());
  }
  const char kind = source_[begin + 1], sign = sign_at(begin + 2);
  add_data(rest().substr(0, begin - at_), sign, kind == '{');
  advance(begin);
  if (const size_t raw = kind == '%' ? raw_begin_end(begin) : 0; raw > 0) return read_raw(raw);
  advance(begin + (sign == ' ' ? 2 : 3));
  if (kind == '#') return read_comment();
  add(kind == '{' ? TokenKind::output_begin : TokenKind::block_begin, "");
  read_tag(kind == '{');
}

// Where the {% raw %} that stands at `begin` ends; 0 where there is none.
size_t Lexer::raw_begin_end(size_t begin) const {
  size_t at = skip_space(begin + (sign_at(begin + 2) == ' ' ? 2 : 3));
  if (!std::string_view(source_).substr(at).starts_with("raw")) return 0;
  at = skip_space(at + 3);
  const std::string_view after = std::string_view(source_).substr(at);
  if (after.starts_with("-%}")) return skip_space(at + 3);
  return after.starts_with("%}") ? at + 2 : 0;
}

void Lexer::read_raw(size_t begin_end) {
  line_starting_ = source_[begin_end - 1] == '\n';
  advance(begin_end);
  for (size_t begin = at_; (begin = source_.find("{%", begin)) != std::string::npos; ++begin) {
    const char sign = sign_at(begin + 2);
    size_t at = skip_space(begin + (sign == ' ' ? 2 : 3));
    if (!std::string_view(source_).substr(at).starts_with("endraw")) continue;
    at = skip_space(at + 6);
    const size_t end = close_tag(false, at);
    if (end == 0) continue;
    add_data(rest().substr(0, begin - at_), sign, false);
    line_starting_ = source_[end - 1] == '\n';
    return advance(end);
  }
  fail_at(line_, "{% raw %} has no {% endraw %}");
}

void Lexer::read_comment() {
  const size_t close = source_.find("#}", at_);
  if (close == std::string::npos) fail_at(line_, "a comment {# has no end");
  const char sign = close > at_ ? sign_at(close - 1) : ' ';
  size_t end = close + 2;
  if (sign == '-') end = skip_space(end);
  if (sign == ' ' && end < source_.size() && source_[end] == '\n') ++end;
  line_starting_ = source_[end - 1] == '\n';
  advance(end);
}

// Where the tag ends if its end stands at `at`; 0 otherwise.
size_t Lexer::close_tag(bool is_output, size_t at) const {
  const std::string_view text = std::string_view(source_).substr(at);
  if (is_output) {
    if (text.starts_with("-}}")) return skip_space(at + 3);
    return text.starts_with("}}") ? at + 2 : 0;
  }
  if (text.starts_with("+%}")) return at + 3;
  if (text.starts_with("-%}")) return skip_space(at + 3);
  if (!text.starts_with("%}")) return 0;
  return at + (text.substr(2).starts_with('\n') ? 3 : 2);
}

void Lexer::read_tag(bool is_output) {
  const int line = line_;
  open_.clear();
  while (true) {
    advance(skip_space(at_));
    if (at_ >= source_.size()) fail_at(line, is_output ? "{{ has no end" : "{% has no end");
    const size_t end = open_.empty() ? close_tag(is_output, at_) : 0;
    if (end > 0) {
      add(is_output ? TokenKind::output_end : TokenKind::block_end, "");
      line_starting_ = source_[end - 1] == '\n';
      return advance(end);
    }
    read_token();
  }
}

void Lexer::read_token() {
  const std::string_view text = rest();
  const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
  if (const size_t length = after_dot ? 0 : real_length(text); length > 0) {
    add(TokenKind::real, text.substr(0, length));
    return advance(at_ + length);
  }
  if (const size_t length = integer_length(text); length > 0) {
    add(TokenKind::integer, text.substr(0, length));
    return advance(at_ + length);
  }
  if (is_name_byte(text[0])) {
    const auto end = std::find_if_not(text.begin(), text.end(), is_name_byte);
    const auto length = static_cast<size_t>(end - text.begin());
    add(TokenKind::name, text.substr(0, length));
    return advance(at_ + length);
  }
  if (text[0] == '"' || text[0] == '\'') return read_text();
  read_symbol();
}

void Lexer::read_text() {
  size_t end = at_ + 1;
  while (end < source_.size() && source_[end] != source_[at_]) end += source_[end] == '\\' ? 2 : 1;
  if (end >= source_.size()) fail_at(line_, "a text has no closing quote");
  const std::optional<std::string> text = unescape(rest().substr(1, end - at_ - 1));
  if (!text) fail_at(line_, "a text has an escape that names no character");
  add(TokenKind::text, *text);
  advance(end + 1);
}

void Lexer::read_symbol() {
  const std::string_view text = rest();
  for (const std::string_view symbol : kLongSymbols) {
    if (!text.starts_with(symbol)) continue;
    add(TokenKind::symbol, symbol);
    return advance(at_ + symbol.size());
  }
  if (kSymbols.find(text[0]) == std::string_view::npos) {
    fail_at(line_, fmt::format("the character {} has no meaning here",
                               in_quotes(text.substr(0, static_cast<size_t>(read_utf8(text).length)))));
  }
  balance(text[0]);
  add(TokenKind::symbol, text.substr(0, 1));
  advance(at_ + 1);
}

void Lexer::balance(char symbol) {
  constexpr std::string_view kOpening = "([{", kClosing = ")]}";
  if (const size_t opening = kOpening.find(symbol); opening != std::string_view::npos)
    open_ += kClosing[opening];
  if (kClosing.find(symbol) == std::string_view::npos) return;
  if (open_.empty() || open_.back() != symbol) fail_at(line_, fmt::format("\"{}\" closes nothing", symbol));
  open_.pop_back();
}

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::data:
      return "text";
    case TokenKind::output_begin:
      return "{{";
    case TokenKind::output_end:
      return "}}";
    case TokenKind::block_begin:
      return "{%";
    case TokenKind::block_end:
      return "%}";
    case TokenKind::text:
      return "the text " + in_quotes(token.text);
    case TokenKind::end:
      return "the end of the template";
    default:
      return in_quotes(token.text);
  }
}

void fail_at(int line, std::string_view message) {
  throw InvalidInput(fmt::format("line {}: {}", line, message));
}

}  // namespace shadowkv::jinja
