#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>

#include "base/check.h"
#include "formats/json.h"
#include "formats/mapped_file.h"
#include "tokenizer/added_token_reader.h"
#include "tokenizer/known_patterns.h"
#include "tokenizer/ranked_merges.h"
#include "tokenizer/vocabulary_files.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

// What a file's name says; the ranks themselves do not tell how texts are cut.
struct Family {
  std::string_view file_name;
  std::string_view pattern;
  bool nfc = false;
  // Special tokens by the ids after the ranks, then <|extra_0|>, <|extra_1|>, ..: where no
  // tokenizer_config.json lists any.
  std::array<std::string_view, 3> specials = {};
  int extras = 0;
};

constexpr Family kFamilies[] = {
    {"qwen.tiktoken", kQwen2Pattern, true, {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, 205},
    {"cl100k_base.tiktoken", kLlama3Pattern},
    {"o200k_base.tiktoken", kO200kPattern},
    {"tokenizer.model", kLlama3Pattern}};  // Llama 3's and GLM-4's

// What goes before each text where the vocabulary has these special tokens.
constexpr std::array<std::string_view, 2> kOpenings[] = {{"<|begin_of_text|>"}, {"[gMASK]", "<sop>"}};

const Family& find_family(const fs::path& path) {
  const std::string name = path.filename().string();
  const auto* known = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                   [&](const Family& f) { return f.file_name == name; });
  if (known != std::end(kFamilies)) return *known;
  std::string names;
  for (const Family& f : kFamilies) names += fmt::format("{}{}", names.empty() ? "" : ", ", f.file_name);
  throw InvalidInput(
      fmt::format("{}: a rank file does not say how texts are cut, and the name {} is unknown; "
                  "known are {}",
                  path.string(), in_quotes(name), names));
}

struct Rank {
  std::string bytes;
  int64_t rank;
};

int digit_of(char c) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const size_t digit = kDigits.find(c);
  return digit == std::string_view::npos ? -1 : static_cast<int>(digit);
}

// nullopt for what is not base64, padded to a multiple of four.
std::optional<std::string> decode_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  for (int padding = 0; padding < 2 && text.ends_with('='); ++padding) text.remove_suffix(1);
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const int digit = digit_of(c);
    if (digit < 0) return std::nullopt;
    bits = (bits << 6) | static_cast<uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<char>((bits >> count) & 0xFF));
  }
  return bytes;
}

// nullopt for what is not a token in base64, a space and its rank.
std::optional<Rank> parse_line(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  const std::optional<std::string> bytes = decode_base64(line.substr(0, space));
  const std::string_view number = line.substr(space + 1);
  int64_t rank = -1;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), rank);
  if (!bytes || bytes->empty() || error != std::errc() || end != number.data() + number.size())
    return std::nullopt;
  return Rank{*bytes, rank};
}

std::string_view next_line(std::string_view& text) {
  const size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

std::vector<Rank> read_ranks(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  require(std::ssize(bytes) <= kMaxFileBytes, "{} has {} bytes; at most {} are supported for a rank file",
          path.string(), bytes.size(), kMaxFileBytes);
  std::vector<Rank> ranks;
  std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (int64_t number = 1; !rest.empty(); ++number) {
    const std::string_view line = next_line(rest);
    if (line.empty()) continue;
    std::optional<Rank> rank = parse_line(line);
    require(rank.has_value(), "{}: line {} ({}) is not a token in base64, a space and its rank",
            path.string(), number, in_quotes(line));
    ranks.push_back(std::move(*rank));
  }
  return ranks;
}

// Keys are views into `ranks`.
IdsByText add_tokens(const std::vector<Rank>& ranks, TokenizerSpec& spec) {
  IdsByText ids;
  ids.reserve(ranks.size());
  for (const Rank& rank : ranks) {
    set_token(spec, rank.rank, TokenKind::model, rank.bytes);
    const bool is_new = ids.emplace(rank.bytes, static_cast<int32_t>(rank.rank)).second;
    require(is_new, "{}: the token {} has two ranks, {} and {}", spec.origin, in_quotes(rank.bytes),
            ids.at(rank.bytes), rank.rank);
  }
  const int missing = find_missing_byte(spec);
  require(missing < 0, "{}: the byte {} is no token, which the ranks of bytes need", spec.origin,
          byte_token(static_cast<unsigned char>(missing)));
  return ids;
}

void add_merges(TokenizerSpec& spec) {
  std::vector<int32_t> ranks(spec.tokens.size());
  for (size_t id = 0; id < ranks.size(); ++id) ranks[id] = static_cast<int32_t>(id);
  add_ranked_merges(ranks, spec);
}

void add_special(const std::string& content, TokenizerSpec& spec) {
  const auto id = static_cast<int64_t>(spec.tokens.size());
  set_token(spec, id, TokenKind::added, content);
  spec.added.push_back({.id = static_cast<int32_t>(id), .content = content, .special = true});
}

void add_specials(const Family& family, TokenizerSpec& spec) {
  for (const std::string_view content : family.specials) {
    if (!content.empty()) add_special(std::string(content), spec);
  }
  for (int i = 0; i < family.extras; ++i) add_special(fmt::format("<|extra_{}|>", i), spec);
}

void add_listed_tokens(const JsonPart& list, const IdsByText& ids, TokenizerSpec& spec) {
  require(list.value.is_object(), "{} is not an object", list.name);
  AddedTokenReader reader(ids, AddedTokenReader::Writing::plain, spec);
  for (const auto& [key, value] : list.value.items()) {
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    require(error == std::errc() && end == key.data() + key.size(), "{}: the key {} is not a token id",
            list.name, in_quotes(key));
    reader.read({value, fmt::format("{} of {}", in_quotes(key), list.name)}, id);
  }
}

void add_opening(TokenizerSpec& spec) {
  for (const auto& opening : kOpenings) {
    std::vector<int32_t> ids;
    for (const std::string_view content : opening) {
      const auto found = std::find_if(spec.added.begin(), spec.added.end(),
                                      [&](const AddedTokenSpec& token) { return token.content == content; });
      if (found != spec.added.end()) ids.push_back(found->id);
    }
    const auto wanted =
        std::count_if(opening.begin(), opening.end(), [](auto text) { return !text.empty(); });
    if (static_cast<std::ptrdiff_t>(ids.size()) == wanted) {
      spec.prefix = ids;
      return;
    }
  }
}

// What stands beside the ranks; the file may be missing.
void read_config(const fs::path& path, const Family& family, const IdsByText& ids, TokenizerSpec& spec) {
  std::error_code error;
  const JsonDocument config = fs::exists(path, error)
                                  ? read_json_file(path, {.bytes = kMaxConfigBytes, .unique_keys = true})
                                  : parse_json("{}", path.string());
  const JsonPart file{*config, path.string()};
  if (find_field(file, "added_tokens_decoder")) {
    add_listed_tokens(get_field(file, "added_tokens_decoder"), ids, spec);
  } else {
    add_specials(family, spec);
  }
  if (get_bool_or(file, "add_bos_token", true)) add_opening(spec);
}

}  // namespace

bool is_rank_file(const fs::path& path) {
  std::array<char, 4096> start{};
  std::ifstream file(path, std::ios::binary);
  file.read(start.data(), start.size());
  std::string_view text(start.data(), static_cast<size_t>(file.gcount()));
  return parse_line(next_line(text)).has_value();
}

TokenizerSpec read_rank_file(const fs::path& path) {
  TokenizerSpec spec;
  spec.origin = path.string();
  const Family& family = find_family(path);
  require(
      is_rank_file(path),
      "{} does not begin with a token in base64, a space and its rank; a SentencePiece model is read from "
      "tokenizer.json or GGUF instead",
      spec.origin);
  const std::vector<Rank> ranks = read_ranks(path);
  const IdsByText ids = add_tokens(ranks, spec);
  add_merges(spec);
  spec.ignore_merges = true;
  if (family.nfc) spec.normalizers.push_back({.kind = NormalizerStep::Kind::nfc});
  spec.pre_tokenizers.push_back({.pattern = std::string(family.pattern)});
  read_config(path.parent_path() / "tokenizer_config.json", family, ids, spec);
  check_spec(spec);
  return spec;
}

}  // namespace shadowkv
