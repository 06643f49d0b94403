#include "tokenizer/bpe_tokenizer.h"

#include "base/check.h"
#include "base/utf8.h"

namespace shadowkv {

struct BpeTokenizer::Scratch {
  EncodeOptions options;
  PreTokenizer::Scratch pre_tokenizer;
  BpeModel::Scratch model;
};

BpeTokenizer::BpeTokenizer(TokenizerSpec spec)
    : spec_(std::move(spec)),
      normalizer_(spec_.normalizers),
      pre_tokenizer_(spec_.pre_tokenizers),
      model_(spec_),
      decoder_(spec_) {
  build_finders();
  build_ids();
}

void BpeTokenizer::build_finders() {
  // Special tokens first: of two with the same normalized content the first counts.
  std::vector<AddedTokenSpec> raw, in_normalized;
  std::vector<std::string> raw_contents, normalized_contents;
  for (const bool special : {true, false}) {
    for (const AddedTokenSpec& token : spec_.added) {
      if (token.special != special) continue;
      (token.normalized ? in_normalized : raw).push_back(token);
      (token.normalized ? normalized_contents : raw_contents)
          .push_back(token.normalized ? normalizer_.apply(token.content, kMaxNormalizedTokenBytes)
                                      : token.content);
    }
  }
  raw_tokens_ = AddedTokenFinder(raw, raw_contents);
  for (const AddedTokenSpec& token : in_normalized) {
    if (!token.special) continue;
    raw.push_back(token);
    raw_contents.push_back(token.content);
  }
  written_tokens_ = AddedTokenFinder(raw, raw_contents);
  normalized_tokens_ = AddedTokenFinder(in_normalized, normalized_contents);
}

// Where several tokens give the same bytes, those that merges make come first and byte tokens last.
void BpeTokenizer::build_ids() {
  special_.assign(spec_.tokens.size(), false);
  for (const AddedTokenSpec& token : spec_.added) {
    special_[static_cast<size_t>(token.id)] = token.special;
    ids_.emplace(token.content, token.id);
  }
  const auto add = [&](auto&& wanted) {
    for (size_t id = 0; id < spec_.tokens.size(); ++id) {
      const auto token = static_cast<int32_t>(id);
      if (wanted(token)) ids_.emplace(decoder_.bytes_of(token), token);
    }
  };
  const auto kind = [&](int32_t id) { return spec_.tokens[static_cast<size_t>(id)].kind; };
  add([&](int32_t id) { return kind(id) == TokenKind::model && !decoder_.is_byte(id); });
  add([&](int32_t id) { return kind(id) == TokenKind::added && !decoder_.is_byte(id); });
  add([&](int32_t id) { return kind(id) != TokenKind::hole && decoder_.is_byte(id); });
}

std::vector<int32_t> BpeTokenizer::encode(std::string_view text, EncodeOptions options) const {
  require(static_cast<int64_t>(text.size()) <= kMaxTextBytes,
          "a text of {} bytes is too long to be encoded at once; at most 1 GiB is possible", text.size());
  const std::optional<int64_t> invalid = find_invalid_utf8(text);
  require(!invalid, "the text is not valid UTF-8: the byte at offset {} is not part of a character",
          invalid.value_or(0));
  require(options.plain.empty() || options.plain.size() == text.size(),
          "{} bytes are marked of a text of {} bytes", options.plain.size(), text.size());
  // Normalization loses the marks, so special tokens are then found before it alone.
  const AddedTokenFinder& finder = options.plain.empty() ? raw_tokens_ : written_tokens_;
  const auto segments = finder.split(text, options.parse_special, options.plain);
  options.parse_special = options.parse_special && options.plain.empty();
  Scratch scratch{options, pre_tokenizer_.make_scratch(), {}};
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 16);
  if (options.add_special) ids = spec_.prefix;
  for (const auto& segment : segments) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    const bool is_first = segment.text.data() == text.data();
    if (normalizer_.changes_nothing()) {
      encode_text({segment.text, is_first}, scratch, ids);
    } else {
      encode_text({normalizer_.apply(segment.text, kMaxTextBytes), is_first}, scratch, ids);
    }
  }
  if (options.add_special) ids.insert(ids.end(), spec_.suffix.begin(), spec_.suffix.end());
  return ids;
}

// `text` is normalized and holds no token of raw_tokens_.
void BpeTokenizer::encode_text(PreTokenizer::Piece text, Scratch& scratch, std::vector<int32_t>& ids) const {
  const PreTokenizer::Sink encode_piece = [&](std::string_view piece) {
    model_.encode(piece, scratch.model, ids);
  };
  for (const auto& segment : normalized_tokens_.split(text.bytes, scratch.options.parse_special)) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    const bool is_first = text.is_first && segment.text.data() == text.bytes.data();
    pre_tokenizer_.split({segment.text, is_first}, scratch.pre_tokenizer, encode_piece);
  }
}

void BpeTokenizer::decode_next(int32_t id, bool skip_special, DecodeState& state, std::string& text) const {
  require(id >= 0, "{} is not a token id", id);
  if (has_token(id) && !(skip_special && is_special(id))) decoder_.add(id, state, text);
}

void BpeTokenizer::decode_end(DecodeState& state, std::string& text) const {
  decoder_.finish(state, text);
}

int64_t BpeTokenizer::vocab_size() const {
  return static_cast<int64_t>(spec_.tokens.size());
}

bool BpeTokenizer::has_token(int32_t id) const {
  return id >= 0 && id < vocab_size() && spec_.tokens[static_cast<size_t>(id)].kind != TokenKind::hole;
}

std::string_view BpeTokenizer::bytes_of(int32_t id) const {
  require(has_token(id), "{}: no token has the id {} (ids run below {})", spec_.origin, id, vocab_size());
  return decoder_.bytes_of(id);
}

bool BpeTokenizer::is_special(int32_t id) const {
  return has_token(id) && special_[static_cast<size_t>(id)];
}

int32_t BpeTokenizer::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : found->second;
}

}  // namespace shadowkv
