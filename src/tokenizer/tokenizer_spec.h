// What a byte-level BPE tokenizer consists of, as plain data. The loaders fill it, BpeTokenizer runs it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/normalize.h"

namespace shadowkv {

// Ids of a file must lie below this; the largest vocabularies published have some 260,000 tokens.
inline constexpr int64_t kMaxVocabulary = int64_t{1} << 21;
// Longest written form of an added token, in bytes: bounds the work per byte of finding them in a text.
inline constexpr int64_t kMaxAddedTokenBytes = 1024;
inline constexpr int64_t kMaxPreTokenizerSteps = 32;

enum class TokenKind : uint8_t {
  hole,   // no token has this id
  model,  // made by merges
  added   // only found whole in the text, or never
};

struct TokenSpec {
  TokenKind kind = TokenKind::hole;
  std::string bytes;  // what it decodes to
};

struct MergeSpec {
  int32_t left, right, merged;  // ids; the place in the list is the rank
};

struct AddedTokenSpec {
  int32_t id = 0;
  std::string content = {};
  bool special = false;
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool single_word = false;  // not where it touches a word character
  bool normalized = false;   // looked for in the normalized text
};

enum class SplitBehavior : uint8_t { isolated, removed, merged_with_previous, merged_with_next, contiguous };

struct PreTokenizerStep {
  enum class Kind : uint8_t { split, prefix_space } kind = Kind::split;
  std::string pattern = {};  // of split: a regular expression in Oniguruma's dialect
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;  // what lies between the matches counts as match
};

struct TokenizerSpec {
  std::string origin;  // the file, for messages
  std::vector<TokenSpec> tokens;
  std::vector<MergeSpec> merges;  // a pair listed twice has its last rank
  std::vector<AddedTokenSpec> added;
  std::vector<UnicodeForm> normalizers;
  std::vector<PreTokenizerStep> pre_tokenizers;
  bool ignore_merges =
      false;                  // a whole piece that is a token stays whole even where merges would not give it
  int32_t unknown_id = -1;    // for a byte without token; -1: such a byte is left out
  bool fuse_unknown = false;  // neighbouring unknown bytes give one id
  std::vector<int32_t> prefix;  // ids around a text
  std::vector<int32_t> suffix;
};

// The splits that ByteLevel makes by itself, as GPT-2 does.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Gives `id` its token; throws InvalidInput when the id is out of range or taken.
void set_token(TokenizerSpec& spec, int64_t id, TokenKind kind, std::string bytes);

// Throws InvalidInput when an id that the spec refers to has no token, or an added token is empty, too long,
// or listed twice.
void check_spec(const TokenizerSpec& spec);

}  // namespace shadowkv
