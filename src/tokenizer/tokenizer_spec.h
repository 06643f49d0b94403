// What a BPE tokenizer consists of, as plain data. The loaders fill it, BpeTokenizer runs it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace shadowkv {

// Ids of a file must lie below this; the largest vocabularies published have some 260,000 tokens.
inline constexpr int64_t kMaxVocabulary = int64_t{1} << 21;
// Longest written form of an added token, in bytes: bounds the work per byte of finding them in a text.
inline constexpr int64_t kMaxAddedTokenBytes = 1024;
// And in a normalized text.
inline constexpr int64_t kMaxNormalizedTokenBytes = 32 * kMaxAddedTokenBytes;
// Of the normalizer, the pre-tokenizer and the decoder, each.
inline constexpr int64_t kMaxSteps = 32;
// Longest text that a step puts in or looks for literally, in bytes.
inline constexpr int64_t kMaxStepTextBytes = 1024;
// Longest text that is encoded at once, as given and after each step of its normalization.
inline constexpr int64_t kMaxTextBytes = int64_t{1} << 30;

// What merges start from. Vocabularies of characters write a space as another character, most often U+2581,
// and spell characters that they lack as one token a byte.
enum class SymbolUnit : uint8_t { byte, character };

enum class TokenKind : uint8_t {
  hole,   // no token has this id
  model,  // made by merges
  added   // only found whole in the text, or never
};

struct TokenSpec {
  TokenKind kind = TokenKind::hole;
  std::string bytes;  // as it stands in a normalized text; the decoder's steps make of it what it decodes to
};

struct MergeSpec {
  int32_t left, right, merged;  // ids
  int32_t rank;                 // the lowest goes first; of equal ones the leftmost
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

struct NormalizerStep {
  enum class Kind : uint8_t { nfc, nfkc, prepend, replace } kind = Kind::nfc;
  std::string pattern = {};  // of replace: a regular expression in Oniguruma's dialect
  std::string content = {};  // of prepend (before a text that is not empty) and replace
};

enum class SplitBehavior : uint8_t { isolated, removed, merged_with_previous, merged_with_next, contiguous };

struct PreTokenizerStep {
  enum class Kind : uint8_t { split, replace, prefix } kind = Kind::split;
  std::string pattern = {};  // of split and replace: a regular expression in Oniguruma's dialect
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;       // what lies between the matches counts as match
  std::string content = {};  // of replace, and of prefix: put before a piece that does not begin with it
  bool first_only = false;   // of prefix: only before the piece that the text begins with
};

// Of each token by itself: what stands in the place of what `pattern` matches.
struct DecoderReplacement {
  std::string pattern;
  std::string content;
  std::string first_content;  // in the first token of a text
};

struct DecoderSpec {
  std::vector<DecoderReplacement> replacements;
  bool byte_fallback = false;  // then a token <0xXX> is a byte
  std::string strip = {};      // a character that is taken off the beginning of a text,
  int64_t strip_count = 0;     // at most so often
};

struct TokenizerSpec {
  std::string origin;  // the file, for messages
  SymbolUnit unit = SymbolUnit::byte;
  std::vector<TokenSpec> tokens;
  std::vector<MergeSpec> merges;  // of a pair listed twice the last counts
  std::vector<AddedTokenSpec> added;
  std::vector<NormalizerStep> normalizers;
  std::vector<PreTokenizerStep> pre_tokenizers;
  DecoderSpec decoder;
  bool ignore_merges =
      false;  // a whole piece that is a token stays whole even where merges would not give it
  // Ids by byte, for characters without token; empty: none. -1: no token, and a character that needs it is
  // unknown as a whole.
  std::vector<int32_t> byte_fallback;
  int32_t unknown_id = -1;      // for a byte or character without token; -1: such a one is left out
  bool fuse_unknown = false;    // neighbouring unknown ones give one id
  std::vector<int32_t> prefix;  // ids around a text
  std::vector<int32_t> suffix;
};

using IdsByText = std::unordered_map<std::string_view, int32_t>;

// Gives `id` its token; throws InvalidInput when the id is out of range or taken.
void set_token(TokenizerSpec& spec, int64_t id, TokenKind kind, std::string bytes);

// The least byte that is no token by itself; -1: all are.
[[nodiscard]] int find_missing_byte(const TokenizerSpec& spec);

// "<0x0A>": how vocabularies of characters write a token that is one byte.
[[nodiscard]] std::string byte_token(unsigned char byte);
// The byte that `token` stands for, in digits of either case; -1 for any other text.
[[nodiscard]] int byte_of_token(std::string_view token);

// Throws InvalidInput when an id that the spec refers to has no token, an added token is empty, too long, or
// listed twice, or there are too many steps or too long ones.
void check_spec(const TokenizerSpec& spec);

}  // namespace shadowkv
