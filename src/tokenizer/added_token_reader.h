// Added tokens as tokenizer.json and tokenizer_config.json write them.
#pragma once

#include <cstdint>

#include "tokenizer/json_fields.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/tokenizer_spec.h"

namespace shadowkv {

class AddedTokenReader {
 public:
  // How the file writes the tokens of bytes.
  enum class Writing : uint8_t { plain, byte_alphabet };

  // `ids` holds the vocabulary's tokens as the file writes them; both must outlive the reader. Throws
  // InvalidInput for a pattern of the spec's normalizer that is not supported.
  AddedTokenReader(const IdsByText& ids, Writing writing, TokenizerSpec& spec);

  // Adds the token that `part` describes; throws InvalidInput naming the field when one is missing, of a
  // wrong type, or contradicts the vocabulary, or when all tokens read are too long together once normalized.
  void read(const JsonPart& part, int64_t id);

 private:
  [[nodiscard]] std::string written_bytes(const AddedTokenSpec& token) const;

  const IdsByText& ids_;
  Writing writing_;
  TokenizerSpec& spec_;
  Normalizer normalizer_;
  int64_t room_;  // bytes of written tokens
};

}  // namespace shadowkv
