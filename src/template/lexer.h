// A template's text -> tokens, with Jinja's control of white space as chat templates are set up: the newline
// after a block is dropped (trim_blocks), and so is the space before one that stands first on its line
// (lstrip_blocks).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv::jinja {

enum class TokenKind : uint8_t {
  data,  // text outside of all tags
  output_begin,
  output_end,  // {{ and }}
  block_begin,
  block_end,  // {% and %}
  name,
  text,  // a literal, escapes resolved
  integer,
  real,
  symbol,  // an operator or bracket
  end      // of the template
};

struct Token {
  TokenKind kind;
  std::string text;
  int line;  // from 1
};

// `source` is valid UTF-8. Throws InvalidInput "line 3: ..." for what is no token.
[[nodiscard]] std::vector<Token> tokenize(std::string_view source);

// What stands at a token, for messages.
[[nodiscard]] std::string describe(const Token& token);

// Throws InvalidInput "line 3: ...".
[[noreturn]] void fail_at(int line, std::string_view message);

}  // namespace shadowkv::jinja
