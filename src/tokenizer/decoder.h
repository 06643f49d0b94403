// Token ids -> text, one after the other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_spec.h"

namespace shadowkv {

// Threads share one, each with states of its own. Keeps views into the spec, which must outlive it.
class Decoder {
 public:
  // Throws InvalidInput for a pattern that is not supported, or where replacing makes the vocabulary longer
  // than kMaxTextBytes.
  explicit Decoder(const TokenizerSpec& spec);

  // What a token gives anywhere but at the beginning of a text.
  [[nodiscard]] std::string_view bytes_of(int32_t id) const { return token(id).bytes; }
  // It stands for one byte, as other tokens may, too, that hold the character itself.
  [[nodiscard]] bool is_byte(int32_t id) const { return token(id).is_byte; }

  // Appends the text that `id` (of a token) makes complete.
  void add(int32_t id, DecodeState& state, std::string& text) const;
  // Appends what has been waiting. Where a run of tokens of bytes between two others is not UTF-8 as a whole,
  // each of them gives U+FFFD, as in the `tokenizers` package.
  void finish(DecodeState& state, std::string& text) const;

 private:
  struct Token {
    std::string_view bytes;
    bool is_byte = false;
  };

  void build_texts();
  [[nodiscard]] Token token(int32_t id) const;
  [[nodiscard]] std::string replaced(int32_t id, bool is_first) const;
  [[nodiscard]] int byte_in(std::string_view text) const;
  void add_text(std::string_view token, DecodeState& state, std::string& text) const;
  void end_bytes(DecodeState& state, std::string& text) const;

  const TokenizerSpec& spec_;
  std::vector<Regex> patterns_;     // one a replacement
  std::vector<std::string> texts_;  // by id, where they differ from the spec's tokens; else empty
  std::vector<bool> is_byte_;
  bool first_differs_ = false;
};

}  // namespace shadowkv
