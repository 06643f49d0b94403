#include "tokenizer/added_token_reader.h"

#include "tokenizer/byte_alphabet.h"

namespace shadowkv {
namespace {

// A file of any size can list tokens that a step of the normalizer makes a thousand times longer.
constexpr int64_t kMaxWrittenBytes = int64_t{64} << 20;

}  // namespace

AddedTokenReader::AddedTokenReader(const IdsByText& ids, Writing writing, TokenizerSpec& spec)
    : ids_(ids), writing_(writing), spec_(spec), normalizer_(spec.normalizers), room_(kMaxWrittenBytes) {}

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
  std::string written = written_bytes(token);
  room_ -= static_cast<int64_t>(written.size());
  require(room_ >= 0, "{}: with it the added tokens have more than {} bytes once they are normalized",
          part.name, kMaxWrittenBytes);
  const auto in_vocab = ids_.find(token.content);
  if (in_vocab == ids_.end()) {
    set_token(spec_, id, TokenKind::added, std::move(written));
  } else {
    require(in_vocab->second == id, "{} gives {} the id {}, the vocabulary {}", part.name,
            in_quotes(token.content), id, in_vocab->second);
  }
  token.id = static_cast<int32_t>(id);
  spec_.added.push_back(std::move(token));
}

}  // namespace shadowkv
