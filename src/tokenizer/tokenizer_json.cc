#include "formats/json.h"
#include "tokenizer/added_token_reader.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/tokenizer_json_parts.h"
#include "tokenizer/vocabulary_files.h"

namespace shadowkv {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{256} << 20;
constexpr int64_t kMaxDepth = 64;

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
TokenSpec make_token(SymbolUnit unit, const std::string& text) {
  if (unit == SymbolUnit::character) return {TokenKind::model, text};
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
    TokenSpec token = make_token(spec.unit, text);
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
    spec.merges.push_back({merge_token(ids, left, name), merge_token(ids, right, name),
                           merge_token(ids, whole, name), static_cast<int32_t>(spec.merges.size())});
  }
}

void read_byte_fallback(const JsonPart& model, const IdsByText& ids, TokenizerSpec& spec) {
  if (!get_bool_or(model, "byte_fallback", false)) return;
  if (spec.unit == SymbolUnit::byte) {
    return require(
        find_missing_byte(spec) < 0,
        "{} sets 'byte_fallback' though its vocabulary does not hold all 256 bytes, which is not supported",
        model.name);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = ids.find(byte_token(static_cast<unsigned char>(byte)));
    spec.byte_fallback.push_back(found == ids.end() ? -1 : found->second);
  }
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
  read_byte_fallback(model, ids, spec);
  return ids;
}

void read_added_tokens(const JsonPart& list, const IdsByText& ids, TokenizerSpec& spec) {
  const bool bytes = spec.unit == SymbolUnit::byte;
  AddedTokenReader reader(
      ids, bytes ? AddedTokenReader::Writing::byte_alphabet : AddedTokenReader::Writing::plain, spec);
  size_t index = 0;
  for (const Json& value : get_array(list)) {
    const JsonPart token{value, fmt::format("{}[{}]", list.name, index++)};
    reader.read(token, get_integer(get_field(token, "id")));
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
  read_normalizer(part("normalizer"), spec);        // before the added tokens, which may be normalized
  read_pre_tokenizer(part("pre_tokenizer"), spec);  // before the model, whose unit it decides
  const IdsByText ids = read_model(get_field(file, "model"), spec);
  if (find_field(file, "added_tokens")) read_added_tokens(get_field(file, "added_tokens"), ids, spec);
  read_post_processor(part("post_processor"), spec);
  read_decoder(part("decoder"), spec);
  check_spec(spec);
  return spec;
}

}  // namespace shadowkv
