#include "tokenizer/added_token_reader.h"

#include "tokenizer/byte_alphabet.h"

namespace shadowkv {

AddedTokenReader::AddedTokenReader(const IdsByText& ids, Writing writing, TokenizerSpec& spec)
    : ids_(ids), writing_(writing), spec_(spec), normalizer_(spec.normalizers) {}

// A token that is looked for in normalized text decodes to normalized text.
std::string AddedTokenReader::written_bytes(const AddedTokenSpec& token) const {
  std::string text = token.content;
  if (token.normalized) text = normalizer_.apply(text, kMaxNormalizedTokenBytes);
  if (writing_ == Writing::plain) return text;
  return alphabet_to_bytes(text).value_or(text);
}

void AddedTokenReader::read(const JsonPart& part, int64_t id) {
  AddedTokenSpec token{.content = get_string(get_field(part, "content")),
                       .special = get_bool(get_field(part, "special")),
                       .lstrip = get_bool(get_field(part, "lstrip")),
                       .rstrip = get_bool(get_field(part, "rstrip")),
                       .single_word = get_bool(get_field(part, "single_word")),
                       .normalized = get_bool(get_field(part, "normalized"))};
  const auto in_vocab = ids_.find(token.content);
  if (in_vocab == ids_.end()) {
    set_token(spec_, id, TokenKind::added, written_bytes(token));
  } else {
    require(in_vocab->second == id, "{} gives {} the id {}, the vocabulary {}", part.name,
            in_quotes(token.content), id, in_vocab->second);
  }
  token.id = static_cast<int32_t>(id);
  spec_.added.push_back(std::move(token));
}

}  // namespace shadowkv
