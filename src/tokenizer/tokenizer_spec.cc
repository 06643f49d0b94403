#include "tokenizer/tokenizer_spec.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_set>

#include "base/check.h"
#include "base/utf8.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

void check_id(const TokenizerSpec& spec, int64_t id, std::string_view role) {
  const auto size = static_cast<int64_t>(spec.tokens.size());
  require(id >= 0 && id < size && spec.tokens[static_cast<size_t>(id)].kind != TokenKind::hole,
          "{}: {} has id {}, which no token of the vocabulary has (ids run below {})", spec.origin, role, id,
          size);
}

void check_added(const TokenizerSpec& spec) {
  std::unordered_set<int32_t> ids;
  std::unordered_set<std::string_view> contents;
  for (const AddedTokenSpec& token : spec.added) {
    require(!token.content.empty(), "{}: the added token with id {} has no content", spec.origin, token.id);
    require(static_cast<int64_t>(token.content.size()) <= kMaxAddedTokenBytes,
            "{}: the added token with id {} has {} bytes; at most {} are supported", spec.origin, token.id,
            token.content.size(), kMaxAddedTokenBytes);
    require(!find_invalid_utf8(token.content), "{}: the added token with id {} is not valid UTF-8",
            spec.origin, token.id);
    check_id(spec, token.id, "an added token");
    require(ids.insert(token.id).second, "{}: the id {} is listed twice among the added tokens", spec.origin,
            token.id);
    require(contents.insert(token.content).second, "{}: the added token {} is listed twice", spec.origin,
            in_quotes(token.content));
  }
}

void check_step_count(const TokenizerSpec& spec, std::string_view part, size_t count) {
  require(static_cast<int64_t>(count) <= kMaxSteps, "{}: the {} has {} steps; at most {} are supported",
          spec.origin, part, count, kMaxSteps);
}

void check_step_text(const TokenizerSpec& spec, std::string_view part, std::string_view text) {
  require(static_cast<int64_t>(text.size()) <= kMaxStepTextBytes,
          "{}: the {} puts in {} bytes at once; at most {} are supported", spec.origin, part, text.size(),
          kMaxStepTextBytes);
}

void check_steps(const TokenizerSpec& spec) {
  check_step_count(spec, "normalizer", spec.normalizers.size());
  for (const NormalizerStep& step : spec.normalizers) check_step_text(spec, "normalizer", step.content);
  check_step_count(spec, "pre-tokenizer", spec.pre_tokenizers.size());
  for (const PreTokenizerStep& step : spec.pre_tokenizers)
    check_step_text(spec, "pre-tokenizer", step.content);
  check_step_count(spec, "decoder", spec.decoder.replacements.size());
  for (const DecoderReplacement& step : spec.decoder.replacements)
    check_step_text(spec, "decoder", step.content);
}

}  // namespace

int find_missing_byte(const TokenizerSpec& spec) {
  std::array<bool, 256> seen{};
  for (const TokenSpec& token : spec.tokens) {
    if (token.kind == TokenKind::model && token.bytes.size() == 1) {
      seen[static_cast<unsigned char>(token.bytes[0])] = true;
    }
  }
  const auto* missing = std::find(seen.begin(), seen.end(), false);
  return missing == seen.end() ? -1 : static_cast<int>(missing - seen.begin());
}

std::string byte_token(unsigned char byte) {
  return fmt::format("<0x{:02X}>", byte);
}

int byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int byte = -1;
  const auto [end, error] = std::from_chars(&token[3], &token[5], byte, 16);
  return error == std::errc() && end == &token[5] && token[3] != '-' ? byte : -1;
}

void set_token(TokenizerSpec& spec, int64_t id, TokenKind kind, std::string bytes) {
  require(id >= 0 && id < kMaxVocabulary, "{}: the token id {} is out of range (0 to {})", spec.origin, id,
          kMaxVocabulary - 1);
  const auto index = static_cast<size_t>(id);
  if (index >= spec.tokens.size()) spec.tokens.resize(index + 1);
  require(spec.tokens[index].kind == TokenKind::hole, "{}: two tokens have the id {}", spec.origin, id);
  spec.tokens[index] = {kind, std::move(bytes)};
}

void check_spec(const TokenizerSpec& spec) {
  require(!spec.tokens.empty(), "{}: the vocabulary is empty", spec.origin);
  check_added(spec);
  for (const MergeSpec& merge : spec.merges) {
    for (const int32_t id : {merge.left, merge.right, merge.merged}) check_id(spec, id, "a merge");
  }
  if (spec.unknown_id >= 0) check_id(spec, spec.unknown_id, "the unknown token");
  for (const int32_t id : spec.prefix) check_id(spec, id, "a token put before each text");
  for (const int32_t id : spec.suffix) check_id(spec, id, "a token put after each text");
  for (const int32_t id : spec.byte_fallback) {
    if (id >= 0) check_id(spec, id, "the token of a byte");
  }
  check_steps(spec);
}

}  // namespace shadowkv
