// The tokenizer that a TokenizerSpec describes.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe_model.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace shadowkv {

class BpeTokenizer final : public Tokenizer {
 public:
  // The spec must have passed check_spec. Throws InvalidInput for a pattern that is not supported.
  explicit BpeTokenizer(TokenizerSpec spec);
  BpeTokenizer(const BpeTokenizer&) = delete;  // parts hold views into spec_
  BpeTokenizer& operator=(const BpeTokenizer&) = delete;

  using Tokenizer::encode;
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text, EncodeOptions options) const override;
  void decode_next(int32_t id, bool skip_special, DecodeState& state, std::string& text) const override;
  void decode_end(DecodeState& state, std::string& text) const override;
  [[nodiscard]] int64_t vocab_size() const override;
  [[nodiscard]] bool has_token(int32_t id) const override;
  [[nodiscard]] std::string_view bytes_of(int32_t id) const override;
  [[nodiscard]] bool is_special(int32_t id) const override;
  [[nodiscard]] int32_t id_of(std::string_view token) const override;

 private:
  struct Scratch;

  void build_finders();
  void build_ids();
  void encode_text(PreTokenizer::Piece text, Scratch& scratch, std::vector<int32_t>& ids) const;

  TokenizerSpec spec_;
  Normalizer normalizer_;
  AddedTokenFinder raw_tokens_;         // looked for in the text as given
  AddedTokenFinder written_tokens_;     // of these, and of special ones among the next, as they are written
  AddedTokenFinder normalized_tokens_;  // and in what its normalization leaves
  PreTokenizer pre_tokenizer_;
  BpeModel model_;
  Decoder decoder_;
  std::vector<bool> special_;                          // by id
  std::unordered_map<std::string_view, int32_t> ids_;  // by bytes, added tokens by content
};

}  // namespace shadowkv
