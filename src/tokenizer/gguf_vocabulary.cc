#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "base/check.h"
#include "base/utf8.h"
#include "formats/gguf.h"
#include "formats/quote.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/known_patterns.h"
#include "tokenizer/ranked_merges.h"
#include "tokenizer/vocabulary_files.h"

namespace shadowkv {
namespace {

// `tokenizer.ggml.token_type`.
constexpr int64_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6;

// What a value of `tokenizer.ggml.pre` stands for.
struct Family {
  std::string_view name;
  std::array<std::string_view, 4> patterns;  // one after the other, empty ones last
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;  // where the file does not say
};

constexpr Family kFamilies[] = {
    {"gpt-2", {kGpt2Pattern}},
    {"gpt2", {kGpt2Pattern}},
    {"phi-2", {kGpt2Pattern}},
    {"olmo", {kGpt2Pattern}},
    {"smollm", {kDigitPattern, kGpt2Pattern}},
    {"starcoder", {kDigitPattern, kGpt2Pattern}},
    {"refact", {kDigitPattern, kGpt2Pattern}},
    {"codeshell", {kDigitPattern, kGpt2Pattern}},
    {.name = "llama-bpe", .patterns = {kLlama3Pattern}, .ignore_merges = true, .add_bos = true},
    {.name = "llama3", .patterns = {kLlama3Pattern}, .ignore_merges = true, .add_bos = true},
    {.name = "llama-v3", .patterns = {kLlama3Pattern}, .ignore_merges = true, .add_bos = true},
    {"glm4", {kLlama3Pattern}},
    {"chatglm-bpe", {kLlama3Pattern}},
    {.name = "qwen2", .patterns = {kQwen2Pattern}, .nfc = true},
    {"deepseek-r1-qwen", {kQwen2Pattern}},
    {"default", {kDefaultPunctuation, kDefaultWords, kDefaultNumber, kDefaultTriple}}};

const Family& find_family(const std::string& origin, const std::string& name) {
  const auto* known = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                   [&](const Family& f) { return f.name == name; });
  if (known != std::end(kFamilies)) return *known;
  std::string names;
  for (const Family& family : kFamilies) names += fmt::format("{}{}", names.empty() ? "" : ", ", family.name);
  throw InvalidInput(fmt::format("{}: the pre-tokenizer {} (tokenizer.ggml.pre) is unknown; known are {}",
                                 origin, in_quotes(name), names));
}

void apply_family(const Family& family, TokenizerSpec& spec) {
  for (const std::string_view pattern : family.patterns) {
    if (!pattern.empty()) spec.pre_tokenizers.push_back({.pattern = std::string(pattern)});
  }
  if (family.nfc) spec.normalizers.push_back({.kind = NormalizerStep::Kind::nfc});
  spec.ignore_merges = family.ignore_merges;
}

void add_normal_token(int64_t id, const std::string& text, TokenizerSpec& spec) {
  if (spec.unit == SymbolUnit::character) {
    require(!find_invalid_utf8(text), "{}: the token {} ({}) is not valid UTF-8", spec.origin, id,
            in_quotes(text));
    return set_token(spec, id, TokenKind::model, text);
  }
  const std::optional<std::string> bytes = alphabet_to_bytes(text);
  const TokenKind kind = bytes ? TokenKind::model : TokenKind::added;
  set_token(spec, id, kind, bytes ? *bytes : text);
}

void add_byte_token(int64_t id, const std::string& text, TokenizerSpec& spec) {
  const int byte = byte_of_token(text);
  require(byte >= 0, "{}: the token {} ({}) has the type of a byte but is not written as one, like <0x0A>",
          spec.origin, id, in_quotes(text));
  spec.byte_fallback.resize(256, -1);
  int32_t& place = spec.byte_fallback[static_cast<size_t>(byte)];
  require(place < 0, "{}: the tokens {} and {} are the same byte, {}", spec.origin, place, id, text);
  place = static_cast<int32_t>(id);
  set_token(spec, id, TokenKind::added, text);
}

void add_token(int64_t id, const std::string& text, int64_t type, TokenizerSpec& spec) {
  if (type == kUnused) return;
  if (type == kNormal) return add_normal_token(id, text, spec);
  if (type == kByte && spec.unit == SymbolUnit::character) return add_byte_token(id, text, spec);
  require(type == kUnknown || type == kControl || type == kUserDefined,
          "{}: the token {} has the type {} (tokenizer.ggml.token_type), which {}", spec.origin, id, type,
          spec.unit == SymbolUnit::byte ? "a byte-level vocabulary does not have" : "is unknown");
  set_token(spec, id, TokenKind::added, text);
  spec.added.push_back({.id = static_cast<int32_t>(id), .content = text, .special = type != kUserDefined});
  if (type == kUnknown && spec.unit == SymbolUnit::character) spec.unknown_id = static_cast<int32_t>(id);
}

IdsByText add_tokens(const GgufFile& file, const std::vector<std::string>& tokens, TokenizerSpec& spec) {
  const auto types = file.get_or<std::vector<int64_t>>("tokenizer.ggml.token_type",
                                                       std::vector<int64_t>(tokens.size(), kNormal));
  require(types.size() == tokens.size(),
          "{}: tokenizer.ggml.tokens has {} entries, tokenizer.ggml.token_type {}", spec.origin,
          tokens.size(), types.size());
  require(static_cast<int64_t>(tokens.size()) <= kMaxVocabulary,
          "{}: {} tokens are more than the {} supported", spec.origin, tokens.size(), kMaxVocabulary);
  IdsByText ids;
  ids.reserve(tokens.size());
  spec.tokens.resize(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    add_token(static_cast<int64_t>(id), tokens[id], types[id], spec);
    if (types[id] == kUnused) continue;
    const bool is_new = ids.emplace(tokens[id], static_cast<int32_t>(id)).second;
    require(is_new, "{}: the token {} has two ids, {} and {}", spec.origin, in_quotes(tokens[id]),
            ids.at(tokens[id]), id);
  }
  return ids;
}

int32_t merge_token(const TokenizerSpec& spec, const IdsByText& ids, const std::string& text, size_t index) {
  const auto found = ids.find(text);
  if (found != ids.end()) return found->second;
  throw InvalidInput(fmt::format("{}: merge {} needs the token {}, which the vocabulary lacks", spec.origin,
                                 index, in_quotes(text)));
}

void add_merges(const std::vector<std::string>& merges, const IdsByText& ids, TokenizerSpec& spec) {
  spec.merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t space = merges[i].find(' ', 1);
    require(space != std::string::npos && merges[i].find(' ', space + 1) == std::string::npos,
            "{}: merge {} ({}) is not two tokens with one space between them", spec.origin, i,
            in_quotes(merges[i]));
    const std::string left = merges[i].substr(0, space);
    const std::string right = merges[i].substr(space + 1);
    spec.merges.push_back({merge_token(spec, ids, left, i), merge_token(spec, ids, right, i),
                           merge_token(spec, ids, left + right, i), static_cast<int32_t>(i)});
  }
}

// By token: how many different scores are higher.
std::vector<int32_t> ranks_of(const std::vector<double>& scores) {
  std::vector<double> descending(scores);
  std::sort(descending.begin(), descending.end(), std::greater<>());
  descending.erase(std::unique(descending.begin(), descending.end()), descending.end());
  std::vector<int32_t> ranks;
  ranks.reserve(scores.size());
  for (const double score : scores) {
    const auto place = std::lower_bound(descending.begin(), descending.end(), score, std::greater<>());
    ranks.push_back(static_cast<int32_t>(place - descending.begin()));
  }
  return ranks;
}

void add_scored_merges(const GgufFile& file, TokenizerSpec& spec) {
  const auto scores = file.get<std::vector<double>>("tokenizer.ggml.scores");
  require(scores.size() == spec.tokens.size(),
          "{}: tokenizer.ggml.tokens has {} entries, tokenizer.ggml.scores {}", spec.origin,
          spec.tokens.size(), scores.size());
  for (size_t id = 0; id < scores.size(); ++id) {
    require(!std::isnan(scores[id]), "{}: the score of the token {} (tokenizer.ggml.scores) is not a number",
            spec.origin, id);
  }
  add_ranked_merges(ranks_of(scores), spec);
}

int32_t token_key(const GgufFile& file, const TokenizerSpec& spec, const char* key) {
  const auto id = file.get<int64_t>(key);
  require(id >= 0 && id < static_cast<int64_t>(spec.tokens.size()),
          "{}: {} is {}, outside of the vocabulary ({})", spec.origin, key, id, spec.tokens.size());
  return static_cast<int32_t>(id);
}

void add_ends(const GgufFile& file, bool bos_by_default, TokenizerSpec& spec) {
  if (file.get_or("tokenizer.ggml.add_bos_token", bos_by_default)) {
    spec.prefix.push_back(token_key(file, spec, "tokenizer.ggml.bos_token_id"));
  }
  if (file.get_or("tokenizer.ggml.add_eos_token", false)) {
    spec.suffix.push_back(token_key(file, spec, "tokenizer.ggml.eos_token_id"));
  }
}

void read_byte_level(const GgufFile& file, TokenizerSpec& spec) {
  const Family& family = find_family(spec.origin, file.get<std::string>("tokenizer.ggml.pre"));
  apply_family(family, spec);
  require(!file.get_or("tokenizer.ggml.add_space_prefix", false),
          "{}: tokenizer.ggml.add_space_prefix is set, which a byte-level vocabulary does not support",
          spec.origin);
  const auto tokens = file.get<std::vector<std::string>>("tokenizer.ggml.tokens");
  const IdsByText ids = add_tokens(file, tokens, spec);
  add_merges(file.get<std::vector<std::string>>("tokenizer.ggml.merges"), ids, spec);
  add_ends(file, family.add_bos, spec);
}

// As SentencePiece does it, for which spaces are another character.
void read_scored(const GgufFile& file, TokenizerSpec& spec) {
  constexpr std::string_view kSpace = "\u2581";
  spec.unit = SymbolUnit::character;
  const auto tokens = file.get<std::vector<std::string>>("tokenizer.ggml.tokens");
  (void)add_tokens(file, tokens, spec);
  add_scored_merges(file, spec);
  spec.fuse_unknown = true;
  spec.decoder.replacements.push_back({std::string(kSpace), " ", " "});
  spec.decoder.byte_fallback = true;
  if (file.get_or("tokenizer.ggml.add_space_prefix", true)) {
    spec.normalizers.push_back({.kind = NormalizerStep::Kind::prepend, .content = std::string(kSpace)});
    spec.decoder.strip.assign(1, ' ');
    spec.decoder.strip_count = 1;
  }
  spec.normalizers.push_back(
      {.kind = NormalizerStep::Kind::replace, .pattern = " ", .content = std::string(kSpace)});
  add_ends(file, true, spec);
}

}  // namespace

TokenizerSpec read_gguf_vocabulary(const GgufFile& file) {
  TokenizerSpec spec;
  spec.origin = file.path().string();
  const auto model = file.get<std::string>("tokenizer.ggml.model");
  require(model == "gpt2" || model == "llama",
          "{}: the tokenizer {} (tokenizer.ggml.model) is not supported; only \"gpt2\" and \"llama\" are",
          spec.origin, in_quotes(model));
  if (model == "gpt2") {
    read_byte_level(file, spec);
  } else {
    read_scored(file, spec);
  }
  check_spec(spec);
  return spec;
}

}  // namespace shadowkv
