// What both halves of the parser read from and write to.
#pragma once

#include <string_view>
#include <vector>

#include "base/check.h"
#include "template/lexer.h"
#include "template/syntax.h"

namespace shadowkv::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  [[nodiscard]] const Token& now() const { return tokens_[at_]; }
  [[nodiscard]] const Token& next() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  const Token& take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }

  [[nodiscard]] bool at(TokenKind kind) const { return now().kind == kind; }
  [[nodiscard]] bool at_symbol(std::string_view text) const {
    return at(TokenKind::symbol) && now().text == text;
  }
  [[nodiscard]] bool at_name(std::string_view text) const {
    return at(TokenKind::name) && now().text == text;
  }
  bool take_symbol(std::string_view text) { return at_symbol(text) && (take(), true); }
  bool take_name(std::string_view text) { return at_name(text) && (take(), true); }

  void expect_symbol(std::string_view text) {
    if (!take_symbol(text)) fail_expected(text);
  }
  const Token& expect(TokenKind kind, std::string_view what) {
    if (!at(kind)) fail_expected(what);
    return take();
  }
  [[noreturn]] void fail_expected(std::string_view what) const {
    fail_at(now().line, fmt::format("{} stands where {} should", describe(now()), what));
  }

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

// One level of recursion, while it lives.
class Nesting {
 public:
  Nesting(int64_t& depth, int line) : depth_(depth) {
    if (depth_ >= kMaxSyntaxDepth)
      fail_at(line, fmt::format("expressions or blocks are nested more than {} deep", kMaxSyntaxDepth));
    ++depth_;
  }
  ~Nesting() { --depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  int64_t& depth_;
};

}  // namespace shadowkv::jinja
