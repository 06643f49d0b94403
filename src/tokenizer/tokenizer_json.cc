#include <algorithm>
#include <array>
#include <unordered_map>

#include "formats/json.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/tokenizer_json_parts.h"
#include "tokenizer/utf8.h"
#include "tokenizer/vocabulary_files.h"

namespace shadowkv {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{256} << 20;
constexpr int64_t kMaxDepth = 64;

using IdsByText = std::unordered_map<std::string_view, int32_t>;

// Where a file may name a feature without using it: null, false, "" and 0 are all off.
void require_off(const JsonPart& part, const char* key) {
  const Json* value = find_field(part, key);
  const auto* text = value ? value->get_ptr<const std::string*>() : nullptr;
  const bool off =
      value == nullptr || *value == false || (text && text->empty()) || *value == 0 || *value == 0.0;
  require(off, "{} sets '{}', which is not supported", part.name, key);
}

// The bytes of a token that stands in the alphabet of bytes; others decode to the characters they are written
// in.
TokenSpec make_token(const std::string& text) {
  std::optional<std::string> bytes = alphabet_to_bytes(text);
  if (bytes) return {TokenKind::model, std::move(*bytes)};
  return {TokenKind::added, text};
}

IdsByText read_vocab(const JsonPart& vocab, TokenizerSpec& spec) {
  require(vocab.value.is_object(), "{} is not an object", vocab.name);
  IdsByText ids;
  ids.reserve(vocab.value.size());
  for (const auto& [text, value] : vocab.value.items()) {
    require(value.is_number_integer(), "{}: the id of the token {} is not an integer", vocab.name,
            in_quotes(text));
    const int64_t id =
        get_integer({value, fmt::format("{}: the id of the token {}", vocab.name, in_quotes(text))});
    TokenSpec token = make_token(text);
    set_token(spec, id, token.kind, std::move(token.bytes));
    ids.emplace(text, static_cast<int32_t>(id));
  }
  return ids;
}

// ["a", "b"] or "a b".
std::pair<std::string_view, std::string_view> merge_sides(const Json& merge, const std::string& name) {
  if (merge.is_array()) {
    require(merge.size() == 2 && merge[0].is_string() && merge[1].is_string(), "{} is not a pair of strings",
            name);
    return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  }
  const std::string_view text = get_string({merge, name});
  const size_t space = text.find(' ');
  require(space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos,
          "{} ({}) is not two tokens with one space between them", name, in_quotes(text));
  return {text.substr(0, space), text.substr(space + 1)};
}

int32_t merge_token(const IdsByText& ids, std::string_view text, const std::string& name) {
  const auto found = ids.find(text);
  require(found != ids.end(), "{} needs the token {}, which the vocabulary lacks", name, in_quotes(text));
  return found->second;
}

void read_merges(const JsonPart& merges, const IdsByText& ids, TokenizerSpec& spec) {
  size_t index = 0;
  spec.merges.reserve(get_array(merges).size());
  for (const Json& merge : merges.value) {
    const std::string name = fmt::format("{}[{}]", merges.name, index++);
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto [left, right] = merge_sides(merge, name);
    const std::string whole = std::string(left) + std::string(right);
    spec.merges.push_back(
        {merge_token(ids, left, name), merge_token(ids, right, name), merge_token(ids, whole, name)});
  }
}

bool has_every_byte(const TokenizerSpec& spec) {
  std::array<bool, 256> seen{};
  for (const TokenSpec& token : spec.tokens) {
    if (token.kind == TokenKind::model && token.bytes.size() == 1) {
      seen[static_cast<unsigned char>(token.bytes[0])] = true;
    }
  }
  return std::find(seen.begin(), seen.end(), false) == seen.end();
}

IdsByText read_model(const JsonPart& model, TokenizerSpec& spec) {
  const std::string& type = get_string(get_field(model, "type"));
  require(type == "BPE", "{} is of type {}; only BPE is supported", model.name, in_quotes(type));
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"})
    require_off(model, key);
  IdsByText ids = read_vocab(get_field(model, "vocab"), spec);
  read_merges(get_field(model, "merges"), ids, spec);
  spec.ignore_merges = get_bool_or(model, "ignore_merges", false);
  spec.fuse_unknown = get_bool_or(model, "fuse_unk", false);
  if (find_field(model, "unk_token")) {
    const JsonPart unknown = get_field(model, "unk_token");
    spec.unknown_id = merge_token(ids, get_string(unknown), unknown.name);
  }
  require(!get_bool_or(model, "byte_fallback", false) || has_every_byte(spec),
          "{} sets 'byte_fallback' though its vocabulary does not hold all 256 bytes, which is not supported",
          model.name);
  return ids;
}

void read_added_token(const JsonPart& part, const IdsByText& ids, TokenizerSpec& spec) {
  const int64_t id = get_integer(get_field(part, "id"));
  const std::string& content = get_string(get_field(part, "content"));
  const bool is_normalized = get_bool(get_field(part, "normalized"));
  std::string written = content;  // a token that is looked for in normalized text decodes to normalized text
  if (is_normalized) {
    for (const UnicodeForm form : spec.normalizers) written = normalize(written, form);
  }
  const auto in_vocab = ids.find(content);
  if (in_vocab == ids.end()) {
    set_token(spec, id, TokenKind::added, make_token(written).bytes);
  } else {
    require(in_vocab->second == id, "{} gives {} the id {}, the vocabulary {}", part.name, in_quotes(content),
            id, in_vocab->second);
  }
  spec.added.push_back({.id = static_cast<int32_t>(id),
                        .content = content,
                        .special = get_bool(get_field(part, "special")),
                        .lstrip = get_bool(get_field(part, "lstrip")),
                        .rstrip = get_bool(get_field(part, "rstrip")),
                        .single_word = get_bool(get_field(part, "single_word")),
                        .normalized = is_normalized});
}

void read_added_tokens(const JsonPart& list, const IdsByText& ids, TokenizerSpec& spec) {
  size_t index = 0;
  for (const Json& token : get_array(list)) {
    read_added_token({token, fmt::format("{}[{}]", list.name, index++)}, ids, spec);
  }
}

}  // namespace

TokenizerSpec read_tokenizer_json(const std::filesystem::path& path) {
  const JsonDocument root =
      read_json_file(path, {.bytes = kMaxFileBytes, .depth = kMaxDepth, .unique_keys = true});
  TokenizerSpec spec;
  spec.origin = path.string();
  const JsonPart file{*root, spec.origin};
  for (const char* key : {"truncation", "padding"}) require_off(file, key);
  const Json null;
  const auto part = [&](const char* key) {
    const Json* value = find_field(file, key);
    return JsonPart{value ? *value : null, fmt::format("{}: the {}", spec.origin, key)};
  };
  read_normalizer(part("normalizer"), spec);  // before the added tokens, which may be normalized
  const IdsByText ids = read_model(get_field(file, "model"), spec);
  if (find_field(file, "added_tokens")) read_added_tokens(get_field(file, "added_tokens"), ids, spec);
  read_pre_tokenizer(part("pre_tokenizer"), spec);
  read_post_processor(part("post_processor"), spec);
  check_decoder(part("decoder"));
  check_spec(spec);
  return spec;
}

}  // namespace shadowkv
